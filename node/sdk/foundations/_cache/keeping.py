"""How a value gets into the cache: handed to the daemon by a thread, or written here where there is none.

What a function returned is there after a normal end of the process: the end waits for the thread. Where no thread may
be used (in children of a fork, whose end runs nothing) the call itself waits.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
from base64 import b64encode

from .. import _console
from . import daemon, store
from .container import Container

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Deque, Dict, Optional

# Seconds that the end of a process waits for the daemon.
_END_S = 60.0
# Values on their way at once; beyond that calls wait, instead of filling the memory.
_QUEUE_MAX = 256


class Handover:
    """A value on its way to the daemon: what the record says, and its bytes, here or in a file."""

    __slots__ = ("record", "lease", "digest", "data", "file", "bytes")

    def __init__(self, record: Dict[str, Any], lease: Optional[str], digest: str, container: Container) -> None:
        self.record = record
        self.lease = lease
        self.digest = digest
        self.bytes = container.bytes
        inline = container.bytes <= store.INLINE_MAX
        # Taken down now: what the call returned is the caller's to change.
        self.data: Optional[bytes] = container.joined() if inline else None
        self.file: Optional[str] = None if inline else store.incoming(container)

    def word(self) -> Dict[str, Any]:
        """As the daemon is told."""
        word = {
            name: self.record[name] for name in ("key", "function", "project", "user", "seconds", "expires_unix_ms")
        }
        inline = None if self.data is None else b64encode(self.data).decode("ascii")
        word.update(lease=self.lease, inline=inline, file=self.file, parts_digest=self.digest)
        place = os.environ.get("FNODE_CACHE_STORE")
        if place:
            word["place"] = place
        return {"store": word}


_condition = threading.Condition()
_queue: Optional[Deque[Handover]] = None
_pending: Dict[str, Handover] = {}
_thread: Optional[threading.Thread] = None
_pid = os.getpid()


def keep(record: Dict[str, Any], lease: Optional[str], digest: str, container: Container, has_daemon: bool) -> None:
    """Keeps a value; returns when this process would find it.

    :raises OSError: it could not be written.
    """
    if not has_daemon:
        store.write(record, container)
        return
    handover = Handover(record, lease, digest, container)
    if _must_wait():
        _hand_over(handover)
        return
    _enqueue(handover)


def pending(key: str) -> Optional[memoryview]:
    """The bytes of a value that is on its way."""
    handover = _pending.get(key)
    if handover is None:
        return None
    if handover.data is not None:
        return memoryview(bytearray(handover.data))
    from mmap import ACCESS_COPY, mmap

    try:
        with open(os.path.join(store.directory(), str(handover.file)), "rb") as file:
            return memoryview(mmap(file.fileno(), 0, access=ACCESS_COPY))
    except (OSError, ValueError):
        # The daemon has moved it just now: the record is there, or about to be.
        return None


def flush(timeout_s: Optional[float] = None) -> bool:
    """Waits until everything is kept; False: not in time."""
    with _condition:
        return _condition.wait_for(lambda: not _pending, timeout_s)


def _must_wait() -> bool:
    if os.getpid() != _pid:
        return True
    module = sys.modules.get("multiprocessing")
    return module is not None and module.parent_process() is not None


def _enqueue(handover: Handover) -> None:
    global _queue, _thread
    from collections import deque

    with _condition:
        _condition.wait_for(lambda: len(_pending) < _QUEUE_MAX)
        if _queue is None:
            _queue = deque()
        _queue.append(handover)
        _pending[handover.record["key"]] = handover
        if _thread is None:
            _thread = threading.Thread(target=_work, name="foundations-keep", daemon=True)
            _thread.start()
            atexit.register(_at_end)
        _condition.notify_all()


def _work() -> None:
    while True:
        with _condition:
            _condition.wait_for(lambda: bool(_queue))
            handover = _queue.popleft()  # type: ignore[union-attr]
        try:
            _hand_over(handover)
        except Exception as error:
            _console.warning_once("a value of {} is not kept: {}".format(handover.record["function"], error))
        finally:
            with _condition:
                if _pending.get(handover.record["key"]) is handover:
                    del _pending[handover.record["key"]]
                _condition.notify_all()


def _hand_over(handover: Handover) -> None:
    """Gives a value to the daemon; where that is gone, writes it here for the next one."""
    try:
        answer = daemon.connection().request(handover.word(), daemon.PATIENCE_S)
    except daemon.Lost:
        _write_here(handover)
        return
    if "error" in answer:
        _console.warning_once(
            "the node does not keep a value of {}: {}".format(handover.record["function"], said(answer))
        )
        if handover.file is not None:
            _remove(os.path.join(store.directory(), handover.file))


def _write_here(handover: Handover) -> None:
    if handover.data is not None:
        store.write(handover.record, Container([handover.data]))
        return
    path = os.path.join(store.directory(), str(handover.file))
    try:
        store.adopt(handover.record, handover.bytes, path)
    except FileNotFoundError:
        # The daemon had taken it before it died; its next start finds it.
        return


def said(answer: Dict[str, Any]) -> str:
    """What an answer that is an error says."""
    error = answer.get("error")
    return str(error.get("message", error)) if isinstance(error, dict) else str(error)


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        return


def _at_end() -> None:
    if os.getpid() == _pid and not flush(_END_S):
        _console.warning("{} values were not kept: the node's daemon does not answer".format(len(_pending)))


def _after_fork() -> None:
    global _condition, _queue, _thread
    _condition = threading.Condition()
    _queue, _thread = None, None
    _pending.clear()


os.register_at_fork(after_in_child=_after_fork)
