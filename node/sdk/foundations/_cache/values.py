"""What values are made of: containers, and objects by their class and state, as pickle would take them apart."""

from __future__ import annotations

import copyreg
import functools
import types

from . import atoms, packages, tree
from .graph import Node

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, List

    from .walk import Walk

# Types of the standard library whose objects never change, or that say nothing but what they are.
_CONSTANT_MODULES = frozenset(
    "datetime decimal uuid fractions re typing types operator zoneinfo _operator enum ipaddress".split()
)
# What has no content that a result could depend on: locks, loggers, the standard streams, the environment.
_EMPTY_NODES = {
    ("_thread", "lock"): b"lock",
    ("_thread", "RLock"): b"lock",
    ("_thread", "_local"): b"local",
    ("_thread", "_localdummy"): b"local",
    ("threading", "Condition"): b"lock",
    ("threading", "Semaphore"): b"lock",
    ("threading", "Event"): b"lock",
    ("logging", "Logger"): b"logger",
    ("logging", "LoggerAdapter"): b"logger",
    ("os", "_Environ"): b"environment",
}
_LIST_STEP = 4096


def _of_tuple(value: Any, walk: Walk) -> Node:
    return Node(b"tuple", value)


def _of_list(value: Any, walk: Walk) -> Node:
    if not walk.covered:
        walk.watches.list(value)
    if len(value) >= _LIST_STEP:
        packed = _packed(value)
        if packed is not None:
            return packed
    return Node(b"list", list(value))


def _packed(value: List[Any]) -> Any:
    """A long list of numbers of one type, without a step per element."""
    kinds = set(map(type, value))
    if kinds == {float}:
        from array import array

        data = array("d", value)
        if any(number != number for number in value):
            return None
        return Node(b"list of float " + tree.digest(memoryview(data).cast("B")))
    if kinds == {int}:
        return Node(b"list of int " + tree.digest(memoryview(" ".join(map(hex, value)).encode())))
    return None


def _of_dict(value: Any, walk: Walk) -> Node:
    if not walk.covered:
        walk.watches.mapping(value)
    return _items(b"dict", dict(value).items())


def _items(head: bytes, items: Any) -> Node:
    """Pairs in no order: sorted where all keys are plain, else sorted by their digests."""
    plain, others = [], []
    for key, content in items:
        encoded = atoms.encode(key)
        if encoded is None:
            others.append(Node(b"pair", (key, content), names=["{key}", "{…}"]))
        else:
            plain.append((encoded, key, content))
    plain.sort(key=lambda entry: entry[0])
    keys = b"".join(encoded for encoded, _, _ in plain)
    parts = [content for _, _, content in plain]
    names = _Keys([key for _, key, _ in plain])
    return Node(head + b" %d " % len(plain) + keys, parts, others, names=names)


class _Keys:
    """Names of a dict's values, written only when one is told."""

    __slots__ = ("_keys",)

    def __init__(self, keys: List[Any]) -> None:
        self._keys = keys

    def __getitem__(self, at: int) -> str:
        text = repr(self._keys[at])
        return "[{}]".format(text if len(text) < 60 else "…")


def _of_set(value: Any, walk: Walk) -> Node:
    if not walk.covered and type(value) is set:
        walk.watches.list(value)
    return Node(b"set" if isinstance(value, set) else b"frozenset", (), list(value))


def _of_range(value: Any, walk: Walk) -> Node:
    return Node(b"range %d" % len(value), [value[0], value.step] if len(value) else ())


def _of_slice(value: Any, walk: Walk) -> Node:
    return Node(b"slice", [value.start, value.stop, value.step])


def _of_partial(value: Any, walk: Walk) -> Node:
    return Node(b"partial", [value.func, value.args, value.keywords, value.__dict__], names=[".func", ".args", "", ""])


def _of_partial_method(value: Any, walk: Walk) -> Node:
    return Node(b"partialmethod", [value.func, value.args, value.keywords], names=[".func", ".args", ""])


def of_buffer(value: Any, walk: Walk) -> Node:
    """A bytearray, an array, a view on memory: type, format and bytes."""
    watch_again(value, walk, of_buffer)
    view = memoryview(value)
    word = "{} {} {}".format(type(value).__name__, view.format, view.shape)
    flat = view.cast("B") if view.c_contiguous and view.nbytes else memoryview(view.tobytes())
    return Node(b"buffer " + word.encode() + tree.digest(flat))


def watch_again(value: Any, walk: Walk, describer: Any) -> None:
    """For things without parts that can change: they are described again to see whether they did."""
    if walk.covered:
        return
    from .walk import Walk as Anew

    kept: List[bytes] = []

    def holds() -> bool:
        head = describer(value, Anew()).head
        if not kept:
            kept.append(head)
        return head == kept[0]

    holds()
    walk.watches.check(holds)


def of_object(value: Any, walk: Walk) -> Node:
    """Any other object: its class, and the state that it would be pickled with."""
    kind = type(value)
    if hasattr(kind, "__next__"):
        raise _unhashable(value, "is an iterator, which a call uses up; pass a list")
    reduced = _reduced(value)
    if isinstance(reduced, str):
        return _of_global(value, reduced, walk)
    maker, arguments, *rest = reduced
    state, elements, items = (list(rest) + [None, None, None])[:3]
    elements = None if elements is None else list(elements)
    pairs = None if items is None else list(items)
    constant = _is_constant(kind)
    covers = False
    if not walk.covered and not constant:
        covers = _watch_object(value, walk)
    parts: List[Any] = [kind, maker, tuple(arguments), _visible(kind, state), elements]
    names = ["", "", "", "", ""]
    if pairs is not None:
        if kind.__name__ == "OrderedDict":
            parts.append(pairs)
        else:
            parts.append(_items(b"items", pairs))
        names.append("")
    node = Node(b"object", parts, names=names)
    node.covered = covers
    return node


def _reduced(value: Any) -> Any:
    kind = type(value)
    try:
        reducer = copyreg.dispatch_table.get(kind)
        reduced = reducer(value) if reducer is not None else value.__reduce_ex__(4)
    except Exception as error:
        wrapped = getattr(value, "__wrapped__", None)
        if wrapped is not None:
            return (_wrapper_of, (kind, wrapped))
        raise _unhashable(value, "cannot be taken apart: {}".format(error)) from None
    if isinstance(reduced, str) or (isinstance(reduced, tuple) and len(reduced) >= 2):
        return reduced
    raise _unhashable(value, "cannot be taken apart")


def _wrapper_of(kind: type, wrapped: Any) -> None:
    """Stands for a compiled wrapper of a function in digests."""


def _visible(kind: type, state: Any) -> Any:
    """The state without what `functools.cached_property` has put into it: that follows from the rest."""
    if type(state) is dict and not state:
        return None
    if type(state) is not dict:
        if type(state) is tuple and len(state) == 2 and type(state[0]) is dict:
            return (_visible(kind, state[0]), state[1])
        return state
    derived = [key for key in state if isinstance(getattr(kind, str(key), None), functools.cached_property)]
    return ({key: content for key, content in state.items() if key not in derived} or None) if derived else state


def _is_constant(kind: type) -> bool:
    if kind.__module__ in _CONSTANT_MODULES:
        return True
    return any(base.__module__ == "enum" and base.__name__ == "Enum" for base in kind.__mro__)


def _watch_object(value: Any, walk: Walk) -> bool:
    """Watches an object; True: it is looked at as a whole, so nothing below it has to be watched."""
    kind = type(value)
    own = getattr(value, "__dict__", None)
    plain = kind.__reduce_ex__ is object.__reduce_ex__ and kind.__reduce__ is object.__reduce__
    plain = plain and getattr(kind, "__getstate__", None) is getattr(object, "__getstate__", None)
    bases = kind.__mro__[:-1]
    if plain and type(own) is dict and not any("__slots__" in vars(base) and vars(base)["__slots__"] for base in bases):
        if not issubclass(kind, (list, dict, set)):
            walk.watches.instance(value, kind, own)
            return False
    from .walk import Unhashable
    from .walk import Walk as Anew

    before = Anew().digest(value, "")

    def holds() -> bool:
        try:
            return Anew().digest(value, "") == before
        except Unhashable:
            return False

    walk.watches.check(holds)
    return True


def _of_global(value: Any, name: str, walk: Walk) -> Node:
    """What pickle would find again by name."""
    module = getattr(value, "__module__", None) or type(value).__module__
    package = packages.of_module(module)
    if package is not None:
        walk.packages.add(package)
    return Node(b"global " + name.encode("utf-8", "surrogatepass"), [type(value)])


def _of_empty(value: Any, walk: Walk) -> Node:
    for base in type(value).__mro__:
        word = _EMPTY_NODES.get((base.__module__, base.__name__))
        if word is not None:
            return Node(b"empty " + word)
    raise AssertionError("registered for types of _EMPTY_NODES alone")


def _of_field(field: Any, walk: Walk) -> Node:
    """A field of a dataclass; its type is text that follows from the class's annotations."""
    parts = [field.name, field.default, field.default_factory, field.init, field.repr, field.hash, field.compare]
    return Node(b"field", [*parts, dict(field.metadata), getattr(field, "kw_only", None)])


def _unhashable(value: Any, why: str) -> Exception:
    from .walk import Unhashable

    kind = type(value)
    module = "" if kind.__module__ == "builtins" else kind.__module__ + "."
    return Unhashable("({}{}) {}".format(module, kind.__qualname__, why))


EXACT: Dict[type, Any] = {
    tuple: _of_tuple,
    list: _of_list,
    dict: _of_dict,
    set: _of_set,
    frozenset: _of_set,
    range: _of_range,
    slice: _of_slice,
    bytearray: of_buffer,
    memoryview: of_buffer,
    types.MappingProxyType: lambda value, walk: _items(b"mapping", dict(value).items()),
    functools.partial: _of_partial,
    functools.partialmethod: _of_partial_method,
}
NAMED: Dict[Any, Any] = {
    ("array", "array"): of_buffer,
    ("dataclasses", "Field"): _of_field,
    **dict.fromkeys(_EMPTY_NODES, _of_empty),
}
