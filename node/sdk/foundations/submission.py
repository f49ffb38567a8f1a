"""Compatibility: ``from foundations.submission import submit``."""

from ._submit import deploy, submit

__all__ = ["deploy", "submit"]
