"""Reads values from a topology file's YAML by type, and records every error with its line and field."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ruamel.yaml.comments import CommentedMap, CommentedSeq

RENAMED = {"substrate": "underlay"}
"""Fields of earlier versions, with today's."""


@dataclass(frozen=True, slots=True)
class Mistake:
    """One wrong place: its line from 1, its field as a path (`networks[1].cidr`), and what is wrong."""

    line: int
    field: str
    message: str

    def __str__(self) -> str:
        """Return one line of text."""
        return f"line {self.line}: {self.field}: {self.message}"


class Reader:
    """Reads values from a YAML node by type; records errors instead of raising them."""

    def __init__(self, node: Any, path: str, line: int, mistakes: list[Mistake]) -> None:
        self.node = node
        self.path = path
        self.line = line
        self.mistakes = mistakes
        self._taken: set[str] = set()

    def wrong(self, message: str, key: str | None = None) -> None:
        """Record an error in a field of this node, or in the node itself."""
        line = self.line_of(key) if key is not None else self.line
        self.mistakes.append(Mistake(line, self._path_of(key), message))

    def _path_of(self, key: str | None) -> str:
        if key is None:
            return self.path or "the file"
        return f"{self.path}.{key}" if self.path else key

    def line_of(self, key: str) -> int:
        """Return the line of a field, or of the node where the field is not written."""
        if isinstance(self.node, CommentedMap) and key in self.node:
            return int(self.node.lc.key(key)[0]) + 1
        return self.line

    def is_map(self) -> bool:
        """Return whether the node is a map; record an error if not."""
        if isinstance(self.node, CommentedMap):
            return True
        self.wrong(f"expected a map, not {_kind(self.node)}")
        return False

    def has(self, key: str) -> bool:
        """Say whether a field is written."""
        return key in self.node and self.node[key] is not None

    def take(self, key: str, kind: type, wanted: str, default: Any = ...) -> Any:
        """Return a field's value when it has the type, else its default; `...` means that the field is needed."""
        self._taken.add(key)
        if not self.has(key):
            if default is ...:
                self.wrong(f"this field is required: {wanted}", key)
                return None
            return default
        value = self.node[key]
        if not isinstance(value, kind) or isinstance(value, bool):
            self.wrong(f"expected {wanted}, not {_kind(value)}", key)
            return None if default is ... else default
        return value

    def text(self, key: str, wanted: str = "a text", default: Any = ...) -> str | None:
        """Return a text."""
        value = self.take(key, str, wanted, default)
        return None if value is None else str(value)

    def number(self, key: str, low: int, high: int, default: Any = ...) -> int:
        """Return a whole number within limits, the lower limit where it is wrong."""
        value = self.take(key, int, f"a number from {low} to {high}", default)
        if value is None:
            return low
        if not low <= value <= high:
            self.wrong(f"{value} is not from {low} to {high}", key)
            return low
        return int(value)

    def flag(self, key: str) -> bool:
        """Return true or false, false where it is not written or wrong."""
        self._taken.add(key)
        value = self.node[key] if self.has(key) else False
        if isinstance(value, bool):
            return value
        self.wrong(f"expected true or false, not {_kind(value)}", key)
        return False

    def items(self, key: str, *, needed: bool = False) -> list[Reader]:
        """Return the nodes of a list; a map of maps is taken as a list of which each has its key as `name`."""
        self._taken.add(key)
        if not self.has(key):
            if needed:
                self.wrong("this field is required", key)
            return []
        value = self.node[key]
        path = self._path_of(key)
        if isinstance(value, CommentedSeq):
            lines = [int(value.lc.item(index)[0]) + 1 for index in range(len(value))]
            return [Reader(item, f"{path}[{i}]", lines[i], self.mistakes) for i, item in enumerate(value)]
        if isinstance(value, CommentedMap):
            return [self._named(value, name, path) for name in value]
        self.wrong(f"expected a list or a map by name, not {_kind(value)}", key)
        return []

    def _named(self, value: CommentedMap, name: Any, path: str) -> Reader:
        line = int(value.lc.key(name)[0]) + 1
        item = value[name]
        if isinstance(item, CommentedMap) and "name" not in item:
            item.insert(0, "name", str(name))
            item.lc.add_kv_line_col("name", [line - 1, 0, line - 1, 0])
        elif isinstance(item, str):
            text = item
            item = CommentedMap(name=str(name), address=text)
            for key in item:
                item.lc.add_kv_line_col(key, [line - 1, 0, line - 1, 0])
        return Reader(item, f"{path}.{name}", line, self.mistakes)

    def names(self, key: str) -> list[str]:
        """Return a list of texts, without those that are none."""
        self._taken.add(key)
        found = []
        value = self.node[key]
        for index, name in enumerate(value):
            if isinstance(name, str):
                found.append(str(name))
            else:
                self.wrong(f"[{index}] is {_kind(name)}, not a name", key)
        return found

    def finish(self) -> None:
        """Record an error for every unknown field."""
        for key in self.node:
            if key not in self._taken:
                known = ", ".join(sorted(self._taken))
                renamed = f"it was renamed: write {RENAMED[key]}" if key in RENAMED else None
                self.wrong(renamed or f"unknown field; the fields here are {known}", str(key))


def _kind(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, CommentedMap):
        return "a map"
    if isinstance(value, CommentedSeq):
        return "a list"
    return repr(value)
