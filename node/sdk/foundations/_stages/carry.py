"""How a graph of stages gets into a job: pickled, with functions by the name of their module.

What is defined in the driver script itself has no module that a job could import: the job reads the script up to the
call of ``run`` that made the graph, with another `__name__` and with every earlier ``run`` doing nothing. What has no
name at all (functions made in functions) is carried by cloudpickle, where that is installed.
"""

from __future__ import annotations

import io
import os
import pickle
import sys
import types
from contextlib import contextmanager

from .. import _config, _console
from .._errors import SubmissionError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, Iterator, List, Optional, Tuple

    from .._jobs import Deployment
    from .stage import Stage

SCRIPT_MODULE = "__foundations_main__"

# What this job was given to run, where it is a graph: its parts are given the same.
received: Optional[bytes] = None
# How often this process has called `run`.
_submitted = 0
# While a driver script is read: how many calls of `run` are left until it has been read far enough.
_skipping: Optional[int] = None


class ReadFarEnough(BaseException):
    """Ends the reading of a driver script; no ``except Exception`` of the script keeps it."""


class NotRun:
    """What an earlier ``run`` of a script returns while the script is read: whatever is asked of it does nothing."""

    def is_job_complete(self) -> bool:
        """True: nobody shall wait for it."""
        return True

    def get_job_status(self) -> str:
        """``completed``."""
        return "completed"

    get_true_job_status = get_job_status

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *args, **kwargs: None


def submit(last: Stage, params: Dict[str, Any], job_name: Optional[str], parallel: bool = False) -> Deployment:
    """Submits the working directory as a job that runs the graph; returns once the job is accepted.

    :raises SubmissionError: the graph cannot be pickled, or the job was not accepted.
    """
    global _submitted, _skipping
    if _skipping is not None:
        if _skipping == 0:
            raise ReadFarEnough
        _skipping -= 1
        return NotRun()  # type: ignore[return-value]
    from .. import _job_config, _submit

    directory = os.getcwd()
    data = pack(last, params, job_name, _submitted, parallel)
    _submitted += 1
    name = "foundations_stages-{}.pkl".format(os.urandom(4).hex())
    path = os.path.join(directory, name)
    request = _submit._request(directory, _job_config.read(directory), None, None, None, None)
    if _config.project_name() is None and _job_config.read(directory).project_name is None:
        # As stages did; `submit` and `deploy` go by the directory.
        request["project"] = "default"
    request["end_points"] = _config.stage_end_points()
    request["params"] = None
    request["command"] = ["python", "-m", "foundations._stages", name]
    try:
        with open(path, "wb") as file:
            file.write(data)
    except OSError as error:
        raise SubmissionError("cannot write {}: {}".format(path, error.strerror)) from error
    try:
        job = _submit._launch(request)
    finally:
        os.unlink(path)
    _console.info("Job '{}' deployed in project '{}'.".format(job.job_name(), request["project"]))
    return job


@contextmanager
def counted() -> Iterator[None]:
    """Around a call of `run` that runs here: the next one is another one, for whoever reads the script."""
    global _submitted
    try:
        yield
    finally:
        _submitted += 1


def for_parts(last: Stage, params: Dict[str, Any]) -> Tuple[int, bytes]:
    """A graph that this job runs, for parts of it: which `run` of this process it is, and its bytes.

    :raises SubmissionError: as `pack`.
    """
    global received
    if received is not None:
        data, received = received, None
        return 0, data
    # Classes that the driver defines have this name in parts, which read it.
    sys.modules.setdefault(SCRIPT_MODULE, sys.modules["__main__"])
    return _submitted, pack(last, params, None, _submitted)


def pack(
    last: Stage, params: Dict[str, Any], job_name: Optional[str], number: int, parallel: bool = False
) -> bytes:
    """A graph as bytes.

    :raises SubmissionError: something in it cannot be pickled; the text says what.
    """
    root = os.getcwd()
    head = {
        "path": [os.path.relpath(one or root, root) for one in sys.path[:1] if _is_inside(one or root, root)],
        "script": _script(root),
        "number": number,
        "cloudpickle": False,
    }
    graph = {"last": last, "params": params, "job_name": job_name, "parallel": parallel}
    try:
        data = _pickled(graph)
    except Exception as error:
        reason = "{}: {}".format(type(error).__name__, error)
        try:
            import cloudpickle

            data = cloudpickle.dumps(graph, protocol=4)
            head["cloudpickle"] = True
        except ImportError:
            raise SubmissionError(
                "the stages cannot be carried into a job ({}); define functions at the top of a module, or install "
                "cloudpickle".format(reason)
            ) from None
        except Exception:
            raise SubmissionError("the stages cannot be carried into a job ({})".format(reason)) from None
    return pickle.dumps(head) + data


class _Pickler(pickle.Pickler):
    """Names functions and classes so that the job finds them: by script, and below what has replaced them."""

    def reducer_override(self, value: Any) -> Any:
        """What `pickle` asks for each function and class; NotImplemented: by its module, as always."""
        if not isinstance(value, (types.FunctionType, type)):
            return NotImplemented
        found: Any = sys.modules.get(value.__module__)
        for step in value.__qualname__.split("."):
            found = getattr(found, step, None)
        # `@foundations.create_stage` has taken the function's name.
        is_below = found is not value and getattr(found, "__wrapped__", None) is value
        if value.__module__ != "__main__":
            return (_from_module, (value.__module__, value.__qualname__)) if is_below else NotImplemented
        if found is not value and not is_below:
            return NotImplemented
        if _script(os.getcwd()) is None:
            raise pickle.PicklingError(
                "{} is defined at a prompt, in a notebook, or in a script outside of {}".format(
                    value.__qualname__, os.getcwd()
                )
            )
        return _from_script, (value.__qualname__, is_below)


def _pickled(graph: Dict[str, Any]) -> bytes:
    file = io.BytesIO()
    _Pickler(file, protocol=4).dump(graph)
    return file.getvalue()


def _is_inside(path: str, root: str) -> bool:
    path = os.path.realpath(path)
    root = os.path.realpath(root)
    return path == root or path.startswith(root + os.sep)


def _script(root: str) -> Optional[str]:
    """The driver script, relative to the job's directory; None: there is none in it."""
    path = getattr(sys.modules.get("__main__"), "__file__", None)
    if path is None or not _is_inside(path, root):
        return None
    return os.path.relpath(os.path.realpath(path), os.path.realpath(root))


def _from_script(name: str, is_wrapped: bool) -> Any:
    """What the driver script has under a name."""
    found: Any = _read_script()
    for step in name.split("."):
        found = getattr(found, step)
    return found.__wrapped__ if is_wrapped else found


def _from_module(module: str, name: str) -> Any:
    """What lies below a stage function, or another wrapper, that a module has under a name."""
    from importlib import import_module

    found: Any = import_module(module)
    for step in name.split("."):
        found = getattr(found, step)
    return found.__wrapped__


_head: Dict[str, Any] = {}


def _read_script() -> Any:
    """The driver script as a module, read up to the call of ``run`` that made the graph; read once."""
    global _skipping
    module = sys.modules.get(SCRIPT_MODULE)
    if module is not None:
        return module
    path = _head.get("script")
    if path is None:
        raise SubmissionError("the driver script does not lie in the directory that was submitted")
    module = types.ModuleType(SCRIPT_MODULE)
    module.__file__ = os.path.abspath(path)
    sys.modules[SCRIPT_MODULE] = module
    with open(path, "rb") as file:
        source = file.read()
    _skipping = _head["number"]
    try:
        exec(compile(source, module.__file__, "exec", dont_inherit=True), module.__dict__)
    except ReadFarEnough:
        pass
    finally:
        _skipping = None
    return module


def is_reading() -> bool:
    """Whether a driver script is being read, so that nothing in it may run."""
    return _skipping is not None


def read_as_main() -> None:
    """In a part of a job: what the job's driver defined, and so has the name of this program, is found as well."""
    if _head.get("script") is not None:
        sys.modules["__main__"].__dict__.setdefault("__getattr__", lambda name: getattr(_read_script(), name))


def unpack(data: bytes) -> Dict[str, Any]:
    """The graph of `pack`: ``last``, ``params``, ``job_name``. Puts on Python's path what the driver had there."""
    file = io.BytesIO(data)
    _head.clear()
    _head.update(pickle.load(file))
    paths: List[str] = [os.path.abspath(one) for one in _head["path"]]
    sys.path[:0] = [one for one in paths if one not in sys.path]
    return pickle.load(file)
