"""From a value or a function to its digest, with what the digest depends on.

A walk describes each thing that it reaches (``code.py`` and ``values.py`` say how), places it in a graph and hashes the
graph. It notes the packages that were met, and what has to be looked at to know that the digest still holds.
"""

from __future__ import annotations

from hashlib import sha256

from . import atoms, graph
from .graph import Node, Placed
from .watch import Watches

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, List, Set, Tuple

# Things of one value or function; more is a mistake, and would take minutes.
_NODES_MAX = 5_000_000


class Unhashable(Exception):
    """Something that no key can be made of: `text` names it for people."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text


class Walk:
    """One walk. `of_code`: the root is code, so code below it is part of the graph and is watched.

    In a walk over a value, code is a leaf whose digest is kept between calls.
    """

    def __init__(self, of_code: bool = False, file: str = "") -> None:
        self.of_code = of_code
        # The file that the root is from: directories around it are where the project lies, no data.
        self.file = file
        self.packages: Set[str] = set()
        self.watches = Watches()
        # Whether the thing being described is below one that is looked at as a whole.
        self.covered = not of_code
        self._nodes: List[Placed] = []
        self._indices: Dict[int, int] = {}
        # Ids are of use only while the things live.
        self._kept: List[object] = []
        self._pending: List[Tuple[int, Node]] = []
        self.parts: Dict[Tuple[str, str], bytes] = {}
        self._name = ""

    def digest(self, root: object, name: str) -> bytes:
        """The digest of `root`, which people know as `name`.

        :raises Unhashable: something that it reaches has no digest; the text names the way there.
        """
        self._name = name
        part = self._enter(root, -1, 0)
        if type(part) is bytes:
            return sha256(b"atom" + part).digest()
        while self._pending:
            index, node = self._pending.pop()
            placed = self._nodes[index]
            self.covered = node.covered
            placed.ordered = [self._enter(child, index, at) for at, child in enumerate(node.ordered)]
            placed.unordered = [self._enter(child, index, -1) for child in node.unordered]
        try:
            found = graph.digests(self._nodes)
        except graph.Entangled:
            raise Unhashable("{} holds thousands of things that all refer to each other".format(name)) from None
        for index, placed in enumerate(self._nodes):
            if placed.label is not None:
                is_code = placed.label[0] in ("function", "class")
                self.parts.setdefault(placed.label, self._own(index, found) if is_code else found[index])
        return found[part]

    def _own(self, index: int, found: List[bytes]) -> bytes:
        """Of a function or class, its own code, defaults and attributes, without what has a label of its own: `why` shall
        name what was edited, and not all that call it."""
        hasher = sha256()
        seen = {index}
        pending: List[Any] = [index]
        while pending:
            part = pending.pop()
            if type(part) is bytes:
                hasher.update(b"a" + part)
                continue
            node = self._nodes[part]
            hasher.update(b"n%x:%b%x," % (len(node.head), node.head, len(node.ordered)))
            hasher.update(b"".join(sorted(one if type(one) is bytes else found[one] for one in node.unordered)))
            for child in reversed(node.ordered):
                if type(child) is bytes:
                    pending.append(child)
                elif self._nodes[child].label is None and child not in seen:
                    seen.add(child)
                    pending.append(child)
        return hasher.digest()

    def _enter(self, value: object, parent: int, at: int) -> Any:
        if type(value) is Node:
            return self._place(value, parent, at)
        encoded = atoms.encode(value)
        if encoded is not None:
            return encoded
        index = self._indices.get(id(value))
        if index is not None:
            return index
        if len(self._nodes) > _NODES_MAX:
            raise Unhashable("{} has more than {} parts".format(self._way(parent, at), _NODES_MAX))
        from . import describe

        covered = self.covered
        try:
            node = describe.describe(value, self)
        except Unhashable as error:
            raise Unhashable("{} {}".format(self._way(parent, at), error.text)) from None
        node.covered = node.covered or covered
        self._kept.append(value)
        self._indices[id(value)] = len(self._nodes)
        return self._place(node, parent, at)

    def _place(self, node: Node, parent: int, at: int) -> int:
        if self.covered:
            node.covered = True
        index = len(self._nodes)
        self._nodes.append(Placed(node, parent, at))
        self._pending.append((index, node))
        return index

    def _way(self, parent: int, at: int) -> str:
        """How people find a thing: ``argument `model`.encoder[2]``."""
        steps = []
        while parent >= 0:
            above = self._nodes[parent]
            steps.append("{…}" if at < 0 else "[{}]".format(at) if above.names is None else above.names[at])
            parent, at = above.parent, above.at
        text = self._name
        for step in reversed(steps):
            text += step
        return text
