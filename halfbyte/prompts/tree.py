"""What JSON and YAML have in common: mappings, lists and scalars, each with its place."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from halfbyte.prompts.position import Text

DEEPEST = 64  # levels; what a call needs is a handful


@dataclass(slots=True)
class Node:
    """`kind` is "map", "list" or "scalar"."""

    kind: str
    start: int
    end: int = 0
    value: Any = None  # a scalar's
    plain: bool = False  # a YAML scalar without quotes: `value` is its text, and its type is open
    pairs: list[tuple[Node, Node]] = field(default_factory=list)  # a map's
    items: list[Node] = field(default_factory=list)  # a list's

    def get(self, key: str) -> Node | None:
        """The value under a key of a map."""
        return next((value for name, value in self.pairs if name.value == key), None)


class TreeBuilder:
    """Puts nodes together, without recursion. Refuses duplicate keys and too deep a nesting, naming the place."""

    def __init__(self, text: Text) -> None:
        self.text = text
        self.root: Node | None = None
        self._open: list[Node] = []
        self._keys: list[tuple[set[str], Node | None]] = []  # of each open node: its keys, and the one without a value

    def begin(self, kind: str, at: int) -> None:
        """A map or a list begins."""
        if len(self._open) == DEEPEST:
            raise self.text.error(f"nested deeper than {DEEPEST} levels", at)
        node = Node(kind, at)
        self._put(node)
        self._open.append(node)
        self._keys.append((set(), None))

    def end(self, at: int) -> Node:
        """The innermost map or list ends."""
        self._keys.pop()
        node = self._open.pop()
        node.end = at
        return node

    def scalar(self, value: Any, start: int, end: int, *, plain: bool = False) -> None:
        """A scalar, which may be a key."""
        self._put(Node("scalar", start, end, value, plain))

    @property
    def inside(self) -> str:
        """The kind of what is open, "" at the top."""
        return self._open[-1].kind if self._open else ""

    def _put(self, node: Node) -> None:
        if not self._open:
            assert self.root is None
            self.root = node
        elif self._open[-1].kind == "list":
            self._open[-1].items.append(node)
        else:
            self._put_in_map(node)

    def _put_in_map(self, node: Node) -> None:
        keys, waiting = self._keys[-1]
        if waiting is not None:
            self._open[-1].pairs.append((waiting, node))
            self._keys[-1] = keys, None
            return
        if node.kind != "scalar":
            raise self.text.error(f"a {node.kind} where a key is due", node.start)
        if str(node.value) in keys:
            raise self.text.error(f"the key {node.value!r} is there twice", node.start)
        keys.add(str(node.value))
        self._keys[-1] = keys, node
