"""For the tests of programs that use this package: a daemon that answers from a table, and a job without a cluster.

`FakeTransport` stands where the connection to the daemon is, `FakeCacheDaemon` where its cache is; `tracked_job` makes
this process a job whose metrics, parameters, tags and files can be looked at. All run the same code as a real job does.
"""

from __future__ import annotations

import json
import os
from contextlib import contextmanager

from . import _artifacts, _client, _console, _track, _tracking
from ._cache.fake import FakeCacheDaemon
from ._stages import record as _record
from ._values import restored

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple, Union

    # JSON, bytes as they are, an answer, an error to raise, or what gives one of these for a request.
    Given = Union[Any, bytes, _client.Answer, Exception, Callable[["Request"], Any]]

__all__ = ["FakeCacheDaemon", "FakeTransport", "Request", "TrackedJob", "refusal", "tracked_job"]


class Request:
    """A request that a `FakeTransport` was sent: `method`, `path` without its query, `query`, `json`, `timeout_s`."""

    def __init__(self, method: str, path: str, body: Optional[bytes], timeout_s: float) -> None:
        from urllib.parse import parse_qsl

        self.method = method
        self.path, _, text = path.partition("?")
        self.query: Dict[str, str] = dict(parse_qsl(text, keep_blank_values=True))
        self.json: Any = json.loads(body.decode("utf-8")) if body else None
        self.timeout_s = timeout_s

    def __repr__(self) -> str:
        return "Request({} {})".format(self.method, self.path)


class FakeTransport(_client.Transport):
    """Answers from a table and remembers what it was asked, in `requests`.

    :param routes: ``{"GET /jobs/1": answer}``, paths without their query and as they are sent (escaped). An answer is
        anything that JSON can hold, `bytes`, a `refusal`, an exception that is raised, or a function of the
        `Request` that returns one of these; a list is answered entry by entry, its last one for ever, when it is
        given with `in_turn`. What is not in the table is answered with 404.

    Example::

        >>> import foundations
        >>> from foundations.testing import FakeTransport
        >>> with FakeTransport({"GET /jobs/1": {"id": "1", "state": "running"}}):
        ...     print(foundations.Deployment("1").get_job_status())
        running
    """

    def __init__(self, routes: Optional[Dict[str, Given]] = None) -> None:
        self.routes: Dict[str, Given] = dict(routes or {})
        self.requests: List[Request] = []
        self._turns: Dict[str, List[Given]] = {}
        self._before: Optional[_client.Transport] = None

    def in_turn(self, route: str, *answers: Given) -> FakeTransport:
        """Answers a route with one after the other; the last one stays."""
        self._turns[route] = list(answers)
        return self

    def send(self, method: str, path: str, body: Optional[bytes], timeout_s: float, stream: bool) -> _client.Answer:
        """What `Transport` asks for."""
        request = Request(method, path, body, timeout_s)
        self.requests.append(request)
        route = "{} {}".format(method, request.path)
        turns = self._turns.get(route)
        if turns:
            given = turns.pop(0) if len(turns) > 1 else turns[0]
        else:
            given = self.routes.get(route, refusal(404, "not_found", "there is no {}".format(request.path)))
        if callable(given) and not isinstance(given, type):
            given = given(request)
        if isinstance(given, Exception):
            raise given
        if isinstance(given, _client.Answer):
            return given
        data = given if isinstance(given, bytes) else json.dumps(given).encode("utf-8")
        return _client.Answer(200, {}, iter([data]))

    def __enter__(self) -> FakeTransport:
        self._before = _client.replace_transport(self)
        return self

    def __exit__(self, *error: object) -> None:
        _client.replace_transport(self._before)


def refusal(status: int, code: str, message: str, hint: str = "") -> Callable[[Request], _client.Answer]:
    """An answer that says no, as the daemon does."""
    word = json.dumps({"error": {"code": code, "message": message, "hint": hint}}).encode("utf-8")
    return lambda request: _client.Answer(status, {}, iter([word]))


class TrackedJob:
    """What was tracked so far, read from the track file."""

    def __init__(self, directory: str) -> None:
        self.track = os.path.join(directory, "track")
        self.artifacts_dir = os.path.join(directory, "artifacts")

    @property
    def lines(self) -> List[List[Any]]:
        """Every line as it was written."""
        try:
            with open(self.track, encoding="utf-8") as file:
                return [json.loads(line) for line in file]
        except FileNotFoundError:
            return []

    @property
    def metrics(self) -> Dict[str, List[Any]]:
        """The values of each series, in order."""
        found: Dict[str, List[Any]] = {}
        for line in self._of("m"):
            found.setdefault(line[1], []).append(restored(line[2]))
        return found

    @property
    def params(self) -> Dict[str, Any]:
        """The last value of each parameter."""
        return {line[1]: restored(line[2]) for line in self._of("p")}

    @property
    def tags(self) -> Dict[str, str]:
        """The tags."""
        return {line[1]: line[2] for line in self._of("t")}

    @property
    def artifacts(self) -> Dict[str, str]:
        """The path of the copy of each artifact, by key."""
        return {line[1]: os.path.join(self.artifacts_dir, line[2]) for line in self._of("a")}

    def _of(self, word: str) -> Iterator[List[Any]]:
        return (line for line in self.lines if line[0] == word)


@contextmanager
def tracked_job(job_id: str = "test-job", project_name: str = "test") -> Iterator[TrackedJob]:
    """Makes this process a job for the length of a ``with`` block, with a track file in a temporary directory.

    Example::

        >>> import foundations
        >>> from foundations.testing import tracked_job
        >>> with tracked_job() as job:
        ...     foundations.log_metric("loss", 0.5)
        ...     print(job.metrics)
        {'loss': [0.5]}
    """
    from tempfile import TemporaryDirectory

    with TemporaryDirectory(prefix="foundations-test-") as directory:
        job = TrackedJob(directory)
        os.mkdir(job.artifacts_dir)
        variables = {
            "FNODE_JOB_ID": job_id,
            "FNODE_PROJECT": project_name,
            "FNODE_TRACK": job.track,
            "FNODE_ARTIFACTS_DIR": job.artifacts_dir,
        }
        before = {name: os.environ.get(name) for name in variables}
        os.environ.update(variables)
        _start_anew()
        try:
            yield job
        finally:
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value
            _start_anew()


def _start_anew() -> None:
    """Forgets what this process remembers of its job."""
    _track.forget()
    _tracking._tags.clear()
    _artifacts._kept.clear()
    _console._said.clear()
    _record.forget()
