"""The node's daemon, as the cache speaks to it: lines of JSON over one connection of this process.

One connection, because the daemon lets nobody wait for somebody who waits: it must see that the leases that a process
holds and the questions that it asks are one process's. Answers come in any order; a thread reads them.
"""

from __future__ import annotations

import json
import os
import socket
import threading

from . import store

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, Optional

# Longest line that either side sends.
LINE_MAX = 1 << 20
# Seconds that the daemon may take over its own word before it counts as silent.
PATIENCE_S = 30.0


class Lost(Exception):
    """There is no daemon, or it was there and is gone; what it was asked may have been done."""


class Connection:
    """One connection; when it breaks it stays broken, and everybody who waits on it is told."""

    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.settimeout(PATIENCE_S)
            self._socket.connect(path)
            self._socket.settimeout(None)
        except OSError:
            self._socket.close()
            raise
        self.broken = False
        self._lock = threading.Lock()
        self._last = 0
        self._waiting: Dict[int, Waiter] = {}
        threading.Thread(target=self._read, name="foundations-cache", daemon=True).start()

    def request(self, word: Dict[str, Any], timeout_s: float) -> Dict[str, Any]:
        """Sends a request and returns its answer without the id.

        :raises Lost: the connection broke, or no answer came in time.
        """
        waiter = Waiter()
        with self._lock:
            if self.broken:
                raise Lost("the connection broke")
            self._last += 1
            number = self._last
            self._waiting[number] = waiter
            line = json.dumps(dict(word, id=number), separators=(",", ":")).encode("utf-8") + b"\n"
            try:
                self._socket.sendall(line)
            except OSError as error:
                self._waiting.pop(number, None)
                raise Lost(str(error)) from None
        if not waiter.told.wait(timeout_s):
            with self._lock:
                self._waiting.pop(number, None)
            raise Lost("no answer in {:g} s".format(timeout_s))
        if waiter.answer is None:
            raise Lost("the connection broke")
        return waiter.answer

    def _read(self) -> None:
        rest = b""
        try:
            while True:
                data = self._socket.recv(1 << 16)
                if not data or len(rest) > LINE_MAX:
                    break
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    self._take(line)
        except (OSError, ValueError):
            pass
        self.close()

    def _take(self, line: bytes) -> None:
        answer = json.loads(line)
        number = answer.pop("id", None) if isinstance(answer, dict) else None
        with self._lock:
            waiter = self._waiting.pop(number, None)
        if waiter is not None:
            waiter.answer = answer
            waiter.told.set()

    def close(self) -> None:
        """Ends it; leases that it held are the daemon's again."""
        with self._lock:
            self.broken = True
            waiting, self._waiting = self._waiting, {}
        for waiter in waiting.values():
            waiter.told.set()
        try:
            # Wakes the thread that reads; closing alone would not.
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self._socket.close()

    def abandon(self) -> None:
        """In a forked child: the connection is the parent's, and goes on being so."""
        self.broken = True
        self._socket.close()


class Waiter:
    """Somebody who waits for one answer; None: the connection broke."""

    __slots__ = ("told", "answer")

    def __init__(self) -> None:
        self.told = threading.Event()
        self.answer: Optional[Dict[str, Any]] = None


_connection: Optional[Connection] = None
_path = ""
_lock = threading.Lock()


def connection() -> Connection:
    """The connection of this process, made anew when it broke.

    :raises Lost: no daemon listens, or it has no cache yet.
    """
    global _connection, _path
    try:
        path = os.path.join(os.path.dirname(store.directory()), "cache.sock")
    except OSError as error:
        raise Lost(str(error)) from None
    with _lock:
        if _connection is not None and not _connection.broken and _path == path:
            return _connection
        try:
            _connection = Connection(path)
        except OSError as error:
            raise Lost(str(error)) from None
        _path = path
        return _connection


def forget() -> None:
    """Ends the connection of this process, if there is one."""
    global _connection
    with _lock:
        if _connection is not None:
            _connection.close()
        _connection = None


def _after_fork() -> None:
    global _connection, _lock
    _lock = threading.Lock()
    if _connection is not None:
        _connection.abandon()
    _connection = None


os.register_at_fork(after_in_child=_after_fork)
