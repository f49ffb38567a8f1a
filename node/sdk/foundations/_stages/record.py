"""What is told of a run of stages: ``foundations_stages.json`` among the job's artifacts, and kept results.

``{"v": 1, "runs": [{"params", "last": uuid, "sources": {function: text}, "stages": [{"uuid", "name", "function",
"kind", "arguments", "needs", "state", "node", "job", "hit", "key", "started_unix_ms", "seconds", "saved_seconds",
"cached", "output", "error", "log", "meta_data"}, …]}]}``, each stage after those that it needs. `state` is ``waiting``,
``submitted`` (a part of the job that has not ended), ``running``, ``completed`` or ``failed``; `job` is the part that
ran it, null where the graph's own job did; `hit` is null where no cache was asked; `output` names the artifact that
holds the result, a container as the cache writes them.
"""

from __future__ import annotations

import json
import os
import threading
import time

from .. import _console, _context, _track
from .._values import quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, List, Optional

    from .stage import Stage

NAME = "foundations_stages.json"
FOLDER = "foundations_stages"
# Longest text of an argument, and of an error.
_TEXT_MAX = 200
_ERROR_MAX = 4096
_SOURCE_MAX = 64 << 10
# The file is written anew at most so often while stages run, and what changes sooner is written then; at the end in any
# case.
_EVERY_S = 1.0

_runs: List[Dict[str, Any]] = []
_announced = False
_written = 0.0
# Writes what changed just after the last time.
_later: Optional[threading.Timer] = None
# Parts of a graph end in threads.
_writing = threading.Lock()


def begin(last: Stage, order: List[Stage], params: Dict[str, Any]) -> Dict[str, Any]:
    """The record of a run that begins now."""
    run = {
        "params": {str(key): _text(value) for key, value in params.items()},
        "last": last.uuid(),
        "stages": [_entry(stage) for stage in order],
        "sources": {},
    }
    if _context.is_tracked():
        run["sources"] = {_function(stage): _source(stage) for stage in order if stage._kind == "call"}
        _runs.append(run)
    return run


def _function(stage: Stage) -> str:
    function = stage._function
    return "{}.{}".format(getattr(function, "__module__", ""), getattr(function, "__qualname__", function))


def _source(stage: Stage) -> Optional[str]:
    from inspect import getsource

    try:
        return getsource(stage._function)[:_SOURCE_MAX]
    except (OSError, TypeError):
        # Compiled, or made at run time.
        return None


def _entry(stage: Stage) -> Dict[str, Any]:
    arguments = [_text(one) for one in stage._args]
    arguments += ["{}={}".format(name, _text(value)) for name, value in stage._kwargs.items()]
    return {
        "uuid": stage.uuid(),
        "name": stage.function_name(),
        "function": _function(stage),
        "kind": stage._kind,
        "arguments": arguments,
        "needs": [one.uuid() for one in stage._inputs()],
        "state": "waiting",
        "node": None,
        "job": None,
        "cached": stage._caching,
        "hit": None,
        "key": None,
        "started_unix_ms": None,
        "seconds": None,
        "saved_seconds": 0.0,
        "output": None,
        "error": None,
        "log": [],
        "meta_data": {},
    }


def _text(value: Any) -> str:
    try:
        text = repr(value)
    except Exception:
        text = "<{}>".format(type(value).__name__)
    return text if len(text) <= _TEXT_MAX else text[:_TEXT_MAX] + " …"


def error_text(error: BaseException) -> Dict[str, Any]:
    """An exception as it is told: type, text and traceback."""
    import traceback

    lines = traceback.format_exception(type(error), error, error.__traceback__)
    text = str(error)
    return {"type": type(error).__name__, "exception": text[:_ERROR_MAX], "traceback": "".join(lines)[-_ERROR_MAX:]}


def write(at_end: bool = False) -> None:
    """Writes the artifact, in a job; nothing that goes wrong here ends the job."""
    global _written
    folder = _context.artifacts_dir()
    if folder is None or not _context.is_tracked():
        return
    left = _EVERY_S - (time.monotonic() - _written)
    if left > 0 and not at_end:
        _write_later(left)
        return
    try:
        with _writing:
            os.makedirs(folder, exist_ok=True)
            aside = os.path.join(folder, ".{}.{}.part".format(NAME, os.getpid()))
            with open(aside, "w", encoding="utf-8") as file:
                json.dump({"v": 1, "runs": _runs}, file, default=_text)
            os.replace(aside, os.path.join(folder, NAME))
            _announce()
    except OSError as error:
        _console.warning_once("what the stages did is not told: {}".format(error))
    _written = time.monotonic()


def _write_later(seconds: float) -> None:
    """Nobody else may write for long: a stage that begins now may run for hours."""
    global _later
    if _later is None or not _later.is_alive():
        _later = threading.Timer(seconds, write)
        _later.daemon = True
        _later.start()


def _announce() -> None:
    global _announced
    track = _track.current()
    if track is not None and not _announced:
        track.write(_track.line('"a"', quote(NAME), quote(NAME), quote("application/json")))
        _announced = True


def keep_output(stage: Stage, value: Any) -> Optional[str]:
    """Keeps a result with the job; None, with a warning, when it cannot be: the job goes on."""
    from .._cache import container

    folder, track = _context.artifacts_dir(), _track.current()
    if folder is None or track is None:
        return None
    name = "{}/{}".format(FOLDER, stage.uuid())
    try:
        packed = container.pack(value, ())
        os.makedirs(os.path.join(folder, FOLDER), exist_ok=True)
        with open(os.path.join(folder, name), "wb") as file:
            packed.write_to(file)
        track.write(_track.line('"a"', quote(name), quote(name), quote("application/octet-stream")))
        return name
    except (container.Unkept, OSError) as error:
        _console.warning("the result of stage {} is not kept: {}".format(stage.function_name(), error))
        return None


def forget() -> None:
    """Forgets what was told: for tests."""
    global _announced
    _runs.clear()
    _announced = False
