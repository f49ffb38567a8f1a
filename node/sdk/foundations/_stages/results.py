"""What stages have made, read from the jobs that ran them."""

from __future__ import annotations

import json
import os

from .. import _client, _jobs
from .._errors import MissingPackageError, NotFoundError, RemoteException
from . import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, Iterator, List, Optional, Sequence

    from .run import Run
    from .stage import Stage


class Finished(_jobs.Deployment):
    """A run that has ended in this process, as the job that it is part of."""

    def __init__(self, job_id: str, run: Run) -> None:
        super().__init__(job_id, local=True)
        self._run = run

    def is_job_complete(self) -> bool:
        """True: its stages have run."""
        return True

    def get_job_status(self) -> Optional[_jobs.JobStatus]:
        """``Completed``."""
        return _jobs.JobStatus("Completed")

    def wait_for_deployment_to_complete(self, wait_seconds: float = 5, log_output: bool = True) -> None:
        """Returns at once."""

    def fetch_job_results(self, wait_seconds: float = 5) -> Dict[str, Any]:
        """As `Deployment.fetch_job_results`."""
        return _as_results([self._run.record], self._run.outputs.get, {})


def fetch(deployment: _jobs.Deployment, wait_seconds: float) -> Dict[str, Any]:
    """What `Deployment.fetch_job_results` returns.

    :raises RemoteException: the job failed; NotFoundError: it ran no stages.
    """
    details = deployment._ended(wait_seconds)
    job_id = deployment.job_name()
    try:
        runs = runs_of(job_id)
    except NotFoundError:
        if details["state"] != "completed":
            raise RemoteException("job {} has {}; see its log".format(job_id, details["state"])) from None
        raise
    results = _as_results(runs, lambda uuid: output_of(job_id, uuid), details)
    if details["state"] != "completed":
        failed = next((one for one in _stages(runs) if one.get("error")), None)
        text = "job {} has {}".format(job_id, details["state"])
        if failed is not None:
            error = failed["error"]
            text = "stage {} of job {}: {}: {}".format(failed["name"], job_id, error["type"], error["exception"])
        raise RemoteException(text)
    return results


def runs_of(job_id: str) -> List[Dict[str, Any]]:
    """The runs of stages that a job has told of.

    :raises NotFoundError: it ran none.
    """
    data = b"".join(_client.default().artifact(job_id, record.NAME))
    return json.loads(data.decode("utf-8"))["runs"]


def output_of(job_id: str, uuid: str) -> Any:
    """The result that a stage has kept."""
    from .._cache import container

    data = b"".join(_client.default().artifact(job_id, "{}/{}".format(record.FOLDER, uuid)))
    return container.unpack(memoryview(bytearray(data)))[0]


def _stages(runs: List[Dict[str, Any]]) -> Iterator[Dict[str, Any]]:
    return (one for run in runs for one in run["stages"])


def _as_results(runs: List[Dict[str, Any]], output: Any, details: Dict[str, Any]) -> Dict[str, Any]:
    """In the words of Foundations."""
    contexts: Dict[str, Any] = {}
    for one in _stages(runs):
        started = one["started_unix_ms"]
        seconds = one["seconds"]
        contexts[one["uuid"]] = {
            "uuid": one["uuid"],
            "stage_name": one["name"],
            "stage_output": output(one["uuid"]) if one["output"] else None,
            "has_stage_output": one["output"] is not None,
            "stage_log": one["log"],
            "meta_data": one["meta_data"],
            "error_information": one["error"],
            "start_time": None if started is None else started / 1000,
            "end_time": None if started is None or seconds is None else started / 1000 + seconds,
            "delta_time": seconds,
            "used_cache": bool(one["hit"]),
            "cache_uuid": one["key"],
            "is_context_aware": bool(one["meta_data"]),
        }
    errors = [one["error_information"] for one in contexts.values() if one["error_information"]]
    return {
        "provenance": {
            "stage_hierarchy": {one["uuid"]: {"parents": one["needs"], "name": one["name"]} for one in _stages(runs)},
            "job_run_data": runs[-1]["params"] if runs else {},
            "project_name": details.get("project"),
            "user_name": details.get("user"),
        },
        "global_stage_context": {"error_information": errors[0] if errors else None},
        "stage_contexts": contexts,
    }


class Job:
    """A graph with values for its hyperparameters, to be run here.

    Example::

        >>> import foundations
        >>> stage = foundations.create_stage(pow)(2, foundations.Hyperparameter("power"))
        >>> foundations.Job(stage, power=3).run()
        8
    """

    def __init__(self, stage: Stage, **kwargs: Any) -> None:
        self._stage = stage
        self._kwargs = kwargs

    def kwargs(self) -> Dict[str, Any]:
        """The values of the hyperparameters."""
        return dict(self._kwargs)

    def uuid(self) -> str:
        """The last stage's uuid."""
        return self._stage.uuid()

    def run(self) -> Any:
        """Runs the graph in this process; returns the last stage's result."""
        return self._stage.run_same_process(**self._kwargs)

    def serialize(self) -> bytes:
        """The graph as bytes, for `deserialize`.

        :raises SubmissionError: something in it cannot be pickled.
        """
        from . import carry

        return carry.pack(self._stage, self._kwargs, None, 0)

    @staticmethod
    def deserialize(serialized: bytes) -> Job:
        """The job that `serialize` wrote down. Only for bytes that you trust, as any pickle."""
        from . import carry

        graph = carry.unpack(serialized)
        return Job(graph["last"], **graph["params"])


class JobPersister:
    """Where results of jobs are read from: the cluster.

    Example::

        import foundations
        with foundations.JobPersister.load_archiver_fetch() as fetch:
            print(foundations.ResultReader(fetch).get_job_information())
    """

    @staticmethod
    def load_archiver_fetch() -> ArchiveFetch:
        """What a `ResultReader` reads from, for a ``with`` block; no daemon is asked yet."""
        return ArchiveFetch()


class ArchiveFetch:
    """The jobs of this project that ran stages."""

    def __enter__(self) -> ArchiveFetch:
        return self

    def __exit__(self, *error: object) -> None:
        return

    def jobs(self) -> Iterator[Dict[str, Any]]:
        """Ended jobs that ran stages, with their runs under ``runs``; newest first.

        :raises DaemonError: no daemon answers.
        """
        from .. import _config, _context

        project = _config.project_name() or _context.project_name() or "default"
        for line in _client.default().jobs(project=project):
            if not any(one.get("key") == record.NAME for one in line.get("artifacts") or [{"key": record.NAME}]):
                continue
            try:
                yield dict(line, runs=runs_of(line["id"]))
            except NotFoundError:
                continue


class ResultReader:
    """Tables of what stages have made; needs pandas.

    Example::

        import foundations
        with foundations.JobPersister.load_archiver_fetch() as fetch:
            reader = foundations.ResultReader(fetch)
            print(reader.get_results())
    """

    def __init__(self, fetch: ArchiveFetch) -> None:
        self._jobs = list(fetch.jobs())

    def get_job_information(self) -> Any:
        """A row per stage of each job: job, stage, what it needs, arguments, state, times, and whether it was found."""
        rows = []
        for job, one in self._each():
            rows.append(
                {
                    "job_name": job["id"],
                    "stage_id": one["uuid"],
                    "parent_ids": one["needs"],
                    "stage_name": one["name"],
                    "args": one["arguments"],
                    "status": one["state"],
                    "used_cache": bool(one["hit"]),
                    "delta_time": one["seconds"],
                    "has_unstructured_result": one["output"] is not None,
                }
            )
        return _table(rows)

    def get_results(self) -> Any:
        """A row per stage of each job, a column per metric (its last value)."""
        rows = []
        for job, one in self._each():
            row = {"job_name": job["id"], "stage_id": one["uuid"], "stage_name": one["name"]}
            row.update({metric["key"]: metric["value"] for metric in one["log"]})
            rows.append(row)
        return _table(rows)

    def get_unstructured_results(self, job_name: str, stage_ids: Sequence[str]) -> List[Any]:
        """The results that stages have kept with `persist`; None for those that have none."""
        kept = {one["uuid"] for job, one in self._each() if job["id"] == job_name and one["output"]}
        return [output_of(job_name, uuid) if uuid in kept else None for uuid in stage_ids]

    def get_error_information(self, job_name: str, stage_id: Optional[str] = None) -> Optional[Dict[str, Any]]:
        """Type, text and traceback of what a stage, or the first that failed, has raised; None: nothing."""
        for job, one in self._each():
            if job["id"] == job_name and one["error"] and stage_id in (None, one["uuid"]):
                return one["error"]
        return None

    def get_source_code(self, stage_id: str) -> Optional[str]:
        """The source of a stage's function as it was when the job ran; None: it is not known."""
        for job in self._jobs:
            for run in job["runs"]:
                for one in run["stages"]:
                    if one["uuid"] == stage_id:
                        return run["sources"].get(one["function"])
        return None

    def create_working_copy(self, job_name: str, path: str) -> None:
        """Brings the job's directory, with its outputs, to `path`.

        :raises SubmissionError: the program said why it cannot be had.
        """
        import subprocess

        from .. import _home
        from .._errors import SubmissionError

        binary = _home.binary()
        if binary is None:
            raise SubmissionError("the program fnode is not on PATH; install it, or set FNODE_BIN to where it is")
        os.makedirs(path, exist_ok=True)
        done = subprocess.run([binary, "job", "get", job_name, "--to", path], capture_output=True, text=True)
        if done.returncode != 0:
            lines = done.stderr.strip().splitlines() or ["fnode job get ended with {}".format(done.returncode)]
            raise SubmissionError(lines[-1])

    def _each(self) -> Iterator[Any]:
        for job in self._jobs:
            for one in _stages(job["runs"]):
                yield job, one


def _table(rows: List[Dict[str, Any]]) -> Any:
    try:
        import pandas
    except ImportError:
        raise MissingPackageError("results of stages come as data frames, and pandas is not installed") from None
    return pandas.DataFrame(rows)
