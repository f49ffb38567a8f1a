"""Compatibility: ``foundations.global_state`` (and ``foundations_contrib.global_state``), which user code imports.

A small facade of what was internal: the current job, the configuration and the loggers. There is no Redis here,
and no message router; looking into these says so.
"""

from __future__ import annotations

from . import _context
from ._config import config_manager
from ._console import log_manager
from ._errors import NotAvailableYetError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

__all__ = [
    "config_manager",
    "current_foundations_context",
    "current_foundations_job",
    "log_manager",
    "message_router",
    "redis_connection",
]


class FoundationsJob:
    """The job that this process belongs to, if it does."""

    @property
    def job_id(self) -> str:
        """Its id. Raises `ValueError` when this process is no job."""
        job_id = _context.job_id()
        if job_id is None:
            raise ValueError("Job ID is currently undefined, please set before retrieving")
        return job_id

    @property
    def project_name(self) -> str:
        """Its project; ``default`` when this process is no job."""
        return _context.project_name() or "default"

    @property
    def user_name(self) -> str:
        """Who submitted it, or runs this process."""
        return _context.user_name()

    def is_in_running_job(self) -> bool:
        """Whether this process is a job."""
        return _context.job_id() is not None


class _Absent:
    """Something that fnode has no counterpart of."""

    def __init__(self, name: str, instead: str) -> None:
        self._text = "foundations.global_state.{} does not exist in fnode: {}".format(name, instead)

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__"):
            raise AttributeError(name)
        raise NotAvailableYetError(self._text)


_job = FoundationsJob()
redis_connection = _Absent("redis_connection", "there is no Redis; read jobs with get_metrics_for_all_jobs")
message_router = _Absent("message_router", "nothing is routed; use log_metric, log_param and set_tag")


def current_foundations_job() -> FoundationsJob:
    """The job that this process belongs to; its `job_id` raises `ValueError` when it is none.

    Example::

        >>> from foundations.global_state import current_foundations_job
        >>> current_foundations_job().is_in_running_job()
        False
    """
    return _job


def current_foundations_context() -> FoundationsJob:
    """The same, under its older name."""
    return _job
