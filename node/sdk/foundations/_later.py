"""Names of Foundations whose part is not there yet: importing them works, using them says so in one line."""

from __future__ import annotations

from ._errors import NotAvailableYetError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn


class _Later:
    """A name that raises when it is called or looked into."""

    def __init__(self, name: str, part: str, instead: str) -> None:
        self.__name__ = self.__qualname__ = name
        self.__doc__ = "Part of {}, which fnode does not have yet.".format(part)
        self._text = "foundations.{} belongs to {}, which fnode does not have yet; {}".format(name, part, instead)

    def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise NotAvailableYetError(self._text)

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__"):
            # What inspection asks of any object.
            raise AttributeError(name)
        raise NotAvailableYetError(self._text)

    def __repr__(self) -> str:
        return "<foundations.{}, not there yet>".format(self.__name__)


_SEARCHES = ("searches over stages", "submit one job per set of parameters, with foundations.submit(params=…)")

DiscreteHyperparameter = _Later("DiscreteHyperparameter", *_SEARCHES)
FloatingHyperparameter = _Later("FloatingHyperparameter", *_SEARCHES)
IntegerHyperparameter = _Later("IntegerHyperparameter", *_SEARCHES)
track_production_metrics = _Later(
    "track_production_metrics", "Orbit's monitoring of models", "log the number with foundations.log_metric"
)
