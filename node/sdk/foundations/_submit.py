"""`submit` and `deploy`: a directory and a command become a job, by running `fnode submit`."""

from __future__ import annotations

import json
import os
import shlex
import sys

from . import _client, _config, _console, _home, _job_config
from ._errors import ConfigurationError, NoDaemonError, SubmissionError
from ._jobs import Deployment
from ._parameters import PARAMETERS_FILE
from ._values import json_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, List, Mapping, Optional, Sequence, Union

_SCHEDULER = "scheduler"
# Seconds that accepting a job may take: a large directory is read and sent in that time.
TIMEOUT_S = 3600.0
# Parameters ride in the log with the submission up to so many bytes; larger ones only lie in the directory.
_PARAMS_MAX = 100 << 10
# Megabytes of a bundle that are worth a word, and a stronger one.
_LARGE_MB = ((500, "very large"), (100, "large"), (50, "rather large"))


def submit(
    *,
    scheduler_config: Optional[str] = None,
    job_directory: Optional[str] = None,
    job_dir: Optional[str] = None,
    project_name: Optional[str] = None,
    entrypoint: Optional[str] = None,
    params: Optional[Mapping[str, Any]] = None,
    ram: Optional[float] = None,
    num_gpus: Optional[int] = None,
    stream_job_logs: Optional[bool] = None,
    command: Union[None, str, Sequence[str]] = None,
) -> Deployment:
    """Submits a directory as a job; it gets a copy of the directory as it is now.

    Each value comes from the argument, else from ``job.config.yaml`` in the directory, else from
    `set_project_name` and `set_job_resources`, else from its default.

    :param scheduler_config: ``scheduler`` unless given, or the name of a file in ``config/submission/``: all mean this cluster.
    :param job_directory: the working directory unless given; ``job_dir`` is its older name.
    :param project_name: the directory's name unless given.
    :param entrypoint: the program that is given `command`, instead of Python; a script in job.config.yaml counts
        only where `command` names none.
    :param params: become ``foundations_job_parameters.json`` in the directory.
    :param ram: memory in gigabytes (10**9 bytes).
    :param num_gpus: graphics processors; 0 unless given.
    :param stream_job_logs: print the job's output until it ends.
    :param command: words, or one text; a first word ``*.py`` is run with Python. ``main.py`` unless given.
    :returns: the job.
    :raises ConfigurationError: a `ValueError`; no such directory or configuration, or job.config.yaml is wrong.
    :raises NoDaemonError: no daemon runs on this machine.
    :raises SubmissionError: the job was not accepted; the text says why.

    Example::

        import foundations
        job = foundations.submit(job_directory=".", command=["main.py", "--epochs", "3"], params={"rate": 0.1})
        job.wait_for_deployment_to_complete()
    """
    # None was the default of every argument, and wrappers of users pass it on.
    scheduler_config = scheduler_config or _SCHEDULER
    _check_configs(_config.find_submission_config(scheduler_config))
    if scheduler_config not in _config.BUILT_IN and _config.find_submission_config(scheduler_config) is None:
        raise ConfigurationError("Could not find submission configuration with name: `{}`".format(scheduler_config))
    directory = _directory(job_directory if job_directory is not None else job_dir)
    config = _job_config.read(directory)
    words = _words(command)
    program = _words(entrypoint if entrypoint is not None else _program(config.entrypoint, words))
    words = words or ([] if program else ["main.py"])
    request = _request(directory, config, project_name, params, ram, num_gpus)
    request["command"] = _runnable(program + words, directory)
    request["end_points"] = _config.end_points(_config.find_submission_config(scheduler_config))
    job = _launch(request)
    _console.info("Job submitted with ID '{}' in project '{}'.".format(job.job_name(), request["project"]))
    if stream_job_logs:
        follow(job)
    return job


def deploy(
    project_name: Optional[str] = None,
    env: str = "local",
    entrypoint: str = "main.py",
    job_directory: Optional[str] = None,
    params: Optional[Mapping[str, Any]] = None,
) -> Deployment:
    """Submits a directory as a job, with the arguments of earlier Foundations.

    :param env: ``local`` returns when the job has ended, as it did; ``scheduler``, or the name of a file in
        ``config/``, returns once the job is accepted. All run in this cluster.
    :param entrypoint: a script of the directory, also as ``package.module``; it runs as ``__main__``.
    :returns, raises: as `submit`.

    Example::

        import foundations
        job = foundations.deploy(project_name="mnist", env="scheduler", entrypoint="main.py")
        print(job.get_job_status())
    """
    _check_configs(_config.find_environment(env))
    if env not in _config.BUILT_IN and _config.find_environment(env) is None:
        raise ConfigurationError(
            "Could not find environment `{}`; see those that exist with `foundations info --env`".format(env)
        )
    directory = _directory(job_directory)
    config = _job_config.read(directory)
    request = _request(directory, config, project_name, params, None, None)
    request["command"] = _as_module(_runnable([_script(entrypoint, directory)], directory), directory)
    request["end_points"] = _config.end_points(_config.find_environment(env))
    job = _launch(request, local=env == "local")
    _console.info("Job '{}' deployed.".format(job.job_name()))
    if env == "local":
        job.wait_for_deployment_to_complete(log_output=False)
    return job


def follow(job: Deployment) -> None:
    """Prints a job's output until it ends; Ctrl-C leaves it running."""
    _console.info("Job queued. Ctrl-C to stop streaming - job will not be interrupted or cancelled.")
    for line in job._lines(lambda: _console.info("Job running, streaming logs.")):
        sys.stdout.write(line + "\n")
        sys.stdout.flush()
    failed = job.get_true_job_status() == "failed"
    _console.info("Job '{}' has {}.".format(job.job_name(), "failed" if failed else "completed"))


def _check_configs(found: Optional[str]) -> None:
    """Reads the configuration that is asked for, and that of plain scripts beside it: nothing in them changes where a
    job runs, but a slip in one is something that its author wants to know of."""
    for path in (found, _config.find_execution_config()):
        if path is not None:
            _config.end_points(path)


def _program(entrypoint: Optional[str], command: List[str]) -> Optional[str]:
    """The entrypoint of job.config.yaml: a program that is given the command. Where both are scripts, the one that
    was asked for now is meant."""
    first = (_words(entrypoint) or [""])[0]
    return None if first.endswith(".py") and command and command[0].endswith(".py") else entrypoint


def _directory(given: Optional[str]) -> str:
    directory = os.path.abspath(os.fspath(given) if given is not None else os.curdir)
    if not os.path.isdir(directory):
        raise ConfigurationError(
            "{} is not a directory; give the one that holds the job's files as job_directory".format(directory)
        )
    return directory


def _request(
    directory: str,
    config: _job_config.JobConfig,
    project_name: Optional[str],
    params: Optional[Mapping[str, Any]],
    ram: Optional[float],
    num_gpus: Optional[int],
) -> Dict[str, Any]:
    """What the job is, each value by its precedence."""
    usual = _config.resources()
    ram = _first(ram, config.ram, usual.get("ram"))
    num_gpus = _first(num_gpus, config.num_gpus, usual.get("num_gpus"), 0)
    project = _first(project_name, config.project_name, _config.project_name(), os.path.basename(directory))
    params = _first(params, config.params)
    if params is not None and not hasattr(params, "items"):
        raise TypeError("params is a dict, not {}".format(type(params).__name__))
    environment = dict(config.environment)
    # A script below the root imports what lies at the root, as it did where `/job` was.
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (environment.get("PYTHONPATH"), os.curdir)))
    if config.log_level is not None:
        environment["FOUNDATIONS_LOG_LEVEL"] = config.log_level
    # Who submits with the cache off, or verifies, means the job.
    mode = os.environ.get("FNODE_CACHE")
    if mode:
        environment["FNODE_CACHE"] = mode
    return {
        "directory": directory,
        "project": str(project),
        "params": params,
        "memory_bytes": 0 if ram is None else _config.ram_bytes(_config.check_ram(ram)),
        "gpus": _config.check_gpus(num_gpus),
        "environment": environment,
        "end_points": _config.end_points(None),
    }


def _first(*values: Any) -> Any:
    return next((value for value in values if value is not None), None)


def _words(given: Union[None, str, Sequence[str]]) -> List[str]:
    if given is None:
        return []
    if isinstance(given, str):
        return shlex.split(given)
    return [str(word) for word in given]


def _script(entrypoint: str, directory: str) -> str:
    """The script that an entrypoint names: a path, or a dotted module that lies in the directory."""
    if entrypoint.endswith(".py"):
        return entrypoint
    return entrypoint.replace(".", "/") + ".py"


def _runnable(words: List[str], directory: str) -> List[str]:
    """The command as a node runs it. A script that is not there may be made by the job itself: only a warning."""
    if not words[0].endswith(".py"):
        return words
    if not os.path.isfile(os.path.join(directory, words[0])):
        _console.warning("{} is not in {}; the job will fail unless it is made there".format(words[0], directory))
    return ["python", *words]


def _as_module(command: List[str], directory: str) -> List[str]:
    """A script below the root that imports from its own package (``from .model import f``) as a module, which alone
    can do so. Every other runs by its path, and finds what lies beside it."""
    program, *words = command
    script = os.path.normpath(words[0])
    if os.sep not in script or os.path.isabs(script) or script.startswith(os.pardir):
        return command
    if not _imports_from_package(os.path.join(directory, script)):
        return command
    return [program, "-m", script[: -len(".py")].replace(os.sep, "."), *words[1:]]


def _imports_from_package(script: str) -> bool:
    try:
        with open(script, encoding="utf-8", errors="replace") as file:
            words = [line.split(None, 1) for line in file]
    except OSError:
        return False
    return any(len(line) == 2 and line[0] == "from" and line[1].startswith(".") for line in words)


def _launch(request: Dict[str, Any], local: bool = False) -> Deployment:
    """Writes the parameters beside the code and runs `fnode submit`."""
    carry = sys.modules.get("foundations._stages.carry")
    if carry is not None and carry.is_reading():
        # A driver that a job reads for its stages submits nothing again.
        return carry.NotRun()
    directory = request["directory"]
    _console.info("Job submission started. Ctrl-C to cancel.")
    text = None
    if request["params"] is not None:
        text = json_text(dict(request["params"]), "params")
        _write_parameters(directory, request["params"])
    _console.info("Preparing to bundle contents of {} for execution. Estimating bundle size.".format(directory))
    _console.info("Bundling job contents.")
    answer = _run(_arguments(request, text))
    _tell_size(answer)
    return Deployment(answer["id"], request["project"], local)


def _write_parameters(directory: str, params: Mapping[str, Any]) -> None:
    # Scalars of numpy become numbers; NaN stays NaN, which Python's own reader takes.
    text = json.dumps(params, default=_plain, indent=4)
    path = os.path.join(directory, PARAMETERS_FILE)
    aside = "{}.{}.part".format(path, os.getpid())
    try:
        with open(aside, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(aside, path)
    except OSError as error:
        raise ConfigurationError("cannot write {}: {}".format(path, error.strerror)) from error


def _plain(value: Any) -> Any:
    to_list = getattr(value, "tolist", None)
    return to_list() if to_list is not None else sorted(value)


def _arguments(request: Dict[str, Any], params: Optional[str]) -> List[str]:
    arguments = ["submit", "--json", "--project", request["project"]]
    if request["gpus"]:
        arguments += ["--gpus", str(request["gpus"])]
    if request["memory_bytes"]:
        arguments += ["--memory", "{}B".format(request["memory_bytes"])]
    for name, value in request["environment"].items():
        arguments += ["--env", "{}={}".format(name, value)]
    # Jobs counted on what the machine had, and old requirements that nobody can install any more stop none.
    arguments += ["--environment", "lenient"]
    for name, place in request["end_points"].items():
        arguments += ["--{}".format(name.replace("_", "-")), place]
    # What is no plain JSON (NaN) lies in the directory alone; so does what is too large.
    if params is not None and len(params.encode("utf-8", "replace")) <= _PARAMS_MAX and '{"f":"' not in params:
        arguments += ["--params", params]
    return [*arguments, request["directory"], "--", *request["command"]]


def _run(arguments: List[str]) -> Dict[str, Any]:
    """Runs the program and reads its answer.

    :raises SubmissionError: with its own last line; NoDaemonError: when that is the reason.
    """
    import subprocess

    binary = _home.binary()
    if binary is None:
        raise SubmissionError("the program fnode is not on PATH; install it, or set FNODE_BIN to where it is")
    try:
        done = subprocess.run(
            [binary, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            timeout=TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        raise SubmissionError("fnode submit did not end in {:g} s; see `fnode jobs`".format(TIMEOUT_S)) from None
    except OSError as error:
        raise SubmissionError(
            "cannot run {}: {}; set FNODE_BIN to where fnode is".format(binary, error.strerror)
        ) from None
    said = done.stderr.decode("utf-8", "replace").strip()
    if done.returncode != 0:
        _check_daemon()
        raise SubmissionError(_last_line(said) or "fnode submit ended with code {}".format(done.returncode))
    for line in said.splitlines():
        _console.warning(line.replace("fnode: warning: ", "").replace("fnode: ", ""))
    try:
        answer = json.loads(done.stdout.decode("utf-8"))
        str(answer["id"])
    except (ValueError, KeyError, TypeError):
        raise SubmissionError("{} gave an answer that is not understood; is it fnode?".format(binary)) from None
    return answer


def _check_daemon() -> None:
    """Raises `NoDaemonError` if that is why the submission failed."""
    from ._errors import DaemonError

    try:
        _client.default_with_timeout(5.0).request("GET", "/node")
    except NoDaemonError:
        raise
    except DaemonError:
        return


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    line = lines[-1] if lines else ""
    return line[len("fnode: ") :] if line.startswith("fnode: ") else line


def _tell_size(answer: Dict[str, Any]) -> None:
    bundle = answer.get("bundle") or {}
    megabytes = bundle.get("total_bytes", 0) / 1e6
    for limit, words in _LARGE_MB:
        if megabytes > limit:
            _console.warning(
                "The job's directory is {}: {:.0f} MB; name what the job does not need in .fnodeignore".format(
                    words, megabytes
                )
            )
            return
