"""The HTTP API of this machine's daemon: one small class over a transport that tests can replace.

`Client` knows paths and words, `Transport` moves bytes. `SocketTransport` is the real one; users' tests take
`foundations.testing.FakeTransport`.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod

from . import _home
from ._errors import DaemonError, DaemonTimeoutError, NoDaemonError, NotFoundError, RefusedError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, Iterator, List, Optional, Tuple

API_PREFIX = "/api/fnode/v1"
VERSION_HEADER = "fnode-version"
ATTEMPT_HEADER = "fnode-attempt"

# Seconds until an answer must be there; past the daemon's own longest wait, so that its reason is heard.
TIMEOUT_S = 90.0
# A stream that has nothing to say sends at least a sign of life more often than this.
STREAM_TIMEOUT_S = 3600.0
# Most jobs on one page of a list.
PAGE = 1000

NO_SERVER = "Cannot currently find Atlas server. Start Atlas server with `atlas-server start`."


class Answer:
    """What came back: status, headers with names in lower case, and a body that is read as it comes."""

    def __init__(self, status: int, headers: Dict[str, str], chunks: Iterator[bytes]) -> None:
        self.status = status
        self.headers = headers
        self.chunks = chunks

    def read(self) -> bytes:
        """The whole body."""
        return b"".join(self.chunks)


class Transport(ABC):
    """Moves one request to a daemon and its answer back."""

    @abstractmethod
    def send(self, method: str, path: str, body: Optional[bytes], timeout_s: float, stream: bool) -> Answer:
        """Sends `path` (with its query, without the prefix) and returns the answer, whatever its status is.

        :param body: JSON, or None.
        :param timeout_s: seconds that the whole answer may take; with `stream`, each piece of its body.
        :raises NoDaemonError: nobody answers. :raises DaemonTimeoutError: not in time.
        :raises DaemonError: somebody answers who is not fnode, or the answer broke off.
        """


class SocketTransport(Transport):
    """Over the Unix socket in the data directory, else over loopback with the token from `api.json`."""

    def __init__(self, address: Optional[_home.Address] = None) -> None:
        self._address = address

    def send(self, method: str, path: str, body: Optional[bytes], timeout_s: float, stream: bool) -> Answer:
        from . import _http

        # Looked up for each request: a daemon that was started again has another token.
        address = self._address or _home.find()
        exchange, headers = self._open(address, timeout_s)
        if body is not None:
            headers["Content-Type"] = "application/json"
        try:
            exchange.send(method, API_PREFIX + path, headers, body or b"")
        except (OSError, _http.ProtocolError) as error:
            exchange.close()
            raise _told(error, address, timeout_s) from error
        except BaseException:
            exchange.close()
            raise
        if VERSION_HEADER not in exchange.headers:
            exchange.close()
            raise DaemonError(
                "what answers for {} is not fnode; another program may have its port".format(address.home)
            )
        if stream and exchange.status < 400:
            timeout_s = STREAM_TIMEOUT_S
            exchange.wait_at_most(timeout_s)
        return Answer(exchange.status, exchange.headers, _read(exchange, address, timeout_s))

    @staticmethod
    def _open(address: _home.Address, timeout_s: float) -> Tuple[Any, Dict[str, str]]:
        """A connection, with the headers that it needs."""
        from . import _http

        ways: List[Tuple[Any, Dict[str, str]]] = [(address.socket, {"Host": "localhost"})]
        loopback = address.loopback()
        if loopback is not None:
            # A data directory with a path too long for a socket, or one seen through a container.
            ways.append((loopback, {"Host": address.addr, "Authorization": "Bearer " + address.token}))
        denied = False
        for at, headers in ways:
            try:
                return _http.Exchange(at, timeout_s), headers
            except OSError as error:
                if _is_late(error):
                    raise _told(error, address, timeout_s) from error
                denied = denied or isinstance(error, PermissionError)
        if denied:
            raise NoDaemonError(
                "the daemon in {} belongs to another user; run as that user, or set FNODE_HOME".format(address.home)
            )
        raise NoDaemonError("{} (no fnode daemon answers in {}: fnode start)".format(NO_SERVER, address.home))


def _read(exchange: Any, address: _home.Address, timeout_s: float) -> Iterator[bytes]:
    """The body, with the transport's errors."""
    from ._http import ProtocolError

    try:
        yield from exchange.chunks()
    except (OSError, ProtocolError) as error:
        raise _told(error, address, timeout_s) from error


def _told(error: Exception, address: _home.Address, timeout_s: float) -> DaemonError:
    """What a failure of the connection means."""
    if _is_late(error):
        return DaemonTimeoutError(
            "the daemon in {} did not answer in {:g} s; see its log".format(address.home, timeout_s)
        )
    if isinstance(error, OSError):
        return DaemonError("the daemon in {} closed the connection: {}".format(address.home, error))
    return DaemonError("the daemon in {} {}".format(address.home, error))


def _is_late(error: Exception) -> bool:
    # Before Python 3.10 a socket's timeout is not the builtin TimeoutError.
    return isinstance(error, TimeoutError) or type(error).__name__ == "timeout"


class Client:
    """The API's paths as methods. Cheap to make: nothing is opened before the first request."""

    def __init__(self, transport: Optional[Transport] = None, timeout_s: float = TIMEOUT_S) -> None:
        self._transport = transport or SocketTransport()
        self._timeout_s = timeout_s

    def request(self, method: str, path: str, body: Any = None, timeout_s: Optional[float] = None) -> Any:
        """One request with a JSON answer.

        :raises RefusedError: the daemon refused; NotFoundError: there is no such thing.
        :raises DaemonError: as `Transport.send`.
        """
        answer = self._send(method, path, body, timeout_s or self._timeout_s)
        text = answer.read()
        try:
            return json.loads(text.decode("utf-8")) if text else None
        except ValueError:
            raise DaemonError("the daemon gave an answer to {} that is not JSON".format(path)) from None

    def job(self, job_id: str) -> Dict[str, Any]:
        """All that is known of a job."""
        return self.request("GET", "/jobs/" + segment(job_id))

    def wait(self, job_id: str, seconds: float) -> Dict[str, Any]:
        """The job, once it has ended or after so many seconds (1 to 60)."""
        whole = max(1, min(60, int(seconds + 0.999)))
        path = "/jobs/{}/wait?timeout_s={}".format(segment(job_id), whole)
        return self.request("GET", path, timeout_s=whole + self._timeout_s)

    def jobs(self, **filters: str) -> Iterator[Dict[str, Any]]:
        """Jobs, the newest first, page after page; members of arrays as jobs of their own."""
        for line in self._pages("/jobs", filters):
            if line.get("array"):
                wanted = {"state": filters["state"]} if "state" in filters else {}
                yield from self._pages("/jobs/{}/members".format(segment(line["id"])), wanted)
            else:
                yield line

    def log(self, job_id: str) -> bytes:
        """What the job's latest attempt has written so far."""
        return self._send("GET", "/jobs/{}/log".format(segment(job_id)), None, self._timeout_s).read()

    def follow(self, job_id: str, attempt: str = "", offset: int = 0, after_attempt: str = "") -> Answer:
        """The log of an attempt as it is written, from a byte on, until the attempt ends.

        Without `attempt` it is the first one after `after_attempt`; the answer's header names it.
        """
        pairs = {"follow": "1", "attempt": attempt, "offset": str(offset), "after_attempt": after_attempt}
        query = "&".join("{}={}".format(name, segment(value)) for name, value in pairs.items() if value)
        path = "/jobs/{}/log?{}".format(segment(job_id), query)
        return self._send("GET", path, None, self._timeout_s, stream=True)

    def submit_part(self, job_id: str, part: Dict[str, Any]) -> str:
        """Submits a part of a job that runs; returns the part's id."""
        return str(self.request("POST", "/jobs/{}/parts".format(segment(job_id)), part)["id"])

    def parts(self, job_id: str) -> Iterator[Dict[str, Any]]:
        """The parts of a job, the newest first."""
        return self._pages("/jobs", {"parent": job_id, "all": "true"})

    def stop(self, job_id: str) -> None:
        """Asks a job to stop."""
        self.request("POST", "/jobs/{}/stop".format(segment(job_id)))

    def archive(self, job_id: str) -> None:
        """Hides a job from lists; nothing of it is removed."""
        self.request("PATCH", "/jobs/{}/marks".format(segment(job_id)), {"archived": True})

    def artifact(self, job_id: str, filename: str) -> Iterator[bytes]:
        """The bytes of a file that a job kept, in pieces."""
        path = "/jobs/{}/artifacts/{}".format(segment(job_id), segment(filename))
        return self._send("GET", path, None, self._timeout_s, stream=True).chunks

    def begin_run(self, run: Dict[str, Any]) -> Dict[str, Any]:
        """Makes a job of a process that runs already: its id, track file and artifacts directory."""
        return self.request("POST", "/runs", run)

    def _pages(self, path: str, filters: Dict[str, str]) -> Iterator[Dict[str, Any]]:
        after = ""
        while True:
            pairs = dict(filters, limit=str(PAGE))
            if after:
                pairs["after"] = after
            query = "&".join("{}={}".format(name, segment(value)) for name, value in pairs.items())
            page = self.request("GET", "{}?{}".format(path, query))
            yield from page["jobs"]
            after = page.get("next", "")
            if not after:
                return

    def _send(self, method: str, path: str, body: Any, timeout_s: float, stream: bool = False) -> Answer:
        encoded = None if body is None else json.dumps(body).encode("utf-8")
        answer = self._transport.send(method, path, encoded, timeout_s, stream)
        if answer.status < 400:
            return answer
        raise _refusal(answer)


def _refusal(answer: Answer) -> RefusedError:
    try:
        word = json.loads(answer.read().decode("utf-8"))["error"]
        code, message, hint = word["code"], word["message"], word.get("hint", "")
    except (ValueError, KeyError, TypeError):
        code, message, hint = "unknown", "the daemon answered with status {}".format(answer.status), "see its log"
    kind = NotFoundError if answer.status == 404 else RefusedError
    return kind(answer.status, code, message, hint)


def segment(text: str) -> str:
    """A part of a path with everything escaped that would end it: job ids hold a slash, names hold anything."""
    from urllib.parse import quote

    return quote(text, safe="")


_transport: Optional[Transport] = None


def default() -> Client:
    """The client of this process: over sockets, unless a test put another transport in place."""
    return Client(_transport)


def replace_transport(transport: Optional[Transport]) -> Optional[Transport]:
    """From now on `default` uses this one; returns the one before. None: sockets."""
    global _transport
    before, _transport = _transport, transport
    return before


def default_with_timeout(timeout_s: float) -> Client:
    """As `default`, for a caller who cannot wait longer than so many seconds."""
    return Client(_transport, timeout_s)
