"""Compatibility: names that Foundations kept in ``foundations.projects``."""

from ._config import set_project_name
from ._frames import get_metrics_for_all_jobs
from ._tracking import set_tag

__all__ = ["get_metrics_for_all_jobs", "set_project_name", "set_tag"]
