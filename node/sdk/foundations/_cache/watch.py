"""Whether what a digest was made of is still the same, looked at cheaply: by identity, not by content.

What cannot be looked at so (arrays, objects that describe themselves) is hashed again.
"""

from __future__ import annotations

from operator import is_

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, List, Tuple

MISSING: Any = object()


class Watches:
    """What was seen. `hold` says whether it would be seen again."""

    __slots__ = ("_namespaces", "_functions", "_cells", "_mappings", "_instances", "_lists", "_checks", "_frozen")

    def __init__(self) -> None:
        self._namespaces: Dict[int, Tuple[Any, Dict[str, Any]]] = {}
        self._functions: List[Tuple[Any, Any, Any, Any]] = []
        self._cells: List[Tuple[Any, Any]] = []
        self._mappings: List[Tuple[Any, Tuple[Any, ...], Tuple[Any, ...]]] = []
        self._instances: List[Tuple[Any, type, Any]] = []
        self._lists: List[Tuple[Any, Tuple[Any, ...]]] = []
        self._checks: List[Callable[[], bool]] = []
        self._frozen: Any = None

    def name(self, namespace: Any, name: str) -> Any:
        """Looks a name up, and remembers what was found; `MISSING`: nothing."""
        value = namespace.get(name, MISSING)
        self._namespaces.setdefault(id(namespace), (namespace, {}))[1][name] = value
        return value

    def function(self, function: Any) -> None:
        """Its code and its defaults."""
        self._functions.append((function, function.__code__, function.__defaults__, function.__kwdefaults__))

    def cell(self, cell: Any) -> Any:
        """What a variable of an enclosing function holds; `MISSING`: nothing yet."""
        content = cell_content(cell)
        self._cells.append((cell, content))
        return content

    def mapping(self, mapping: Any) -> None:
        """Keys and values of a dict or a class's namespace."""
        self._mappings.append((mapping, tuple(mapping), tuple(mapping.values())))

    def instance(self, value: Any, kind: type, attributes: Any) -> None:
        """An object by its class and attributes."""
        self._instances.append((value, kind, attributes))
        self.mapping(attributes)

    def list(self, sequence: Any) -> None:
        """The elements of a list, a set or the like."""
        self._lists.append((sequence, tuple(sequence)))

    def check(self, holds: Callable[[], bool]) -> None:
        """Anything else; `holds` may take its time."""
        self._checks.append(holds)

    def hold(self) -> bool:
        """Whether everything is as it was."""
        try:
            return self._holds()
        except RuntimeError:
            # Another thread changed a dict while it was looked at.
            return False

    def _holds(self) -> bool:
        if self._frozen is None:
            self._frozen = [(ns, tuple(names), tuple(names.values())) for ns, names in self._namespaces.values()]
        for namespace, names, values in self._frozen:
            if not all(map(is_, map(namespace.get, names, _missings(len(names))), values)):
                return False
        for function, code, defaults, kwdefaults in self._functions:
            if function.__code__ is not code or function.__defaults__ is not defaults:
                return False
            if function.__kwdefaults__ is not kwdefaults:
                return False
        for cell, content in self._cells:
            if cell_content(cell) is not content:
                return False
        for mapping, keys, values in self._mappings:
            if len(mapping) != len(keys) or not all(map(is_, mapping, keys)):
                return False
            if not all(map(is_, mapping.values(), values)):
                return False
        for value, kind, attributes in self._instances:
            if type(value) is not kind or value.__dict__ is not attributes:
                return False
        for sequence, elements in self._lists:
            if len(sequence) != len(elements) or not all(map(is_, sequence, elements)):
                return False
        return all(holds() for holds in self._checks)


def cell_content(cell: Any) -> Any:
    """What a cell holds, or `MISSING`."""
    try:
        return cell.cell_contents
    except ValueError:
        return MISSING


_MISSINGS: Dict[int, Tuple[Any, ...]] = {}


def _missings(count: int) -> Tuple[Any, ...]:
    found = _MISSINGS.get(count)
    if found is None:
        found = _MISSINGS[count] = (MISSING,) * count
    return found
