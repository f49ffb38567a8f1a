"""Compatibility: names that Foundations kept under ``foundations.prototype`` up to 2019."""

from ._frames import get_metrics_for_all_jobs
from ._queue import archive_jobs, cancel_queued_jobs, get_queued_jobs
from ._tracking import set_tag

__all__ = ["archive_jobs", "cancel_queued_jobs", "get_metrics_for_all_jobs", "get_queued_jobs", "set_tag"]
