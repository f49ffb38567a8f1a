"""One draw from a space of parameters."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, Mapping

__all__ = ["generate_random_parameters"]


def generate_random_parameters(parameter_ranges: Mapping[str, Any]) -> Dict[str, Any]:
    """Draws a value for each parameter that is given as a range; other values pass through.

    :param parameter_ranges: per name ``{"min": a, "max": b}`` for a uniform float (both ends possible); with
        ``"min_count"`` and ``"max_count"`` (or ``"count_min"``, ``"count_max"``) a list of as many floats, both
        counts possible. A dict without ``min`` and ``max`` is a space of its own.
    :raises TypeError: not a dict.
    :raises ValueError: a range is not one of numbers, or a count not a whole number.

    Example::

        >>> from foundations.parameters.generate_random_parameters import generate_random_parameters
        >>> generate_random_parameters({"rate": {"min": 0.5, "max": 0.5}, "epochs": 3})
        {'rate': 0.5, 'epochs': 3}
    """
    if not isinstance(parameter_ranges, dict):
        raise TypeError(
            "generate_random_parameters takes a dict of ranges, not {}".format(type(parameter_ranges).__name__)
        )
    return {name: _draw(name, given) for name, given in parameter_ranges.items()}


def _draw(name: str, given: Any) -> Any:
    if not isinstance(given, dict):
        return given
    if "min" not in given or "max" not in given:
        return generate_random_parameters(given)
    from random import randint, uniform

    low, high = given["min"], given["max"]
    for end in (low, high):
        if isinstance(end, bool) or not isinstance(end, (int, float)):
            raise ValueError("the range of `{}` has {!r} for an end; give numbers".format(name, end))
    least: Any = given.get("min_count", given.get("count_min"))
    most: Any = given.get("max_count", given.get("count_max"))
    if least is None and most is None:
        return uniform(low, high)
    least, most = (most if least is None else least), (least if most is None else most)
    for count in (least, most):
        if isinstance(count, bool) or not isinstance(count, int) or count < 0:
            raise ValueError("the range of `{}` has {!r} for a count; give whole numbers".format(name, count))
    if least > most:
        raise ValueError("the range of `{}` asks for {} to {} values; swap them".format(name, least, most))
    return [uniform(low, high) for _ in range(randint(least, most))]
