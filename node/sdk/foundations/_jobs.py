"""A job that was submitted, seen from the script that did so."""

from __future__ import annotations

import codecs
from time import monotonic, sleep, time

from . import _client, _console
from ._errors import DaemonError, NotFoundError, RefusedError
from ._values import restored

TYPE_CHECKING = False
if TYPE_CHECKING:
    from datetime import datetime
    from typing import Any, Callable, Dict, Iterator, Optional

# A daemon that is killed is started again by its runner within seconds.
_RECONNECT_MAX_S = 30.0
_RECONNECT_EVERY_S = 0.2

_ENDED = ("completed", "failed", "stopped")
# What the scheduler of Atlas said; a failed job showed as completed there.
_STATUS = {
    "queued": "queued",
    "preparing": "queued",
    "running": "running",
    "completed": "completed",
    "failed": "completed",
    "stopped": "completed",
}
_TRUE_STATUS = dict(_STATUS, preparing="pending", failed="failed", stopped="failed")
# What the local environment of earlier Foundations said.
_LOCAL_STATUS = dict.fromkeys(("queued", "preparing"), "Queued")
_LOCAL_STATUS.update(running="Running", completed="Completed", failed="Error", stopped="Error")


class JobStatus(str):
    """A job's status: a string that equals another one whatever their capitals are.

    Projects compare with ``"completed"`` or with ``"Completed"``, after the release that they were written for.
    """

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return str.__eq__(self.lower(), other.lower()) if isinstance(other, str) else NotImplemented

    def __ne__(self, other: object) -> bool:
        return str.__ne__(self.lower(), other.lower()) if isinstance(other, str) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.lower())


class Deployment:
    """A submitted job. Returned by `submit` and `deploy`; one for a known job is ``Deployment(job_id)``.

    Methods that block take a number of seconds; a daemon that restarts meanwhile is waited for. All raise
    `DaemonError` when none answers.

    Example::

        >>> import foundations
        >>> from foundations.testing import FakeTransport
        >>> with FakeTransport({"GET /jobs/1": {"id": "1", "state": "failed"}}):
        ...     job = foundations.Deployment("1")
        ...     print(job.get_job_status(), job.get_true_job_status(), job.is_job_complete())
        completed failed True
    """

    def __init__(self, job_id: str, project_name: str = "", local: bool = False) -> None:
        self._job_id = job_id
        self._project_name = project_name
        self._local = local

    def __repr__(self) -> str:
        return "Deployment({!r})".format(self._job_id)

    def job_name(self) -> str:
        """The job's id."""
        return self._job_id

    def is_job_complete(self) -> bool:
        """Whether it has ended, well or not."""
        return self._record()["state"] in _ENDED

    def get_job_status(self) -> Optional[JobStatus]:
        """``queued``, ``running`` or ``completed`` (also when it failed); None: nobody knows the job.

        Of a job deployed to the environment ``local``: ``Queued``, ``Running``, ``Completed`` or ``Error``.
        """
        return self._status(_LOCAL_STATUS if self._local else _STATUS)

    def get_true_job_status(self) -> Optional[JobStatus]:
        """``queued``, ``pending`` (its node fetches or builds), ``running``, ``completed``, ``failed``, or None."""
        return self._status(_TRUE_STATUS)

    def wait_for_deployment_to_complete(self, wait_seconds: float = 5, log_output: bool = True) -> None:
        """Returns when the job has ended, well or not.

        :param wait_seconds: how often the status is told; the end itself is noticed at once.
        :param log_output: print a line when the status has changed.
        :raises NotFoundError: there is no such job.
        """
        told = ""
        for record in self._until_ended(wait_seconds):
            if log_output and record["state"] != told:
                told = record["state"]
                _console.info("Job '{}' is {}.".format(self._job_id, told))

    def get_job_logs(self) -> str:
        """What the job has written so far."""
        return _client.default().log(self._job_id).decode("utf-8", "replace")

    def stream_job_logs(self) -> Iterator[str]:
        """Lines that the job writes, as it writes them, without their ends; until it has ended."""
        return self._lines(None)

    def _lines(self, begun: Optional[Callable[[], None]]) -> Iterator[str]:
        """The same; `begun` is called when the job runs, which may be long before it writes something."""
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        rest = ""
        for piece in _Follower(self._job_id, begun).pieces():
            *lines, rest = (rest + decoder.decode(piece)).split("\n")
            yield from lines
        rest += decoder.decode(b"", True)
        if rest:
            yield rest

    def get_param(self, param_name: str, wait_seconds: float = 5) -> Any:
        """A parameter of the job, once it has ended.

        :raises KeyError: it has none of that name.
        """
        parameters = parameters_of(self._ended(wait_seconds))
        if param_name not in parameters:
            raise KeyError("Parameter '{}' does not exist.".format(param_name))
        return parameters[param_name]

    def get_metric(self, metric_name: str, wait_seconds: float = 5) -> Any:
        """The first value of a metric of the job, once it has ended.

        :raises KeyError: it has none of that name.
        """
        metrics = self._ended(wait_seconds).get("metrics", {})
        if metric_name not in metrics:
            raise KeyError("Metric '{}' does not exist.".format(metric_name))
        return restored(metrics[metric_name]["first"])

    def get_job_details(self, wait_seconds: float = 5) -> Dict[str, Any]:
        """What is known of the job, once it has ended.

        :returns: project_name, job_id, user, status, start_time and completed_time (`datetime` in UTC, without a
            zone; None when it never started), creation_time (seconds since 1970), tags (their keys), metrics (last
            values) and parameters.
        """
        record = self._ended(wait_seconds)
        return {
            "project_name": record["project"],
            "job_id": record["id"],
            "user": record["user"],
            "status": JobStatus(_word(_TRUE_STATUS, record)),
            "start_time": _utc(record.get("started_unix_ms")),
            "completed_time": _utc(record.get("ended_unix_ms")),
            "creation_time": record["submitted_unix_ms"] / 1000.0,
            "tags": list(record.get("tags", {})),
            "metrics": {key: restored(series["last"]) for key, series in record.get("metrics", {}).items()},
            "parameters": parameters_of(record),
        }

    def fetch_job_results(self, wait_seconds: float = 5) -> Dict[str, Any]:
        """What the job's stages have made, once it has ended.

        :returns: ``provenance``, ``global_stage_context`` and ``stage_contexts``: by uuid, each with ``stage_output``
            (what `persist` has kept), ``stage_log`` (its metrics), ``error_information``, times and ``used_cache``.
        :raises RemoteException: the job failed; NotFoundError: it ran no stages, or there is no such job.
        """
        from ._stages.results import fetch

        return fetch(self, wait_seconds)

    def _record(self) -> Dict[str, Any]:
        return _client.default().job(self._job_id)

    def _status(self, words: Dict[str, str]) -> Optional[JobStatus]:
        try:
            return JobStatus(_word(words, self._record()))
        except NotFoundError:
            return None

    def _ended(self, wait_seconds: float) -> Dict[str, Any]:
        record: Dict[str, Any] = {}
        for record in self._until_ended(wait_seconds):
            pass
        return record

    def _until_ended(self, wait_seconds: float) -> Iterator[Dict[str, Any]]:
        """The job's record again and again, at the latest every `wait_seconds`; the last one has ended."""
        record = _retried(self._record)
        yield record
        while record["state"] not in _ENDED:
            record = _retried(lambda: _client.default().wait(self._job_id, wait_seconds))
            yield record


class _Follower:
    """Reads a job's log to its end: over restarts of the daemon, and from one attempt to the next, without a gap."""

    def __init__(self, job_id: str, begun: Optional[Callable[[], None]]) -> None:
        self._job_id = job_id
        self._begun = begun
        self._attempt = ""
        self._offset = 0
        self._read = ""

    def pieces(self) -> Iterator[bytes]:
        while True:
            try:
                yield from self._one_attempt()
            except DaemonError as error:
                if not _is_passing(error):
                    raise
                # Broken off by a restart, or silent for long: asked again from the byte that was read last.
                _retried(lambda: _client.default().job(self._job_id))
                continue
            record = _retried(lambda: _client.default().job(self._job_id))
            if record["state"] in _ENDED:
                return

    def _one_attempt(self) -> Iterator[bytes]:
        client = _client.default()
        answer = client.follow(self._job_id, self._attempt, self._offset, "" if self._attempt else self._read)
        self._attempt = answer.headers.get(_client.ATTEMPT_HEADER, self._attempt)
        if self._attempt:
            self._begin()
        for piece in answer.chunks:
            self._begin()
            self._offset += len(piece)
            yield piece
        if self._attempt:
            # To its end; what is left is the question whether there is another one.
            self._read, self._attempt, self._offset = self._attempt, "", 0

    def _begin(self) -> None:
        if self._begun is not None:
            self._begun()
            self._begun = None


def _retried(ask: Callable[[], Dict[str, Any]]) -> Dict[str, Any]:
    """Asks until a daemon that restarts is there again, for at most half a minute."""
    deadline = monotonic() + _RECONNECT_MAX_S
    while True:
        try:
            return ask()
        except DaemonError as error:
            if not _is_passing(error) or monotonic() > deadline:
                raise
        sleep(_RECONNECT_EVERY_S)


def _is_passing(error: DaemonError) -> bool:
    """Whether the same question may be answered in a moment."""
    return not isinstance(error, RefusedError) or error.code in ("shutting_down", "timeout", "busy")


def wait_on_deployment_set(
    deployments_map: Dict[str, Deployment],
    time_to_sleep: float = 5,
    error_handler: Optional[Callable[[str, Exception], None]] = None,
) -> None:
    """Returns when all jobs of ``{name: deployment}`` have ended.

    :param time_to_sleep: seconds, at most, between two looks at one job.
    :param error_handler: called with the name and the error for a job that cannot be asked about; without one the
        error is raised.

    Example::

        >>> import foundations
        >>> foundations.wait_on_deployment_set({})
    """
    for name, deployment in deployments_map.items():
        try:
            deployment.wait_for_deployment_to_complete(time_to_sleep, log_output=False)
        except DaemonError as error:
            if error_handler is None:
                raise
            error_handler(name, error)


def _word(words: Dict[str, str], record: Dict[str, Any]) -> str:
    """A status for a state; one that a newer daemon has is its own."""
    return words.get(record["state"], record["state"])


def parameters_of(record: Dict[str, Any]) -> Dict[str, Any]:
    """The parameters in a job's record."""
    params = record.get("params")
    return {key: restored(value) for key, value in params.items()} if isinstance(params, dict) else {}


def _utc(unix_ms: Optional[int]) -> Optional[datetime]:
    if unix_ms is None:
        return None
    from datetime import datetime, timezone

    return datetime.fromtimestamp(unix_ms / 1000.0, timezone.utc).replace(tzinfo=None)


def now() -> float:
    """Seconds since 1970; here so that tests can tell the time."""
    return time()
