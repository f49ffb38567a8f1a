"""A daemon's end of the cache's socket, in this process: for tests of this package and of those who use it."""

from __future__ import annotations

import json
import os
import socketserver
import threading
from base64 import b64decode

from . import daemon, keeping, store
from .container import Container

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, List, Optional

# Longest that this daemon lets a question wait, whatever was asked: tests wait for conditions, not for time.
_WAIT_MAX_S = 10.0


class FakeCacheDaemon:
    """Answers on ``cache.sock`` of a data directory as a node's daemon does: leases, waiting, storing, purging.

    `requests` holds what was asked, as (word, content) pairs; `elsewhere` values that another node has, by key, as
    containers: a question for one brings it here. `error` is what every question is answered with, once it is set;
    `dies_on` names the word at which the connection breaks, as when a daemon is killed; `slow` is an event that
    storing waits for.

    Example::

        >>> import os
        >>> import foundations
        >>> from foundations.testing import FakeCacheDaemon
        >>> @foundations.cache
        ... def double(number):
        ...     return number * 2
        >>> with FakeCacheDaemon(os.environ["FNODE_HOME"]) as daemon:
        ...     _ = double(3)
        >>> [word for word, _ in daemon.requests]
        ['ask', 'store']
    """

    def __init__(self, home: str) -> None:
        self.home = home
        self.requests: List[Any] = []
        self.elsewhere: Dict[str, bytes] = {}
        self.error: Optional[Dict[str, str]] = None
        self.dies_on: Optional[str] = None
        self.slow: Optional[threading.Event] = None
        self.stored: Dict[str, Dict[str, Any]] = {}
        self._changed = threading.Condition()
        # Key to (connection, lease); connection to the key that it waits for.
        self._leases: Dict[str, Any] = {}
        self._waits: Dict[int, List[str]] = {}
        os.makedirs(home, exist_ok=True)
        self.path = os.path.join(home, "cache.sock")
        if os.path.exists(self.path):
            os.unlink(self.path)
        self._connections: List[Any] = []
        self._server = socketserver.ThreadingUnixStreamServer(self.path, _handler(self))
        self._server.daemon_threads = True
        self._server.handle_error = lambda request, address: None  # type: ignore[method-assign]
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)

    def __enter__(self) -> FakeCacheDaemon:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self.slow is not None:
            self.slow.set()
        if self.dies_on is None and self.error is None:
            keeping.flush(_WAIT_MAX_S)
        self.die()

    def die(self) -> None:
        """Ends as a killed daemon does: every connection breaks, and nobody listens."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        if os.path.exists(self.path):
            os.unlink(self.path)
        for connection in list(self._connections):
            connection.break_off()
        daemon.forget()

    def leased(self) -> List[str]:
        """The keys that somebody computes."""
        with self._changed:
            return sorted(self._leases)

    def lease_elsewhere(self, key: str) -> None:
        """Another node computes this key from now on."""
        with self._changed:
            self._leases[key] = (None, "elsewhere")

    def finish_elsewhere(self, key: str, container: Optional[bytes]) -> None:
        """The other node has computed it; None: it failed."""
        with self._changed:
            self._leases.pop(key, None)
            if container is not None:
                self.elsewhere[key] = container
            self._changed.notify_all()

    def wait_for(self, condition: Any) -> bool:
        """Waits until `condition(self)` holds; looked at whenever something was asked. False: not in time."""
        with self._changed:
            return self._changed.wait_for(lambda: condition(self), _WAIT_MAX_S)

    def _answer(self, connection: Any, request: Dict[str, Any]) -> Optional[Dict[str, Any]]:
        word = next(name for name in request if name != "id")
        content = request[word]
        with self._changed:
            self.requests.append((word, content))
            self._changed.notify_all()
        if self.dies_on == word:
            connection.break_off()
            return None
        if self.error is not None:
            return {"error": self.error}
        return getattr(self, "_on_" + word)(connection, content)

    def _on_ask(self, connection: Any, content: Dict[str, Any]) -> Dict[str, Any]:
        key = content["key"]
        with self._changed:
            self._waits.setdefault(id(connection), []).append(key)
            try:
                if self._would_circle(key, id(connection)):
                    return {"alone": {}}
                seconds = min(content["wait_ms"] / 1000, _WAIT_MAX_S)
                if not self._changed.wait_for(lambda: key not in self._leases, seconds):
                    return {"busy": {"node": "n2", "seconds": 1.0}}
                if key in self.elsewhere:
                    self._bring(key, self.elsewhere[key])
                if os.path.exists(self._record(key)):
                    return {"hit": {}}
                lease = os.urandom(8).hex()
                self._leases[key] = (connection, lease)
                return {"compute": {"lease": lease}}
            finally:
                self._waits[id(connection)].remove(key)

    def _would_circle(self, key: str, asker: int) -> bool:
        """Whether who computes `key` waits, over others, for the one who asks."""
        holders, seen = [self._leases.get(key)], set()
        while holders:
            holder = holders.pop()
            if holder is None or id(holder[0]) in seen:
                continue
            if id(holder[0]) == asker:
                return True
            seen.add(id(holder[0]))
            holders.extend(self._leases.get(wanted) for wanted in self._waits.get(id(holder[0]), ()))
        return False

    def _on_store(self, connection: Any, content: Dict[str, Any]) -> Dict[str, Any]:
        if self.slow is not None:
            self.slow.wait(_WAIT_MAX_S)
        if content["inline"] is not None:
            data = b64decode(content["inline"])
        else:
            path = os.path.join(self.home, "cache", content["file"])
            with open(path, "rb") as file:
                data = file.read()
            os.unlink(path)
        with self._changed:
            self._bring(content["key"], data, content)
            self.stored[content["key"]] = content
            self._let_go(content["key"])
        return {"stored": {"bytes": len(data)}}

    def _on_drop(self, connection: Any, content: Dict[str, Any]) -> Dict[str, Any]:
        with self._changed:
            self._let_go(content["key"])
        return {"dropped": {}}

    def _on_purge(self, connection: Any, content: Dict[str, Any]) -> Dict[str, Any]:
        with self._changed:
            self.elsewhere.pop(content["key"], None)
            self.stored.pop(content["key"], None)
        store.remove(content["key"])
        return {"purged": {}}

    def _let_go(self, key: str) -> None:
        self._leases.pop(key, None)
        self._changed.notify_all()

    def _record(self, key: str) -> str:
        return os.path.join(self.home, "cache", "values", key[:2], key)

    def _bring(self, key: str, data: bytes, content: Optional[Dict[str, Any]] = None) -> None:
        """Writes the record of a value that was stored or fetched."""
        content = content or {}
        record = {name: content.get(name) for name in ("function", "user", "project", "expires_unix_ms")}
        record.update(key=key, made_unix_ms=store.unix_ms(), seconds=content.get("seconds", 0.0), node="n2")
        store.write(record, Container([data]))

    def _gone(self, connection: Any) -> None:
        """A lease lives while the connection does."""
        with self._changed:
            for key in [key for key, (holder, _) in self._leases.items() if holder is connection]:
                self._let_go(key)
            self._changed.notify_all()


def _handler(fake: FakeCacheDaemon) -> Any:
    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self._sending = threading.Lock()
            fake._connections.append(self)
            try:
                for line in self.rfile:
                    # Each request by itself: one that waits holds no other up.
                    threading.Thread(target=self._one, args=(json.loads(line),), daemon=True).start()
            except OSError:
                pass
            fake._connections.remove(self)
            fake._gone(self)

        def _one(self, request: Dict[str, Any]) -> None:
            answer = fake._answer(self, request)
            if answer is not None:
                line = json.dumps(dict(answer, id=request["id"])).encode() + b"\n"
                with self._sending:
                    try:
                        self.wfile.write(line)
                    except (OSError, ValueError):
                        # Who asked is gone.
                        return

        def break_off(self) -> None:
            import socket

            try:
                self.connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                return

    return Handler
