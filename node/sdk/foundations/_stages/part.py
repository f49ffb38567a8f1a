"""One stage of a graph, run by a job that is a part of the graph's: its inputs come by name, its result goes by name.

What it did (time, node, hit or miss, metrics, files, error) it leaves in a report for the graph's job, which tells it.
"""

from __future__ import annotations

import json
import os
import sys
import time

from .. import _context
from .._cache import container, keeping
from . import carry, parcel
from .call import Called, call
from .stage import Stage, in_order, inputs_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, List, Optional

# The variable that holds what a part is to do, in JSON: ``graph``, ``inputs`` by uuid, and ``result`` are keys of
# values; ``stage`` is a uuid, ``job`` the graph's job.
ORDER = "FOUNDATIONS_STAGE"

_is_one = False


def is_one() -> bool:
    """Whether this process is a part of a graph."""
    return _is_one


def report_key(part: str) -> str:
    """Where a part leaves its report."""
    return parcel.name("report", part)


def files_key(part: str) -> str:
    """Where a part leaves the files that it gave names."""
    return parcel.name("files", part)


def main() -> None:
    """Runs the stage that this job was submitted for; raises what the stage raises."""
    order = json.loads(os.environ.pop(ORDER))
    global _is_one
    _is_one = True
    part = _context.job_id() or ""
    # What a stage asks for and tells concerns the graph's job.
    os.environ["FNODE_JOB_ID"] = os.environ["FOUNDATIONS_JOB_ID"] = order["job"]
    graph = carry.unpack(bytes(parcel.get(order["graph"])))
    carry.read_as_main()
    stage = next(one for one in in_order(graph["last"]) if one.uuid() == order["stage"])
    try:
        results = {one.uuid(): _input(order["inputs"][one.uuid()], one) for one in inputs_of(stage)}
    except _Lost as lost:
        _report(part, stage, {"missing": [lost.uuid]})
        return
    started = int(time.time() * 1000)
    called = call(stage, lambda wanted: results[wanted.uuid()] if isinstance(wanted, Stage) else graph["params"][wanted])
    told = {"entry": dict(called.entry, started_unix_ms=started, node=os.environ.get("FNODE_NODE"))}
    told["lines"] = called.tracked.lines()
    told["files"] = _keep_files(part, called.tracked.lines(("a",)))
    if called.error is None:
        told["result"] = _keep_result(order["result"], stage, called)
    else:
        told["error"] = _pickled(called.error)
    _report(part, stage, told)
    if called.error is not None:
        raise called.error


class _Lost(Exception):
    def __init__(self, uuid: str) -> None:
        super().__init__(uuid)
        self.uuid = uuid


def _input(key: str, stage: Stage) -> Any:
    try:
        return parcel.get(key)
    except parcel.Missing:
        raise _Lost(stage.uuid()) from None


def _keep_result(key: str, stage: Stage, called: Called) -> Dict[str, Any]:
    """Keeps the result, unless the cache has it already; says where it is, or why it is not."""
    outcome = called.outcome
    assert outcome is not None, "a stage without an error has an outcome"
    try:
        if outcome.key is not None and parcel.is_here(outcome.key):
            return {"key": outcome.key, "bytes": parcel.found(outcome.key, 0.0).data.nbytes}
        return {"key": key, "bytes": parcel.put(key, outcome.value, _what(stage))}
    except (container.Unkept, parcel.Missing) as error:
        return {"unkept": str(error)}


def _keep_files(part: str, lines: List[List[Any]]) -> Optional[Dict[str, List[Any]]]:
    """Hands the files on that the stage gave names; by name: the word of the track file."""
    import mmap
    import pickle

    folder, words, contents = _context.artifacts_dir(), {}, {}
    for word in lines:
        try:
            with open(os.path.join(folder or "", word[2]), "rb") as file:
                size = os.fstat(file.fileno()).st_size
                data: Any = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) if size else b""
        except (OSError, ValueError):
            continue
        words[word[2]] = word
        contents[word[2]] = pickle.PickleBuffer(data)
    if not words:
        return None
    parcel.put(files_key(part), contents, "files of a stage")
    return words


def _report(part: str, stage: Stage, told: Dict[str, Any]) -> None:
    keeping.flush()
    sys.stdout.flush()
    parcel.put(report_key(part), told, _what(stage))


def _pickled(error: BaseException) -> Optional[bytes]:
    """An exception for another process; None: it cannot be carried, and is told as text."""
    import pickle

    try:
        data = pickle.dumps(error)
        # Many classes of exceptions can be written down, but not be read.
        pickle.loads(data)
        return data
    except Exception:
        return None


def _what(stage: Stage) -> str:
    function = stage._function
    return "{}.{}".format(getattr(function, "__module__", ""), getattr(function, "__qualname__", function))[:200]

