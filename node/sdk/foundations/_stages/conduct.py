"""A graph of stages runs in its job and, where several stages are ready at once, in parts of that job on any node.

The graph's job conducts: it runs stages itself, in its own place, and submits the others that are ready as jobs of the
same directory and environment (`part.py`), whose inputs and results go by name (`parcel.py`). It never waits for a
place while it could work: a part that still queues when there is nothing else to do is taken back and run here, so one
processor is enough. Stages run in the main thread; a thread per part submits it and waits for its end.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from contextlib import contextmanager

from .. import _client, _console, _context
from .._cache import container
from .._errors import DaemonError, RefusedError, RemoteException
from . import carry, parcel, part, record, telling
from .run import Run
from .stage import inputs_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, Iterator, List, Optional, Set

    from .call import Called
    from .stage import Stage

# Parts at once; each has a thread here.
PARTS_MAX = 32
# A part that was submitted longer ago, and has no place yet, is run here when there is nothing else to do.
_QUEUED_S = 0.3
# Parts that run are looked at so often: one whose node died may queue again.
_LOOK_EVERY_S = 2.0
# While there is nothing to do, parts that queue are looked at so often.
_IDLE_S = 0.1
# Inputs on other nodes of so many bytes are reason enough to run a stage where they are.
_FAR_BYTES = 64 << 20
# A daemon that does not answer is asked again after so many seconds: it may be started again.
_AGAIN_S = 1.0
# Inputs that a submission names, the largest first.
_READS_MAX = 16
# What SIGINT does unless somebody has taken it for something else.
_NOT_THE_USERS = (signal.default_int_handler, signal.SIG_DFL, signal.SIG_IGN)
# How often one result may be lost with its nodes before the graph fails.
_LOST_MAX = 5


def begin(last: Stage, params: Dict[str, Any]) -> Optional[Run]:
    """A run with parts; None, with a warning, where there can be none: the graph then runs in sequence."""
    job = _context.job_id()
    if os.environ.get("FNODE_ARRAY_INDEX") or job is None or part.is_one():
        # Members of an array are parallel already, and so is a part.
        return None
    try:
        number, graph = carry.for_parts(last, params)
        key = parcel.name("graph", job, number)
        parcel.put(key, graph, "a graph of stages")
    except (carry.SubmissionError, parcel.Missing) as error:
        _console.warning("the stages run one after the other: {}".format(error))
        return None
    return Conduct(last, params, job, number, key)


class Part:
    """A stage that runs in a job of its own. `is_given_up`: nobody waits for it any more."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.job: Optional[str] = None
        self.submitted = 0.0
        self.look_at = 0.0
        self.is_given_up = False
        self.told: Dict[str, Any] = {}


class _Interrupted(BaseException):
    """Ends a stage that runs here when another one has failed; no ``except Exception`` of the stage keeps it."""


class Conduct(Run):
    """One run of one graph with parts. Everything is shared between threads, and guarded by `_changed`."""

    def __init__(self, last: Stage, params: Dict[str, Any], job: str, number: int, graph: str) -> None:
        super().__init__(last, params)
        self._job = job
        self._number = number
        self._graph = graph
        self._changed = threading.Condition(threading.RLock())
        self._waiting: Dict[str, Stage] = {stage.uuid(): stage for stage in self._order}
        self._before = {stage.uuid(): [one.uuid() for one in stage._inputs()] for stage in self._order}
        # How many stages take a result.
        self._takers: Dict[str, int] = {}
        for one in (uuid for before in self._before.values() for uuid in before):
            self._takers[one] = self._takers.get(one, 0) + 1
        self._done: Set[str] = set()
        # Results that have a name: key and length.
        self._named: Dict[str, Any] = {}
        self._parts: Dict[str, Part] = {}
        # What ended and is not told yet: that is done between stages, because they share the track file.
        self._untold: List[Part] = []
        # Stages that only this process can run, and why not others.
        self._only_here: Set[str] = set()
        self._lost: Dict[str, int] = {}
        self._parcels: Set[str] = {graph}
        self._is_busy = False
        self._can_interrupt = False
        self._error: Optional[BaseException] = None
        self._naming = threading.Lock()

    # In the main thread.

    def _run_all(self) -> None:
        try:
            with self._interruptible():
                self._find_again()
                self._conduct()
        except _Interrupted:
            assert self._error is not None, "only an error interrupts"
            raise self._error from None
        finally:
            self._stop_parts()
            self._tell()
            parcel.purge(sorted(self._parcels))

    def _conduct(self) -> None:
        while True:
            self._tell()
            with self._changed:
                if self._error is not None:
                    raise self._error
                if self.last.uuid() in self._done:
                    return
                ended = len(self._done)
                stage = self._take()
            if stage is not None:
                self._run_here(stage)
            elif not self._take_back():
                with self._changed:
                    if ended == len(self._done) and self._error is None:
                        self._changed.wait(_IDLE_S)

    @contextmanager
    def _interruptible(self) -> Iterator[None]:
        """Inside of it the failure of a part ends the stage that runs here, wherever Python hears signals."""
        before = signal.getsignal(signal.SIGINT)
        if threading.current_thread() is not threading.main_thread() or before not in _NOT_THE_USERS:
            yield
            return

        def interrupt(number: int, frame: Any) -> None:
            if self._is_busy and self._error is not None:
                raise _Interrupted
            if before is signal.default_int_handler:
                raise KeyboardInterrupt

        signal.signal(signal.SIGINT, interrupt)
        self._can_interrupt = True
        try:
            yield
        finally:
            self._can_interrupt = False
            signal.signal(signal.SIGINT, before)

    def _take(self) -> Optional[Stage]:
        """The stage to run here now, if any; what else is ready goes to parts."""
        ready = self._ready()
        here = [stage for stage in ready if self._must_be_here(stage)]
        here = here or [stage for stage in ready if not self._is_far(stage)]
        if here:
            del self._waiting[here[0].uuid()]
            self._is_busy = True
        self._send()
        return here[0] if here else None

    def _run_here(self, stage: Stage) -> None:
        entry = self._entries[stage.uuid()]
        try:
            if not self._bring_inputs(stage):
                return
            called = self._found_again(stage) or self._run(stage)
            # While nothing runs that could change it: a part may need it at any time.
            if self._takers.get(stage.uuid(), 0) > 1:
                self._name_early(stage, called)
        except _Interrupted:
            entry.update(state="stopped", error=None)
            raise
        finally:
            with self._changed:
                self._is_busy = False
        with self._changed:
            self._done.add(stage.uuid())

    def _bring_inputs(self, stage: Stage) -> bool:
        """Gets the results that a stage takes; False: one is lost, and is computed again first."""
        for one in inputs_of(stage):
            if one.uuid() in self._results:
                continue
            try:
                self._results[one.uuid()] = parcel.get(self._named[one.uuid()][0])
            except parcel.Missing:
                with self._changed:
                    self._undo(one)
                    self._waiting[stage.uuid()] = stage
                return False
        return True

    def _name_early(self, stage: Stage, called: Called) -> None:
        try:
            self._name(stage, called.outcome.key if called.outcome is not None else None)
        except (container.Unkept, parcel.Missing):
            # Told when a part would need it.
            return

    def _tell(self) -> None:
        """Tells what parts did that have ended: their logs, what they tracked, files, results to be kept."""
        with self._changed:
            untold, self._untold = self._untold, []
        for one in untold:
            telling.tell(one)
            uuid = one.stage.uuid()
            if one.stage._persisted and uuid in self._named:
                try:
                    self._persist(one.stage, parcel.get(self._named[uuid][0]))
                except parcel.Missing as error:
                    _console.warning("the result of stage {} is not kept: {}".format(one.stage.function_name(), error))

    def _take_back(self) -> bool:
        """Nothing is ready: a part that has no place yet, the last one first, is run here. Whether there is one."""
        now = time.monotonic()
        with self._changed:
            known = [one for one in self._parts.values() if one.job is not None]
        for one in reversed(known):
            if now < max(one.look_at, one.submitted + _QUEUED_S):
                continue
            state = _state(one.job or "")
            with self._changed:
                one.look_at = now + (0.0 if state == "queued" else _LOOK_EVERY_S)
                if state != "queued" or self._parts.get(one.stage.uuid()) is not one:
                    continue
                self._give_up(one)
                self._waiting[one.stage.uuid()] = one.stage
                self._only_here.add(one.stage.uuid())
            _stop(one.job or "")
            return True
        return False

    def _stop_parts(self) -> None:
        with self._changed:
            parts = list(self._parts.values())
            for one in parts:
                self._give_up(one)
                if one.job is not None:
                    # Whether it ran, its own record knows.
                    self._entries[one.stage.uuid()].update(state="stopped", job=one.job)
        for one in parts:
            if one.job is not None:
                _stop(one.job)

    # With `_changed` held.

    def _ready(self) -> List[Stage]:
        return [stage for uuid, stage in self._waiting.items() if self._done.issuperset(self._before[uuid])]

    def _must_be_here(self, stage: Stage) -> bool:
        # What `stage[k]` and the like do takes no time.
        return stage._kind != "call" or stage.uuid() in self._only_here

    def _is_far(self, stage: Stage) -> bool:
        far = [self._named[one.uuid()][1] for one in inputs_of(stage) if one.uuid() not in self._results]
        return sum(far) > _FAR_BYTES

    def _send(self) -> None:
        """Makes parts of all that is ready and may run elsewhere."""
        for stage in self._ready():
            if not self._must_be_here(stage) and len(self._parts) < PARTS_MAX:
                del self._waiting[stage.uuid()]
                self._see_through(Part(stage))

    def _see_through(self, one: Part) -> None:
        self._parts[one.stage.uuid()] = one
        # The same moment for all who look at the record: it does not wait here.
        self._entries[one.stage.uuid()].update(state="submitted", job=one.job)
        threading.Thread(target=self._follow, args=(one,), name="foundations-part", daemon=True).start()

    def _give_up(self, one: Part) -> None:
        one.is_given_up = True
        self._parts.pop(one.stage.uuid(), None)
        self._entries[one.stage.uuid()].update(state="waiting", job=None)

    def _undo(self, stage: Stage) -> None:
        """A result is lost: its stage waits again, and what that needs and is gone, too."""
        uuid = stage.uuid()
        if uuid not in self._done:
            return
        self._lost[uuid] = self._lost.get(uuid, 0) + 1
        if self._lost[uuid] > _LOST_MAX:
            name = stage.function_name()
            self._fail(RemoteException("the result of stage {} is lost again and again".format(name)))
        self._done.discard(uuid)
        self._named.pop(uuid, None)
        self._waiting[uuid] = stage
        self._entries[uuid].update(state="waiting", job=None)
        for one in stage._inputs():
            self._needed[one.uuid()] += 1
            if one.uuid() not in self._results and one.uuid() not in self._named:
                self._undo(one)

    def _take_report(self, one: Part, told: Dict[str, Any]) -> None:
        """What a part has done becomes part of the run."""
        uuid, result = one.stage.uuid(), told.get("result", {})
        del self._parts[uuid]
        entry = self._entries[uuid]
        entry.update(told.get("entry", {}), job=one.job)
        one.told = told
        if told.get("files"):
            self._parcels.add(part.files_key(one.job or ""))
        if "key" in result:
            self._named[uuid] = (result["key"], result["bytes"])
            if result["key"] != entry["key"]:
                self._parcels.add(result["key"])
            self._done.add(uuid)
            self._release(one.stage)
            self._untold.append(one)
        elif "missing" in told or "unkept" in result:
            entry.update(state="waiting", job=None)
            self._waiting[uuid] = one.stage
            if "unkept" in result:
                _console.warning(
                    "stage {} is run again in its graph's job: what it returned cannot be handed on ({})".format(
                        one.stage.function_name(), result["unkept"]
                    )
                )
                self._only_here.add(uuid)
            for lost in (stage for stage in one.stage._inputs() if stage.uuid() in told.get("missing", ())):
                self._undo(lost)
        else:
            self._untold.append(one)
            entry.update(state="failed")
            self._fail(_error_of(one) or _unknown(one, entry))

    def _fail(self, error: BaseException) -> None:
        if self._error is None:
            self._error = error
            if self._is_busy and self._can_interrupt:
                os.kill(os.getpid(), signal.SIGINT)

    # In the thread of a part.

    def _follow(self, one: Part) -> None:
        try:
            if one.job is None:
                self._submit(one)
            told = None if one.is_given_up else _report_of(one)
        except (container.Unkept, parcel.Missing, DaemonError) as error:
            with self._changed:
                if not one.is_given_up:
                    self._give_up(one)
                    _console.warning_once("a stage is not run on another node: {}".format(error))
                    self._only_here.add(one.stage.uuid())
                    self._waiting[one.stage.uuid()] = one.stage
                    self._changed.notify_all()
            return
        except Exception as error:
            # Ours: it ends the graph, instead of a wait without end.
            with self._changed:
                self._fail(error)
                self._changed.notify_all()
            return
        with self._changed:
            if one.is_given_up or told is None:
                return
            self._take_report(one, told)
            if self._is_busy:
                self._send()
            record.write()
            self._changed.notify_all()

    def _submit(self, one: Part) -> None:
        """Submits a part.

        :raises container.Unkept: an input cannot be pickled. :raises DaemonError: the job was not accepted.
        """
        stage = one.stage
        named = {other.uuid(): self._name(other, self._entries[other.uuid()]["key"]) for other in inputs_of(stage)}
        largest = sorted(named.values(), key=lambda pair: -pair[1])[:_READS_MAX]
        result = parcel.name("result", self._job, self._number, stage.uuid())
        order = {"graph": self._graph, "inputs": {uuid: pair[0] for uuid, pair in named.items()}}
        order.update(stage=stage.uuid(), result=result, job=self._job)
        request = {
            "name": self._part_name(stage),
            "command": ["python", "-m", "foundations._stages", "--stage", stage.function_name()],
            "env": {part.ORDER: json.dumps(order)},
            "reads": [key for key, _ in largest],
        }
        with self._changed:
            if one.is_given_up:
                return
        job = _client.default().submit_part(self._job, request)
        with self._changed:
            one.job, one.submitted = job, time.monotonic()
            is_given_up = one.is_given_up
            # Of one that was given up meanwhile, only a graph that ends is told, which stops it.
            if not is_given_up or self._entries[stage.uuid()]["state"] == "waiting":
                self._entries[stage.uuid()].update(job=job)
            self._parcels.add(part.report_key(job))
        if is_given_up:
            _stop(job)

    def _part_name(self, stage: Stage) -> str:
        return "{} {}/{}".format(stage.function_name()[:100], stage.uuid(), self._number)

    def _name(self, stage: Stage, kept: Optional[str]) -> Any:
        """Key and length of a result that is here or somewhere else; `kept`: its key in the cache."""
        uuid = stage.uuid()
        with self._naming:
            with self._changed:
                if uuid in self._named:
                    return self._named[uuid]
                if uuid not in self._results:
                    raise parcel.Missing("what stage {} takes was lost".format(stage.function_name()))
                value = self._results[uuid]
            if kept is not None and parcel.is_here(kept):
                pair = (kept, parcel.found(kept, 0.0).data.nbytes)
            else:
                key = parcel.name("result", self._job, self._number, uuid)
                pair = (key, parcel.put(key, value, stage.function_name()))
                self._parcels.add(key)
            with self._changed:
                self._named[uuid] = pair
            return pair

    # After this job was lost and runs again.

    def _find_again(self) -> None:
        """Parts of an earlier attempt go on, or have ended: they are not submitted again."""
        if not _is_again():
            return
        named = {self._part_name(stage): stage for stage in self._order}
        for line in _parts_of(self._job):
            stage = named.get(line["name"])
            if stage is None or line["state"] in ("failed", "stopped"):
                continue
            with self._changed:
                if stage.uuid() in self._waiting:
                    del self._waiting[stage.uuid()]
                    one = Part(stage)
                    one.job, one.submitted = line["id"], time.monotonic()
                    self._parcels.add(part.report_key(line["id"]))
                    self._see_through(one)

    def _found_again(self, stage: Stage) -> Any:
        """A result that an earlier attempt of this job has handed to a part; None: it is computed."""
        if not _is_again() or stage._kind != "call":
            return None
        key = parcel.name("result", self._job, self._number, stage.uuid())
        try:
            self._results[stage.uuid()] = parcel.get(key, 0.0)
        except parcel.Missing:
            return None
        called = telling.found_again()
        with self._changed:
            self._parcels.add(key)
            self._entries[stage.uuid()].update(called.entry)
        if stage._persisted:
            self._persist(stage, self._results[stage.uuid()])
        self._release(stage)
        return called


def _parts_of(job: str) -> List[Dict[str, Any]]:
    try:
        return list(_client.default().parts(job))
    except DaemonError as error:
        _console.warning("what an earlier attempt has done is done again: {}".format(error))
        return []


def _is_again() -> bool:
    return (os.environ.get("FNODE_ATTEMPT", "1"), os.environ.get("FNODE_EPOCH", "1")) != ("1", "1")


def _report_of(one: Part) -> Optional[Dict[str, Any]]:
    """What a part says that has ended, once it has; empty: nothing. None: nobody waits for it any more."""
    job = one.job or ""
    while not one.is_given_up:
        try:
            word = _client.default().wait(job, 30)
        except RefusedError:
            raise
        except DaemonError:
            # Jobs go on while their daemon is started again.
            time.sleep(_AGAIN_S)
            continue
        if word["state"] not in ("completed", "failed", "stopped"):
            continue
        try:
            return parcel.get(part.report_key(job), parcel.PATIENCE_S if word["state"] == "completed" else 1.0)
        except parcel.Missing:
            return {"ending": (word.get("ending") or {}).get("text", word["state"]), "entry": {"node": _node(word)}}
    return None


def _node(word: Dict[str, Any]) -> Optional[str]:
    return (word.get("node") or {}).get("name")


def _error_of(one: Part) -> Optional[BaseException]:
    """What the stage raised, if that can be read here."""
    import pickle

    try:
        error = pickle.loads(one.told.get("error") or b"")
    except Exception:
        return None
    return error if isinstance(error, BaseException) else None


def _unknown(one: Part, entry: Dict[str, Any]) -> RemoteException:
    """The error of a stage that could not tell its own."""
    told = entry.get("error")
    if told:
        return RemoteException("stage {}: {}: {}".format(one.stage.function_name(), told["type"], told["exception"]))
    how = one.told.get("ending", "it left no report")
    text = "stage {} ended without a result ({}); see fnode logs {}".format(one.stage.function_name(), how, one.job)
    entry["error"] = {"type": "RemoteException", "exception": text, "traceback": ""}
    return RemoteException(text)


def _state(job: str) -> str:
    try:
        return str(_client.default().job(job)["state"])
    except DaemonError:
        return ""


def _stop(job: str) -> None:
    try:
        _client.default().stop(job)
    except DaemonError:
        # It has ended, or ends with its graph.
        return
