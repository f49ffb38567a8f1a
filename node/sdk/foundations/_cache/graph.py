"""Digests of things that refer to each other, in circles too: functions that call each other, classes, values.

Equal is what unfolds to the same, so neither addresses nor the order of discovery count, nor whether two equal
parts are one object or two. Circles are told apart by refining: each round hashes a thing together with the digests
that its parts had in the round before, until no two things become different any more.
"""

from __future__ import annotations

from hashlib import sha256

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, List, Tuple, Union

    Part = Union[bytes, int]

_EMPTY = ()
# Hashes that one circle may take by refining; a long chain that can be walked both ways would take the square of its
# length.
_REFINING_MAX = 200_000


class Entangled(Exception):
    """A circle too large to be told apart, because parts of it are in no order."""


class Node:
    """A thing: its own bytes, its parts in order, its parts in no order; names of the ordered parts for people."""

    __slots__ = ("head", "ordered", "unordered", "names", "label", "covered")

    def __init__(
        self, head: bytes, ordered: Any = _EMPTY, unordered: Any = _EMPTY, names: Any = None, label: Any = None
    ) -> None:
        self.head = head
        self.ordered = ordered
        self.unordered = unordered
        self.names = names
        # (kind, name) of what `why` may name as the difference.
        self.label = label
        # Whether what is below need not be watched, because the whole is looked at again.
        self.covered = False


class Placed:
    """A node in a graph: its parts are bytes, or numbers of other nodes."""

    __slots__ = ("head", "ordered", "unordered", "parent", "at", "names", "label")

    def __init__(self, node: Node, parent: int, at: int) -> None:
        self.head = node.head
        self.ordered: List[Part] = []
        self.unordered: List[Part] = []
        # Where it was reached first: which part of which node. Negative: of none, or in no order.
        self.parent = parent
        self.at = at
        self.names = node.names
        self.label = node.label


def digests(nodes: List[Placed]) -> List[bytes]:
    """The digest of each node, 32 bytes."""
    found: List[bytes] = [b""] * len(nodes)
    for component in _components(nodes):
        if len(component) == 1 and component[0] not in _edges(nodes[component[0]]):
            found[component[0]] = _hash(nodes[component[0]], found)
        else:
            _refine(nodes, component, found)
    return found


def _edges(node: Placed) -> List[int]:
    return [part for parts in (node.ordered, node.unordered) for part in parts if type(part) is int]


def _hash(node: Placed, found: Any) -> bytes:
    pieces = [b"%x:" % len(node.head), node.head, b"%x," % len(node.ordered)]
    for part in node.ordered:
        pieces.append(part if type(part) is bytes else b"d" + found[part])
    if node.unordered:
        pieces.append(b"%x;" % len(node.unordered))
        pieces.extend(sorted(part if type(part) is bytes else b"d" + found[part] for part in node.unordered))
    return sha256(b"".join(pieces)).digest()


def _refine(nodes: List[Placed], component: List[int], found: List[bytes]) -> None:
    """Digests of nodes that reach each other."""
    now = dict.fromkeys(component, b"circle")
    classes = 0
    budget = _REFINING_MAX
    while True:
        budget -= len(component)
        if budget < 0:
            _write_out(nodes, component, found)
            return
        view = _Overlay(found, now)
        after = {index: _hash(nodes[index], view) for index in component}
        count = len(set(after.values()))
        if count == classes:
            break
        classes, now = count, after
    # The map from one round to the next belongs to the digest: where it is equal for two circles whose digests are
    # equal, every further round is equal, too.
    steps = b"".join(sorted({now[index] + after[index] for index in component}))
    for index in component:
        found[index] = sha256(b"circle" + after[index] + steps).digest()


def _write_out(nodes: List[Placed], component: List[int], found: List[bytes]) -> None:
    """Digests of a large circle's entries, each by writing the circle down from there with its nodes numbered.

    Here sharing counts: two equal nodes are not one. A circle that is made the same way is written the same way.
    """
    inside = set(component)
    entries = {0} & inside
    for index, node in enumerate(nodes):
        if index not in inside:
            entries.update(edge for edge in _edges(node) if edge in inside)
    for entry in entries:
        numbers = {entry: 0}
        order = [entry]
        hasher = sha256(b"written")
        for index in order:
            node = nodes[index]
            if node.unordered:
                raise Entangled
            hasher.update(b"%x:%b%x," % (len(node.head), node.head, len(node.ordered)))
            for part in node.ordered:
                if type(part) is bytes:
                    hasher.update(part)
                elif part not in inside:
                    hasher.update(b"d" + found[part])
                else:
                    if part not in numbers:
                        numbers[part] = len(order)
                        order.append(part)
                    hasher.update(b"n%x;" % numbers[part])
        found[entry] = hasher.digest()


class _Overlay:
    """The digests so far, with those of the circle that is being refined on top."""

    __slots__ = ("_below", "_above")

    def __init__(self, below: List[bytes], above: Dict[int, bytes]) -> None:
        self._below = below
        self._above = above

    def __getitem__(self, index: int) -> bytes:
        digest = self._above.get(index)
        return self._below[index] if digest is None else digest


def _components(nodes: List[Placed]) -> List[List[int]]:
    """Strongly connected components, each after those that it reaches (Tarjan 1972), without recursion."""
    order: Dict[int, int] = {}
    low: Dict[int, int] = {}
    on_path: Dict[int, bool] = {}
    path: List[int] = []
    components: List[List[int]] = []
    for root in range(len(nodes)):
        if root in order:
            continue
        work: List[Tuple[int, Any]] = [(root, iter(_edges(nodes[root])))]
        order[root] = low[root] = len(order)
        path.append(root)
        on_path[root] = True
        while work:
            index, edges = work[-1]
            into = next((edge for edge in edges if edge not in order or on_path[edge]), None)
            if into is None:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[index])
                if low[index] == order[index]:
                    components.append(_popped(path, on_path, index))
            elif into in order:
                low[index] = min(low[index], order[into])
            else:
                order[into] = low[into] = len(order)
                path.append(into)
                on_path[into] = True
                work.append((into, iter(_edges(nodes[into]))))
    return components


def _popped(path: List[int], on_path: Dict[int, bool], until: int) -> List[int]:
    component = []
    while True:
        index = path.pop()
        on_path[index] = False
        component.append(index)
        if index == until:
            return component
