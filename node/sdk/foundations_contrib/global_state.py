"""Compatibility: ``from foundations_contrib.global_state import current_foundations_job``."""

from foundations.global_state import (
    config_manager,
    current_foundations_context,
    current_foundations_job,
    log_manager,
    message_router,
    redis_connection,
)

__all__ = [
    "config_manager",
    "current_foundations_context",
    "current_foundations_job",
    "log_manager",
    "message_router",
    "redis_connection",
]
