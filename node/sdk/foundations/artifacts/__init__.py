"""Compatibility: ``foundations.artifacts.create_syncable_directory`` and its kin."""

from .._artifacts import SyncableDirectory, create_syncable_directory, save_artifact, set_tensorboard_logdir

__all__ = ["SyncableDirectory", "create_syncable_directory", "save_artifact", "set_tensorboard_logdir"]
