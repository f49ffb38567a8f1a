"""What a stage's function may be told of its stage: `context_aware`."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, Optional

MARK = "_foundations_context_aware"


class StageContext:
    """What is known of a stage while it runs: ``uuid``, ``name``, and ``meta_data``, a dict that is told, too."""

    def __init__(self, uuid: str, name: str) -> None:
        self.uuid = uuid
        self.name = name
        self.meta_data: Dict[str, Any] = {}

    def log_metric(self, key: str, value: Any, step: Optional[int] = None) -> None:
        """As `foundations.log_metric`."""
        from .._tracking import log_metric

        log_metric(key, value, step)

    def set_tag(self, key: str, value: object = "") -> None:
        """As `foundations.set_tag`."""
        from .._tracking import set_tag

        set_tag(key, value)


def context_aware(function: Callable[..., Any]) -> Callable[..., Any]:
    """Marks a function of a stage that is to be given a `StageContext` before its other arguments.

    Example::

        >>> import foundations
        >>> @foundations.context_aware
        ... def train(context, rate):
        ...     context.meta_data["rate"] = rate
        ...     return context.name
        >>> foundations.create_stage(train)(0.1).run_same_process()
        'train'
    """
    setattr(function, MARK, True)
    return function


def is_context_aware(function: Any) -> bool:
    """Whether `context_aware` has marked it."""
    return bool(getattr(function, MARK, False))
