"""Values as JSON text for the track file, and back.

Scalars of numpy, torch and the like are taken without importing these packages: whatever has no dimension and
an `item()` is what that returns. JSON has no NaN and no infinity: they are written ``{"f":"nan"}``,
``{"f":"inf"}``, ``{"f":"-inf"}``, so nothing needs to be clipped before it is logged.
"""

from __future__ import annotations

from json.encoder import encode_basestring as quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# What a reader can hold without losing digits; larger numbers become floating point.
_INT_MIN, _INT_MAX = -(1 << 63), (1 << 64) - 1

# Longest nesting of a parameter: deeper ones are a mistake, or refer to themselves.
_DEPTH_MAX = 64


def scalar(value: object) -> object:
    """What a scalar of an array package holds; anything else as it is."""
    if getattr(value, "ndim", None) != 0:
        return value
    item = getattr(value, "item", None)
    if item is None:
        # An eager TensorFlow tensor.
        to_numpy = getattr(value, "numpy", None)
        item = getattr(to_numpy(), "item", None) if to_numpy else None
    return item() if item else value


def is_single(value: object) -> bool:
    """Whether this is a number, a truth value or a text, also as an array package's scalar."""
    return isinstance(scalar(value), (bool, int, float, str))


def single_text(value: Any) -> str | None:
    """JSON of a number, a truth value or a text; None when it is none of these."""
    kind = type(value)
    if kind is float:
        return repr(value) if value - value == 0.0 else _special(value)
    if kind is int:
        return repr(value) if _INT_MIN <= value <= _INT_MAX else _large(value)
    if kind is str:
        return quote(value)
    if kind is bool:
        return "true" if value else "false"
    return _odd_text(value)


def _odd_text(value: object) -> str | None:
    """As `single_text`, for subclasses and array packages; numpy's float64 is both."""
    value = scalar(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return single_text(float(value))
    if isinstance(value, int):
        return single_text(int(value))
    if isinstance(value, str):
        return quote(str.__str__(value))
    return None


def _special(value: float) -> str:
    if value != value:
        return '{"f":"nan"}'
    return '{"f":"inf"}' if value > 0 else '{"f":"-inf"}'


def _large(value: int) -> str:
    try:
        return repr(float(value))
    except OverflowError:
        return _special(float("inf") if value > 0 else float("-inf"))


def json_text(value: object, what: str) -> str:
    """JSON of anything that JSON can hold.

    Raises `TypeError`, naming `what`, for what it cannot hold, and `ValueError` for what is nested too deep.
    """
    parts: list[str] = []
    _write(value, parts, what, 0)
    return "".join(parts)


def _write(value: object, parts: list[str], what: str, depth: int) -> None:
    if depth > _DEPTH_MAX:
        raise ValueError("{} is nested deeper than {} levels, or holds itself".format(what, _DEPTH_MAX))
    text = "null" if value is None else single_text(value)
    if text is not None:
        parts.append(text)
        return
    if isinstance(value, dict):
        parts.append("{")
        for at, (key, held) in enumerate(value.items()):
            parts.append(("," if at else "") + quote(str(key)) + ":")
            _write(held, parts, what, depth + 1)
        parts.append("}")
        return
    to_list = getattr(value, "tolist", None)
    if to_list is not None and not isinstance(value, (list, tuple)):
        value = to_list()
    if isinstance(value, (list, tuple, set, frozenset)):
        parts.append("[")
        for at, held in enumerate(value):
            if at:
                parts.append(",")
            _write(held, parts, what, depth + 1)
        parts.append("]")
        return
    raise TypeError(
        "{} holds a value of type {}, which JSON cannot hold; "
        "give numbers, strings, booleans, None, lists and dicts".format(what, type(value).__name__)
    )


def restored(value: object) -> object:
    """A value read back: NaN and infinities are numbers again, inside lists and dicts too."""
    if isinstance(value, dict):
        if len(value) == 1 and value.get("f") in ("nan", "inf", "-inf"):
            return float(value["f"])
        return {key: restored(held) for key, held in value.items()}
    if isinstance(value, list):
        return [restored(held) for held in value]
    return value
