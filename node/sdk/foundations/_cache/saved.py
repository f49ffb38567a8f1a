"""What finding values saved this process, where it read them by itself: the daemon is told in a file, now and then and
at the end of the process. What the daemon hands over it counts itself.

The counts decide nothing: threads that count at once may lose one, and a killed process its last half minute.
"""

from __future__ import annotations

import atexit
import json
import os
import time

from .. import _context
from . import store

# Where calls outside of jobs belong.
DEFAULT_PROJECT = "default"
# Seconds between two lines of one process.
_TELL_EVERY_S = 30.0
# No daemon has read the file for long: what comes is not told.
_FILE_MAX = 1 << 20

_hits = 0
_seconds = 0.0
_told_at = 0.0
_pid = 0


def note(seconds: float) -> None:
    """A value was found that had taken so many seconds to compute."""
    global _hits, _seconds
    if _pid != os.getpid():
        _begin()
    _hits += 1
    _seconds += seconds
    if time.monotonic() - _told_at > _TELL_EVERY_S:
        tell()


def _begin() -> None:
    """In a new process, also a forked one: what its parent counted the parent tells."""
    global _hits, _seconds, _told_at, _pid
    if _pid == 0:
        atexit.register(tell)
    _pid = os.getpid()
    _hits, _seconds, _told_at = 0, 0.0, time.monotonic()


def tell() -> None:
    """Appends what was counted since the last time."""
    global _hits, _seconds, _told_at
    if _pid != os.getpid() or not _hits:
        return
    hits, seconds = _hits, _seconds
    _hits, _seconds, _told_at = 0, 0.0, time.monotonic()
    row = [_context.project_name() or DEFAULT_PROJECT, _context.user_name(), hits, int(seconds * 1000)]
    try:
        path = os.path.join(store.directory(), "hits.log")
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if os.fstat(descriptor).st_size < _FILE_MAX:
                os.write(descriptor, json.dumps(row).encode("utf-8") + b"\n")
        finally:
            os.close(descriptor)
    except OSError:
        # Another user's directory, or no room: nothing depends on it.
        return
