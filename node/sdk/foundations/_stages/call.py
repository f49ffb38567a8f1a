"""One stage is called: under the cache where that is asked, with what it tracked and how it ended.

Used where a graph runs (`run.py`), and in jobs that run one stage of a graph (`part.py`).
"""

from __future__ import annotations

import os
import time

from .. import _track
from . import record
from .context import StageContext
from .stage import fill

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, List, Optional, Sequence

    from .._cache.cached import Outcome
    from .stage import Stage

# Words of the track file that belong to the stage that wrote them: metrics, parameters, tags.
_REPLAYED = ("m", "p", "t")


class Called:
    """What came of a stage: the words of its record, its value or its error, and the lines that it tracked."""

    __slots__ = ("entry", "outcome", "error", "tracked")

    def __init__(self, tracked: Tracked) -> None:
        self.entry: Dict[str, Any] = {}
        self.outcome: Optional[Outcome] = None
        self.error: Optional[BaseException] = None
        self.tracked = tracked


def call(stage: Stage, results: Callable[[Any], Any]) -> Called:
    """Runs a stage with the arguments that `results` gives for stages and names of hyperparameters."""
    args, kwargs = fill(stage, results)
    context = StageContext(stage.uuid(), stage.function_name())
    called = Called(Tracked())
    began = time.perf_counter()
    try:
        outcome = _outcome(stage, context, args, kwargs, called.tracked)
    except BaseException as error:
        called.error = error
        called.entry.update(state="failed", seconds=time.perf_counter() - began, error=record.error_text(error))
        called.entry["log"] = called.tracked.log()
        return called
    called.outcome = outcome
    called.entry.update(state="completed", seconds=time.perf_counter() - began, meta_data=context.meta_data)
    if asks_cache(stage):
        called.entry.update(hit=outcome.hit, key=outcome.key, saved_seconds=outcome.seconds if outcome.hit else 0.0)
        if outcome.hit:
            replay(outcome.track)
    called.entry["log"] = called.tracked.log()
    return called


def _outcome(stage: Stage, context: StageContext, args: Any, kwargs: Any, tracked: Tracked) -> Outcome:
    from .._cache.cached import Cached, Outcome

    function = stage._function
    aware = stage._aware
    if aware:
        args = [context, *args]
    if not asks_cache(stage):
        return Outcome(function(*args, **kwargs), False, 0.0, None)
    if isinstance(function, Cached):
        return function.run(tuple(args), kwargs, tracked.lines)
    return _cached(function, stage._cache_name, aware).run(tuple(args), kwargs, tracked.lines)


def asks_cache(stage: Stage) -> bool:
    """Whether the stage's result may be found: it was told so, or its function has a cache of its own."""
    from .._cache.cached import Cached

    # What `stage[k]` and the like do takes no time.
    return stage._kind == "call" and (stage._caching or isinstance(stage._function, Cached))


_wrapped: Dict[Any, Any] = {}


def _cached(function: Callable[..., Any], cache_name: Optional[str], aware: bool) -> Any:
    """The function with a cache; made once, because what it knows of the code makes the next key cheap."""
    from .._cache.cached import Cached
    from .._cache.key import Binder
    from .._cache.options import options_with

    found = _wrapped.get((id(function), cache_name))
    if found is None or found.__wrapped__ is not function:
        # What a function is told of its stage is no part of what it computes.
        ignore = Binder(function).names[:1] if aware else ()
        found = Cached(function, options_with(version=cache_name, ignore=ignore))
        _wrapped[id(function), cache_name] = found
    return found


class Tracked:
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

    def lines(self, words: Sequence[str] = _REPLAYED) -> List[List[Any]]:
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
            if isinstance(word, list) and word and word[0] in words:
                found.append(word)
        return found

    def log(self) -> List[Dict[str, Any]]:
        """The metrics, as they are told with the stage."""
        return [{"key": word[1], "value": word[2], "time": word[-1]} for word in self.lines() if word[0] == "m"]


def replay(lines: Sequence[List[Any]], is_now: bool = True) -> None:
    """Tracks again what a stage tracked elsewhere, or when it was computed: a found result has its metrics, too.

    :param is_now: with the present time, instead of the time at which it was tracked.
    """
    import json

    track = _track.current()
    if track is None or not lines:
        return
    now = time.time()
    for word in lines:
        if is_now and word[0] == "m" and len(word) == 5:
            word = [*word[:4], now]
        track.write(json.dumps(word, separators=(",", ":")).encode("utf-8") + b"\n")
