"""Which job this process belongs to, as its environment tells. Nothing here is asked of a daemon."""

from __future__ import annotations

import os


def job_id() -> str | None:
    """The id of the job that this process belongs to; None: it is no job."""
    return os.environ.get("FNODE_JOB_ID") or None


def is_tracked() -> bool:
    """Whether there is a track file to write to."""
    return bool(os.environ.get("FNODE_TRACK"))


def project_name() -> str | None:
    """The project of the job, if this process belongs to one."""
    return os.environ.get("FNODE_PROJECT") or os.environ.get("FOUNDATIONS_PROJECT_NAME") or None


def user_name() -> str:
    """Who submitted the job; outside of one, who runs this process."""
    for name in ("FNODE_USER", "FOUNDATIONS_USER", "USER", "LOGNAME"):
        if os.environ.get(name):
            return os.environ[name]
    return "default"


def artifacts_dir() -> str | None:
    """The directory, outside of the working copy, whose files the node keeps with the job."""
    return os.environ.get("FNODE_ARTIFACTS_DIR") or None
