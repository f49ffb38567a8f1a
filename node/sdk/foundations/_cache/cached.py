"""`foundations.cache`: a function whose results are kept, and found again by anyone who would compute the same."""

from __future__ import annotations

import functools
import json
import os
import time
from hashlib import sha256

from .. import _console, _context
from . import container, daemon, flight, keeping, saved, store, verify
from .graph import Node
from .key import Key, Keys, Misfit
from .options import options_with
from .walk import Unhashable, Walk

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, Iterable, Optional, Sequence, Tuple, Type, Union

    Raised = Union[bool, Type[BaseException], Tuple[Type[BaseException], ...]]

# Milliseconds that the daemon lets one question wait before it tells who computes.
_WAIT_MS = 30_000
# No value expires later: what else reads these numbers need not have larger ones.
_EXPIRES_MAX_MS = 1 << 53


class Outcome:
    """What came of a call: its value, whether it was found, the seconds that computing took, its key.

    `track`: what the call that computed it has tracked, where that was kept. `raised`: an exception that was found.
    """

    __slots__ = ("value", "hit", "seconds", "key", "track", "raised")

    def __init__(self, value: Any, hit: bool, seconds: float, key: Optional[str], track: Sequence[Any] = ()) -> None:
        self.value = value
        self.hit = hit
        self.seconds = seconds
        self.key = key
        self.track = track
        self.raised: Optional[BaseException] = None


class Cached:
    """A function with a cache. Call it as the function itself; ``__wrapped__`` is the function."""

    def __init__(self, function: Callable[..., Any], options: Dict[str, Any]) -> None:
        _check(function)
        # Not the function's own attributes: they could be named as these methods are.
        functools.update_wrapper(self, function, updated=())
        self.__wrapped__: Callable[..., Any] = function
        self._options = options
        self._ttl: Optional[float] = options["ttl"]
        self._raised: Tuple[type, ...] = options["raised"]
        self._bytes_max: int = options["max_bytes"]
        self._keys = Keys(function, options["version"], options["depends_on"], options["ignore"], options["files"])

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.run(args, kwargs).value

    def __get__(self, instance: Any, owner: Optional[type] = None) -> Any:
        return self if instance is None else BoundCached(self, instance)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self.__wrapped__, name)

    def __repr__(self) -> str:
        return "<cached {}>".format(self._keys.name)

    def __reduce__(self) -> Any:
        # Found again where it was defined, as functions are.
        return (_by_name, (self.__module__, self.__qualname__))

    def key(self, *args: Any, **kwargs: Any) -> str:
        """The key of a call with these arguments: 64 hex digits.

        :raises TypeError: an argument, or something that the function reaches, has no content; the text names it.
        """
        try:
            return self._keys.of(args, kwargs).hex
        except Unhashable as error:
            raise TypeError(error.text) from None
        except Misfit as error:
            raise TypeError(str(error)) from None

    def forget(self, *args: Any, **kwargs: Any) -> None:
        """Removes the value of a call, everywhere where a daemon runs; the next call computes it."""
        key = self.key(*args, **kwargs)
        keeping.flush()
        try:
            daemon.connection().request({"purge": {"key": key}}, daemon.PATIENCE_S)
        except daemon.Lost:
            pass
        store.remove(key)

    def run(self, args: Tuple[Any, ...], kwargs: Dict[str, Any], track: Optional[Callable[[], Any]] = None) -> Outcome:
        """A call, with what came of it. `track` tells what the function has tracked, to be kept with its value."""
        mode = verify.mode()
        if mode == "off":
            return self._plainly(args, kwargs, None)
        try:
            key = self._keys.of(args, kwargs)
        except Unhashable as error:
            _console.warning_once("{} is computed without the cache: {}".format(self._keys.name, error.text))
            return self._plainly(args, kwargs, None)
        except Misfit:
            # Python itself says best what is wrong.
            return self._plainly(args, kwargs, None)
        found = self._look(key.hex)
        if found is not None and mode == "on":
            saved.note(found.seconds)
        outcome = found or self._once(key, args, kwargs, track)
        if outcome.hit and mode == "verify":
            outcome = self._verified(outcome, args, kwargs)
        if outcome.raised is not None:
            raise outcome.raised from None
        return outcome

    def _plainly(self, args: Tuple[Any, ...], kwargs: Dict[str, Any], key: Optional[str]) -> Outcome:
        began = time.perf_counter()
        value = self.__wrapped__(*args, **kwargs)
        return Outcome(value, False, time.perf_counter() - began, key)

    def _verified(self, found: Outcome, args: Tuple[Any, ...], kwargs: Dict[str, Any]) -> Outcome:
        """Computes what was found, too, and says so when it comes out otherwise; what was computed counts."""
        try:
            computed = self._plainly(args, kwargs, found.key)
        except Exception as error:
            self._tell(found, _is_like(error, found.raised))
            raise
        if found.raised is not None:
            self._tell(found, False)
            return computed
        try:
            same = Walk().digest(found.value, "value") == Walk().digest(computed.value, "value")
        except Unhashable as error:
            _console.warning_once("what {} returns cannot be compared: {}".format(self._keys.name, error.text))
            return computed
        self._tell(found, same)
        return computed

    def _tell(self, found: Outcome, same: bool) -> None:
        verify.report(self._keys.name, found.key or "", same)
        if not same:
            verify.tell_differing(self._keys.name, found.key or "")

    def _look(self, key: str) -> Optional[Outcome]:
        """The value on this machine, or what the function raised if that was kept."""
        data = keeping.pending(key) if keeping._pending else None
        seconds = 0.0
        if data is None:
            found = store.read(key)
            if found is None or self._is_old(found.record):
                return None
            data, seconds = found.data, found.record.get("seconds") or 0.0
        try:
            value, head = container.unpack(data)
        except container.Damaged:
            return None
        except Exception as error:
            _console.warning_once(
                "a kept value of {} cannot be read ({}: {}); it is computed".format(
                    self._keys.name, type(error).__name__, error
                )
            )
            return None
        outcome = Outcome(value, True, seconds, key, head.get("track", ()))
        if head.get("raised"):
            if not isinstance(value, self._raised):
                # Kept by who wanted it; here it is computed.
                return None
            outcome.raised = value
        return outcome

    def _is_old(self, record: Dict[str, Any]) -> bool:
        return self._ttl is not None and record.get("made_unix_ms", 0) + self._ttl * 1000 <= store.unix_ms()

    def _once(self, key: Key, args: Tuple[Any, ...], kwargs: Dict[str, Any], track: Any) -> Outcome:
        """Computes, unless another thread of this process, or anyone in the cluster, does so already."""
        mine = False
        other = flight.begin(key.hex)
        if other is None:
            mine = True
        elif flight.wait(key.hex, other):
            found = self._look(key.hex)
            if found is not None:
                return found
        kept = False
        try:
            found = self._look(key.hex) if mine else None
            if found is not None:
                kept = True
                return found
            lease, has_daemon, found = self._ask(key.hex)
            if found is not None:
                kept = True
                return found
            outcome, kept = self._compute(key, args, kwargs, lease, has_daemon, track)
            return outcome
        finally:
            if mine:
                flight.end(key.hex, kept)

    def _ask(self, key: str) -> Tuple[Optional[str], bool, Optional[Outcome]]:
        """Asks the daemon: (lease, whether there is a daemon, the value if somebody had it)."""
        project = _context.project_name() or saved.DEFAULT_PROJECT
        word: Dict[str, Any] = {"key": key, "function": self._keys.name, "project": project, "wait_ms": _WAIT_MS}
        word["user"] = _context.user_name()
        place = os.environ.get("FNODE_CACHE_STORE")
        if place:
            word["place"] = place
        hits = 0
        while True:
            try:
                answer = daemon.connection().request({"ask": word}, _WAIT_MS / 1000 + daemon.PATIENCE_S)
            except daemon.Lost:
                return None, False, None
            if "compute" in answer:
                return answer["compute"].get("lease"), True, None
            if "hit" in answer:
                found = self._look(key)
                hits += 1
                if found is not None or hits > 1:
                    # What cannot be read, or is too old for this function, is computed.
                    return None, True, found
            elif "busy" not in answer:
                if "error" in answer:
                    _console.warning_once("the node's cache does not answer: {}".format(keeping.said(answer)))
                return None, "alone" in answer, None

    def _compute(
        self,
        key: Key,
        args: Tuple[Any, ...],
        kwargs: Dict[str, Any],
        lease: Optional[str],
        has_daemon: bool,
        track: Optional[Callable[[], Any]],
    ) -> Tuple[Outcome, bool]:
        began = time.perf_counter()
        try:
            value = self.__wrapped__(*args, **kwargs)
        except BaseException as error:
            seconds = time.perf_counter() - began
            wanted = isinstance(error, Exception) and isinstance(error, self._raised)
            if not (wanted and self._keep(key, error, seconds, lease, has_daemon, raised=True)):
                _drop(key.hex, lease)
            raise
        seconds = time.perf_counter() - began
        kept = self._keep(key, value, seconds, lease, has_daemon, track=track() if track is not None else ())
        if not kept:
            _drop(key.hex, lease)
        return Outcome(value, False, seconds, key.hex), kept

    def _keep(
        self,
        key: Key,
        value: Any,
        seconds: float,
        lease: Optional[str],
        has_daemon: bool,
        raised: bool = False,
        track: Sequence[Any] = (),
    ) -> bool:
        """Keeps a value; False, with a warning, where that cannot be. Nothing that goes wrong here ends the job."""
        parts = key.parts()
        try:
            packed = container.pack(value, parts, raised, self._bytes_max, track)
            digest = sha256(json.dumps(parts, separators=(",", ":")).encode()).hexdigest()
            keeping.keep(self._record(key.hex, seconds), lease, digest, packed, has_daemon)
        except container.Unkept as error:
            _console.warning_once("what {} returned is not kept: {}".format(self._keys.name, error))
            return False
        except OSError as error:
            _console.warning_once("what {} returned is not kept: {}".format(self._keys.name, error))
            return False
        return True

    def _record(self, key: str, seconds: float) -> Dict[str, Any]:
        now = store.unix_ms()
        return {
            "key": key,
            "function": self._keys.name,
            "made_unix_ms": now,
            "seconds": round(seconds, 6),
            "user": _context.user_name(),
            "project": _context.project_name() or saved.DEFAULT_PROJECT,
            "node": os.environ.get("FNODE_NODE"),
            "expires_unix_ms": None if self._ttl is None else int(min(now + self._ttl * 1000, _EXPIRES_MAX_MS)),
        }

    def _foundations_describe(self, walk: Any) -> Node:
        """As part of another function's key: the function and what its own key has beside it."""
        return Node(b"cached", [self.__wrapped__, self._options["version"]], names=["", ".version"])


class BoundCached:
    """A method with a cache, of one object, whose class and state are part of the key."""

    __slots__ = ("__wrapped__", "__self__")

    def __init__(self, cached: Cached, instance: Any) -> None:
        self.__wrapped__ = cached
        self.__self__ = instance

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.__wrapped__(self.__self__, *args, **kwargs)

    def __repr__(self) -> str:
        return "<{!r} of {!r}>".format(self.__wrapped__, self.__self__)

    def __reduce__(self) -> Any:
        return (getattr, (self.__self__, self.__wrapped__.__name__))

    def key(self, *args: Any, **kwargs: Any) -> str:
        """As `Cached.key`."""
        return self.__wrapped__.key(self.__self__, *args, **kwargs)

    def forget(self, *args: Any, **kwargs: Any) -> None:
        """As `Cached.forget`."""
        self.__wrapped__.forget(self.__self__, *args, **kwargs)


def cache(
    function: Optional[Callable[..., Any]] = None,
    *,
    ttl: Optional[float] = None,
    version: object = None,
    depends_on: Sequence[Any] = (),
    ignore: Iterable[str] = (),
    files: Iterable[str] = (),
    cache_exceptions: Raised = False,
    max_bytes: Optional[int] = None,
) -> Any:
    """Keeps what a function returns: whoever would compute the same finds it, in this process or in any other.

    What counts is the function's code with every function, class, closure, default and global of the project that it
    reaches, its arguments by content, the versions of the packages that it reaches and Python's minor version.
    Comments, formatting, names of directories and users do not count. Files count where an argument or a global names
    them by a `pathlib.Path`, an open file, a `File` or a `Directory`; plain texts are texts. What is reached by a name
    made at run time (``getattr(package, name)``, plug-ins, another program, ``open("data.csv")``) is not seen: name it
    in `depends_on`.

    What has no content (a generator, a connection) is said once, and the function runs as without the cache.

    :param function: what is kept; a method's object counts by its class and state. Use with or without arguments.
    :param ttl: seconds, above 0, after which a value is computed again.
    :param version: any value; another one computes again.
    :param depends_on: names of environment variables, paths, modules, functions, classes, or values that count, too.
    :param ignore: names of arguments that do not count.
    :param files: names of arguments whose texts name files.
    :param cache_exceptions: exceptions to keep and raise again: True for all, or their classes. None unless given.
    :param max_bytes: larger values are not kept; 16 GiB unless given.
    :returns: the function, with ``key(…)`` and ``forget(…)`` for one call.
    :raises TypeError: a coroutine function: keep the plain function that it awaits on instead; an option of a wrong type.
    :raises ValueError: an option that cannot be so; the text names it and what it takes.

    Example::

        >>> import foundations
        >>> @foundations.cache
        ... def square(number):
        ...     return number * number
        >>> square(4), square(number=4)
        (16, 16)
    """
    options = options_with(
        ttl=ttl,
        version=version,
        depends_on=depends_on,
        ignore=ignore,
        files=files,
        cache_exceptions=cache_exceptions,
        max_bytes=max_bytes,
    )
    if function is None:
        return lambda given: _decorated(given, options)
    return _decorated(function, options)


def _decorated(function: Any, options: Dict[str, Any]) -> Any:
    if isinstance(function, (staticmethod, classmethod)):
        return type(function)(Cached(function.__func__, options))
    return Cached(function, options)


def _check(function: Any) -> None:
    if not callable(function):
        raise TypeError("foundations.cache takes a function, not {}".format(type(function).__name__))
    from inspect import isasyncgenfunction, iscoroutinefunction

    if iscoroutinefunction(function) or isasyncgenfunction(function):
        raise TypeError(
            "foundations.cache cannot keep what {} returns, a coroutine; cache a plain function that it calls".format(
                getattr(function, "__qualname__", function)
            )
        )


def _is_like(error: BaseException, other: Optional[BaseException]) -> bool:
    """Whether two exceptions say the same; one that was kept is another object, maybe of a class imported anew."""

    def said(one: BaseException) -> Tuple[str, str, str]:
        return type(one).__module__, type(one).__qualname__, str(one)

    return other is not None and said(error) == said(other)


def _drop(key: str, lease: Optional[str]) -> None:
    """Lets those go who wait for a value that will not come."""
    if lease is None:
        return
    try:
        daemon.connection().request({"drop": {"key": key, "lease": lease}}, daemon.PATIENCE_S)
    except daemon.Lost:
        # With the connection the lease went, too.
        return


def _by_name(module: str, name: str) -> Any:
    from importlib import import_module

    found: Any = import_module(module)
    for step in name.split("."):
        found = getattr(found, step)
    return found
