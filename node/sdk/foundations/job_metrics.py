"""Compatibility: ``from foundations.job_metrics import log_metric``."""

from ._tracking import log_metric, log_metrics

__all__ = ["log_metric", "log_metrics"]
