"""Compatibility: ``from foundations.artifacts.syncable_directory import SyncableDirectory``."""

from .._artifacts import SyncableDirectory, create_syncable_directory

__all__ = ["SyncableDirectory", "create_syncable_directory"]
