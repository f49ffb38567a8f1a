"""Jobs as a pandas data frame; pandas is asked for only here."""

from __future__ import annotations

from . import _client
from ._errors import MissingPackageError, NotFoundError, UnknownProjectError
from ._jobs import parameters_of
from ._values import restored

TYPE_CHECKING = False
if TYPE_CHECKING:
    from datetime import datetime
    from typing import Any, Dict, List

    import pandas  # type: ignore[import-untyped]

_NO_TIME = "No time available"
_FIXED = ["project_name", "job_id", "user", "status", "start_time", "completed_time", "creation_time", "tags"]


def get_metrics_for_all_jobs(project_name: str, include_input_params: bool = False) -> pandas.DataFrame:
    """All jobs of a project, queued and running ones too, one per row, the newest first.

    :param include_input_params: also a column ``input_param_<key>`` for what the parameters file held.
    :returns: project_name, job_id, user, status, start_time, completed_time (ISO 8601 in local time, or ``No time
        available``), creation_time (seconds since 1970), tags (a dict), a column per parameter, one per metric (its
        last value), and ``tag_<key>``. A name that is both keeps the metric. Without jobs an empty frame.
    :raises UnknownProjectError: a `ValueError`; there is no such project.
    :raises MissingPackageError: pandas is not installed.
    :raises DaemonError: no daemon answers.

    Example::

        import foundations
        frame = foundations.get_metrics_for_all_jobs("mnist")
        print(frame.sort_values("accuracy").tail(1)["job_id"])
    """
    pandas = import_pandas("get_metrics_for_all_jobs")
    rows, columns = table(project_name, include_input_params)
    return pandas.DataFrame(rows, columns=columns) if rows else pandas.DataFrame()


def table(project_name: str, include_input_params: bool) -> tuple:
    """The rows of `get_metrics_for_all_jobs`, each a dict, and the order of their columns."""
    rows: List[Dict[str, Any]] = []
    params: Dict[str, None] = {}
    metrics: Dict[str, None] = {}
    tags: Dict[str, None] = {}
    for record in _records(project_name):
        row = _fixed(record)
        given = parameters_of(record)
        if include_input_params:
            given.update({"input_param_" + key: restored(v) for key, v in (record.get("input_params") or {}).items()})
        measured = {key: restored(series["last"]) for key, series in (record.get("metrics") or {}).items()}
        tagged = {"tag_" + key: value for key, value in row["tags"].items()}
        for held, columns in ((given, params), (measured, metrics), (tagged, tags)):
            row.update(held)
            columns.update(dict.fromkeys(held))
        rows.append(row)
    return rows, list(dict.fromkeys([*_FIXED, *params, *metrics, *tags]))


def _records(project_name: str) -> List[Dict[str, Any]]:
    client = _client.default()
    if not isinstance(project_name, str) or not project_name:
        # No name would mean the jobs of all projects.
        raise UnknownProjectError("Project `{}` does not exist!".format(project_name))
    try:
        lines = list(client.jobs(project=project_name))
    except NotFoundError:
        raise UnknownProjectError("Project `{}` does not exist!".format(project_name)) from None
    # A daemon whose lists are short is asked for each job.
    return [line if "metrics" in line else client.job(line["id"]) for line in lines]


def _fixed(record: Dict[str, Any]) -> Dict[str, Any]:
    return {
        "project_name": record["project"],
        "job_id": record["id"],
        "user": record["user"],
        "status": record["state"],
        "start_time": _local(record.get("started_unix_ms")),
        "completed_time": _local(record.get("ended_unix_ms")),
        "creation_time": record["submitted_unix_ms"] / 1000.0,
        "tags": dict(record.get("tags") or {}),
    }


def import_pandas(call: str) -> Any:
    """The package, or an error that names the call which needs it."""
    try:
        import pandas
    except ImportError:
        raise MissingPackageError(
            "{} returns a pandas DataFrame, and pandas is not installed; pip install pandas".format(call)
        ) from None
    return pandas


def utc(unix_ms: int) -> datetime:
    """A time in UTC, without a zone."""
    from datetime import datetime, timezone

    return datetime.fromtimestamp(unix_ms / 1000.0, timezone.utc).replace(tzinfo=None)


def _local(unix_ms: Any) -> str:
    if unix_ms is None:
        return _NO_TIME
    from datetime import datetime

    return datetime.fromtimestamp(unix_ms / 1000.0).isoformat()
