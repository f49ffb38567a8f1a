"""One computation of a key at a time in this process: other threads wait for it, unless that could lock them up."""

from __future__ import annotations

import os
import threading

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, Optional

# Longest wait for another thread, in seconds. A circle of waits that goes through a thread pool cannot be seen from
# here; computing twice ends it.
WAIT_MAX_S = 600.0


class Flight:
    """A computation that is under way: who computes, and whether its value was kept."""

    __slots__ = ("owner", "done", "kept")

    def __init__(self, owner: int) -> None:
        self.owner = owner
        self.done = threading.Event()
        self.kept = False


_lock = threading.Lock()
_flights: Dict[str, Flight] = {}
# What each thread waits for.
_waits: Dict[int, str] = {}


def begin(key: str) -> Optional[Flight]:
    """The flight that another thread has for this key; None: this thread has it now, and must call `end`."""
    me = threading.get_ident()
    with _lock:
        flight = _flights.get(key)
        if flight is None:
            _flights[key] = Flight(me)
            return None
        return flight


def wait(key: str, flight: Flight) -> bool:
    """Waits for another thread; True: its value is there to be read. False: compute."""
    me = threading.get_ident()
    with _lock:
        if _would_circle(flight, me):
            return False
        _waits[me] = key
    try:
        flight.done.wait(WAIT_MAX_S)
    finally:
        with _lock:
            _waits.pop(me, None)
    return flight.kept


def end(key: str, kept: bool) -> None:
    """Lets the waiting threads go."""
    with _lock:
        flight = _flights.get(key)
        if flight is None or flight.owner != threading.get_ident():
            return
        del _flights[key]
    flight.kept = kept
    flight.done.set()


def _would_circle(flight: Flight, me: int) -> bool:
    """Whether the owner waits, over others, for this thread; or is this thread itself."""
    seen = set()
    owner = flight.owner
    while owner != me:
        if owner in seen or owner not in _waits or _waits[owner] not in _flights:
            return False
        seen.add(owner)
        owner = _flights[_waits[owner]].owner
    return True


def _after_fork() -> None:
    global _lock
    _lock = threading.Lock()
    # Those who computed and waited are the parent's threads.
    _flights.clear()
    _waits.clear()


os.register_at_fork(after_in_child=_after_fork)
