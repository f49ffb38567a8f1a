"""Execution mode: `import foundations` in a script started with plain ``python script.py`` makes a job of it.

One request to the daemon says what runs; it answers with the job and its track file. From then on the process,
and every process that it starts, is that job's, by the variables that any job has. Without a daemon one line says
so, and the script runs as it would have.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, Optional

# Bytes of a script that are looked through; a longer one is generated.
_SCRIPT_MAX = 1 << 20
# Seconds that a script may wait at its start for a daemon that does not answer.
TIMEOUT_S = 3.0
_STAYS = "What this script leaves stays in this cluster."


def begin_if_wanted() -> None:
    """Begins a run if this is a plain script; called once, by the import of the package. Never raises."""
    if os.environ.get("FOUNDATIONS_COMMAND_LINE") == "True" or not is_plain_script():
        return
    try:
        begin()
    except Exception as error:
        # Whatever is wrong with the tracking is no reason to keep a script from running.
        from . import _console

        _console.warning("{} This script runs untracked.".format(_sentence(error)))
        _console.quiet_not_a_job()


def is_plain_script() -> bool:
    """Whether this process was started as ``python script.py``: not with -m or -c, not a notebook or a prompt."""
    main = sys.modules.get("__main__")
    path = getattr(main, "__file__", None)
    if not path or not os.path.isfile(path):
        return False
    spec = getattr(main, "__spec__", None)
    if spec is not None and spec.name != "__main__":
        return False
    if "ipykernel" in sys.modules or getattr(sys.modules.get("builtins"), "__IPYTHON__", False):
        return False
    # Programs that pip installs (pytest, jupyter): a tool's run is nobody's experiment.
    return path.endswith(".py") or os.path.basename(os.path.dirname(os.path.abspath(path))) != "bin"


def begin() -> None:
    """Asks the daemon for a job of this process and puts its variables into the environment.

    :raises DaemonError: there is no daemon, or it refused.
    :raises OSError: the working directory is gone.
    """
    from . import _ending

    run = _run()
    places = _places()
    answer = _begun(run, places)
    os.environ.update(_variables(answer, run["project"], places))
    _ending.watch(execution=True)


def _run() -> Dict[str, Any]:
    """What the daemon is told of this process. Cheap: packages and git are looked at when it ends."""
    directory = os.getcwd()
    run = {
        "project": _project(directory),
        "command": [sys.executable, *sys.argv],
        "directory": directory,
        "pid": os.getpid(),
        "record": {"python_version": sys.version.split()[0], "argv": list(sys.argv)},
    }
    wished = os.environ.get("FOUNDATIONS_JOB_ID")
    if wished:
        run["job_id"] = wished
    return run


def _places() -> Dict[str, str]:
    """Object stores that the configuration of plain scripts names; a slip in it is told, and they are done without."""
    from . import _config, _console
    from ._errors import ConfigurationError

    config = _config.find_execution_config()
    try:
        return {} if config is None else _config.end_points(config)
    except ConfigurationError as error:
        _console.warning("{} {}".format(_sentence(error), _STAYS))
        return {}


def _begun(run: Dict[str, Any], places: Dict[str, str]) -> Dict[str, Any]:
    """The daemon's answer. A place that it does not take is told, and taken out of `places`.

    :raises DaemonError: there is no daemon, or it refused something else.
    """
    from . import _client, _console
    from ._errors import RefusedError

    while True:
        try:
            return _client.default_with_timeout(TIMEOUT_S).begin_run(dict(run, **places))
        except RefusedError as error:
            refused = [name for name in places if "FNODE_{}".format(name.upper()) in str(error)]
            if not refused:
                raise
            for name in refused:
                del places[name]
            _console.warning("{} {}".format(_sentence(error), _STAYS))


def _project(directory: str) -> str:
    named = os.environ.get("FOUNDATIONS_PROJECT_NAME") or os.environ.get("PROJECT_NAME")
    return _written_name() or named or os.path.basename(directory) or "default"


def _written_name() -> Optional[str]:
    """What the script itself gives to `set_project_name`, which it calls only after this import: read from its text.

    Only a name in quotes counts, and only if no other is there: nothing of the script is run for it.
    """
    path = getattr(sys.modules.get("__main__"), "__file__", None) or ""
    try:
        with open(path, "rb") as file:
            text = file.read(_SCRIPT_MAX)
    except OSError:
        return None
    if b"set_project_name" not in text:
        return None
    import ast

    try:
        calls = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)]
    except (SyntaxError, ValueError, RecursionError):
        return None
    names = set()
    for call in calls:
        called = getattr(call.func, "attr", None) or getattr(call.func, "id", None)
        if called == "set_project_name":
            given = [*call.args, *(word.value for word in call.keywords if word.arg == "project_name")]
            names.add(getattr(given[0], "value", None) if given else "default")
    name = names.pop() if len(names) == 1 else None
    return name if isinstance(name, str) and name else None


def _variables(answer: Dict[str, Any], project: str, places: Dict[str, str]) -> Dict[str, str]:
    """What a job finds in its environment, from the daemon's answer."""
    from . import _context, _home

    address = _home.find()
    job = answer["job"]
    user = answer.get("user") or _context.user_name()
    variables = {
        **{"FNODE_{}".format(name.upper()): place for name, place in places.items()},
        "FNODE_JOB_ID": job,
        "FNODE_PROJECT": project,
        "FNODE_USER": user,
        "FNODE_HOME": address.home,
        "FNODE_TRACK": answer["track"],
        "FNODE_ARTIFACTS_DIR": answer["artifacts_dir"],
        "FOUNDATIONS_JOB_ID": os.environ.get("FOUNDATIONS_JOB_ID") or job,
        "FOUNDATIONS_PROJECT_NAME": project,
        "FOUNDATIONS_USER": user,
    }
    for name, value in (("FNODE_NODE", answer.get("node")), ("FNODE_BIN", address.binary)):
        if isinstance(value, str) and value and name not in os.environ:
            variables[name] = value
    return variables


def _sentence(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if text.endswith((".", ")")) else text + "."
