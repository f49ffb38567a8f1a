"""A graph of stages runs in this process: one after the other, each once, results of cached ones found."""

from __future__ import annotations

import os
import sys
import time

from .. import _context, _track, _tracking
from . import record
from .context import StageContext, is_context_aware
from .stage import Stage, fill, in_order

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, List, Optional, Sequence

    from .._cache.cached import Outcome
    from .._jobs import Deployment

# Words of the track file that belong to the stage that wrote them: metrics, parameters, tags.
_REPLAYED = ("m", "p", "t")


def belongs_here() -> bool:
    """Whether ``run()`` runs in this process: in a job that was submitted, but not in a script started by hand."""
    ending = sys.modules.get("foundations._ending")
    by_hand = ending is not None and ending._execution and ending._pid == os.getpid()
    return _context.job_id() is not None and not by_hand


def in_this_job(last: Stage, params: Dict[str, Any], job_name: Optional[str]) -> Deployment:
    """Runs a graph in this job; returns when it has ended."""
    from .results import Finished

    if job_name is not None:
        _tracking.set_tag("job_name", job_name)
    run = Run(last, params)
    run.value()
    return Finished(_context.job_id() or "", run)


class Run:
    """One run of one graph. Results live until the last stage that needs them has run."""

    def __init__(self, last: Stage, params: Dict[str, Any]) -> None:
        self.last = last
        self.params = params
        self.outputs: Dict[str, Any] = {}
        self._order = in_order(last)
        self.record = record.begin(last, self._order, params)
        self._entries = {entry["uuid"]: entry for entry in self.record["stages"]}
        self._results: Dict[str, Any] = {}
        # How many stages still need a result.
        self._needed = {stage.uuid(): 0 for stage in self._order}
        for stage in self._order:
            for one in stage._inputs():
                self._needed[one.uuid()] += 1
        self._needed[last.uuid()] += 1

    def value(self) -> Any:
        """Runs everything; returns the last stage's result.

        :raises Exception: what a stage raised.
        """
        if self.params and _context.is_tracked():
            from .._parameters import log_params

            log_params(self.params)
        try:
            for stage in self._order:
                self._run(stage)
        finally:
            record.write(at_end=True)
        return self._results[self.last.uuid()]

    def _run(self, stage: Stage) -> None:
        entry = self._entries[stage.uuid()]
        entry.update(state="running", started_unix_ms=int(time.time() * 1000))
        record.write()
        args, kwargs = fill(stage, self._result)
        context = StageContext(stage.uuid(), stage.function_name())
        tracked = _Tracked()
        began = time.perf_counter()
        try:
            outcome = self._call(stage, context, args, kwargs, tracked)
        except BaseException as error:
            entry.update(state="failed", seconds=time.perf_counter() - began, error=record.error_text(error))
            entry["log"] = tracked.log()
            raise
        entry.update(state="completed", seconds=time.perf_counter() - began, meta_data=context.meta_data)
        if _asks_cache(stage):
            entry.update(hit=outcome.hit, key=outcome.key, saved_seconds=outcome.seconds if outcome.hit else 0.0)
            if outcome.hit:
                tracked.replay(outcome.track)
        entry["log"] = tracked.log()
        self._results[stage.uuid()] = outcome.value
        if stage._persisted:
            self.outputs[stage.uuid()] = outcome.value
            entry["output"] = record.keep_output(stage, outcome.value)
        for one in stage._inputs():
            self._needed[one.uuid()] -= 1
            if not self._needed[one.uuid()]:
                del self._results[one.uuid()]

    def _call(self, stage: Stage, context: StageContext, args: Any, kwargs: Any, tracked: _Tracked) -> Outcome:
        from .._cache.cached import Cached, Outcome

        function = stage._function
        aware = is_context_aware(function)
        if aware:
            args = [context, *args]
        if not _asks_cache(stage):
            return Outcome(function(*args, **kwargs), False, 0.0, None)
        if isinstance(function, Cached):
            return function.run(tuple(args), kwargs, tracked.lines)
        return _cached(function, stage._cache_name, aware).run(tuple(args), kwargs, tracked.lines)

    def _result(self, wanted: Any) -> Any:
        if isinstance(wanted, Stage):
            return self._results[wanted.uuid()]
        return self.params[wanted]


def _asks_cache(stage: Stage) -> bool:
    """Whether the stage's result may be found: it was told so, or its function has a cache of its own."""
    from .._cache.cached import Cached

    # What `stage[k]` and the like do takes no time.
    return stage._kind == "call" and (stage._caching or isinstance(stage._function, Cached))


_wrapped: Dict[Any, Any] = {}


def _cached(function: Callable[..., Any], cache_name: Optional[str], aware: bool) -> Any:
    """The function with a cache; made once, because what it knows of the code makes the next key cheap."""
    from .._cache.cached import Cached, options_with
    from .._cache.key import Binder

    found = _wrapped.get((id(function), cache_name))
    if found is None or found.__wrapped__ is not function:
        # What a function is told of its stage is no part of what it computes.
        ignore = Binder(function).names[:1] if aware else ()
        found = Cached(function, options_with(version=cache_name, ignore=ignore))
        _wrapped[id(function), cache_name] = found
    return found


class _Tracked:
    """What is tracked while a stage runs: the lines that the track file grows by."""

    def __init__(self) -> None:
        track = _track.current()
        self._path = track.path if track is not None else None
        self._start = self._size()

    def _size(self) -> int:
        try:
            return os.path.getsize(self._path) if self._path else 0
        except OSError:
            return 0

    def lines(self) -> List[List[Any]]:
        """Metrics, parameters and tags, as they were written."""
        import json

        if self._path is None or self._size() == self._start:
            return []
        with open(self._path, "rb") as file:
            file.seek(self._start)
            data = file.read()
        found = []
        for line in data.split(b"\n")[:-1]:
            try:
                word = json.loads(line)
            except ValueError:
                continue
            if isinstance(word, list) and word and word[0] in _REPLAYED:
                found.append(word)
        return found

    def replay(self, lines: Sequence[List[Any]]) -> None:
        """Tracks again what the stage tracked when it was computed: a found result has its metrics, too."""
        import json

        track = _track.current()
        if track is None or not lines:
            return
        now = time.time()
        for word in lines:
            if word[0] == "m" and len(word) == 5:
                word = [*word[:4], now]
            track.write(json.dumps(word, separators=(",", ":")).encode("utf-8") + b"\n")

    def log(self) -> List[Dict[str, Any]]:
        """The metrics, as they are told with the stage."""
        return [{"key": word[1], "value": word[2], "time": word[-1]} for word in self.lines() if word[0] == "m"]
