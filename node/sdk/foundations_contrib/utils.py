"""Compatibility: ``from foundations_contrib.utils import foundations_home``."""

from foundations._config import foundations_home

__all__ = ["foundations_home"]
