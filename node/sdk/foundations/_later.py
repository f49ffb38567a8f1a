"""Names of Foundations whose part is not there yet: importing them works, using them says so in one line."""

from __future__ import annotations

from ._errors import NotAvailableYetError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn


class Later:
    """A name that raises when it is called or looked into."""

    def __init__(self, name: str, part: str, instead: str, package: str = "foundations") -> None:
        self.__name__ = self.__qualname__ = name
        self.__doc__ = "Part of {}, which fnode does not have yet.".format(part)
        self._package = package
        self._text = "{}.{} belongs to {}, which fnode does not have yet; {}".format(package, name, part, instead)

    def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise NotAvailableYetError(self._text)

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__"):
            # What inspection asks of any object.
            raise AttributeError(name)
        raise NotAvailableYetError(self._text)

    def __repr__(self) -> str:
        return "<{}.{}, not there yet>".format(self._package, self.__name__)


_SEARCHES = ("searches over stages", "submit one job per set of parameters, with foundations.submit(params=…)")

DiscreteHyperparameter = Later("DiscreteHyperparameter", *_SEARCHES)
FloatingHyperparameter = Later("FloatingHyperparameter", *_SEARCHES)
IntegerHyperparameter = Later("IntegerHyperparameter", *_SEARCHES)
track_production_metrics = Later(
    "track_production_metrics", "Orbit's monitoring of models", "log the number with foundations.log_metric"
)
