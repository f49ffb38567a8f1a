"""Which of the describing functions knows a thing, by its type."""

from __future__ import annotations

from . import arrays, code, files, values

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict

    from .graph import Node
    from .walk import Walk

    Describer = Callable[[Any, Walk], Node]

# Types that say themselves what they are made of, by a method of this name.
OWN_WORD = "_foundations_describe"
_TYPES_MAX = 20_000

_EXACT: Dict[type, Describer] = {**code.EXACT, **values.EXACT}
# By module and name of a class, so that no package is imported for it; subclasses follow their base.
_NAMED: Dict[Any, Describer] = {**arrays.NAMED, **files.NAMED, **values.NAMED}
_found: Dict[type, Describer] = {}


def describe(value: Any, walk: Walk) -> Node:
    """What `value` is made of.

    :raises Unhashable: nothing that could be told from its content.
    """
    kind = type(value)
    describer = _EXACT.get(kind) or _found.get(kind)
    if describer is None:
        describer = _find(kind)
        if len(_found) > _TYPES_MAX:
            _found.clear()
        _found[kind] = describer
    return describer(value, walk)


def _find(kind: type) -> Describer:
    if issubclass(kind, type):
        return code.of_class
    if hasattr(kind, OWN_WORD):
        return lambda value, walk: getattr(value, OWN_WORD)(walk)
    for base in kind.__mro__:
        module = (getattr(base, "__module__", None) or "").partition(".")[0]
        describer = _NAMED.get((module, base.__name__))
        if describer is not None:
            return describer
    return values.of_object
