"""Jobs that wait, and jobs that shall no longer be seen."""

from __future__ import annotations

from . import _client, _frames, _jobs
from ._errors import NotFoundError, RefusedError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, Iterable

    import pandas  # type: ignore[import-untyped]


_WAITING = ("queued", "preparing")


def get_queued_jobs() -> pandas.DataFrame:
    """Jobs that wait to start.

    :returns: a data frame with job_id, queued_time (`datetime` in UTC, without a zone), project_name and
        time_since_queued (seconds).
    :raises MissingPackageError: pandas is not installed.
    :raises DaemonError: no daemon answers.

    Example::

        import foundations
        foundations.cancel_queued_jobs(foundations.get_queued_jobs()["job_id"])
    """
    pandas = _frames.import_pandas("get_queued_jobs")
    now = _jobs.now()
    rows = []
    # Of an array that runs, some members may wait: all that is unfinished is looked through.
    for line in _client.default().jobs(state="unfinished"):
        if line["state"] not in _WAITING:
            continue
        rows.append(
            {
                "job_id": line["id"],
                "queued_time": _frames.utc(line["submitted_unix_ms"]),
                "project_name": line["project"],
                "time_since_queued": now - line["submitted_unix_ms"] / 1000.0,
            }
        )
    return pandas.DataFrame(rows, columns=["job_id", "queued_time", "project_name", "time_since_queued"])


def cancel_queued_jobs(list_of_job_ids: Iterable[str]) -> Dict[str, bool]:
    """Takes jobs that wait out of the queue.

    :returns: per id whether it was taken out: False for jobs that run, have ended or are not known.
    :raises DaemonError: no daemon answers.

    Example::

        >>> import foundations
        >>> foundations.cancel_queued_jobs([])
        {}
    """
    return _each(list_of_job_ids, _WAITING, lambda client, job_id: client.stop(job_id))


def archive_jobs(list_of_job_ids: Iterable[str]) -> Dict[str, bool]:
    """Hides ended jobs from lists; their data stays.

    :returns: per id whether it is hidden now: False for jobs that have not ended or are not known.
    :raises DaemonError: no daemon answers.

    Example::

        >>> import foundations
        >>> foundations.archive_jobs([])
        {}
    """
    return _each(list_of_job_ids, ("completed", "failed", "stopped"), lambda client, job_id: client.archive(job_id))


def _each(ids: Iterable[str], states: tuple, act: Callable[[Any, str], None]) -> Dict[str, bool]:
    """Does `act` to the jobs that are in one of `states`."""
    if isinstance(ids, str):
        raise TypeError("give a list of job ids, not one string")
    client = _client.default()
    done = {}
    for job_id in ids:
        try:
            record = client.job(str(job_id)) if job_id else {}
            # Prefixes name jobs elsewhere; what cancels takes whole ids only.
            done[job_id] = record.get("id") == job_id and record["state"] in states
            if done[job_id]:
                act(client, record["id"])
        except NotFoundError:
            done[job_id] = False
        except RefusedError as error:
            if error.code not in ("conflict", "ambiguous", "bad_input"):
                raise
            done[job_id] = False
    return done
