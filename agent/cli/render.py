"""Answers as a table for people, as JSON or YAML for machines."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

FORMATS = ("table", "wide", "json", "yaml")
TABLES = ("table", "wide")
"""The formats for people; a wide table has every column, and lines as long as they come."""
NO_ANSWER = "no answer"
PIPED_WIDTH = 120
"""Columns of a table that does not go to a terminal."""
UNLIMITED = 1 << 16

_PLAIN = re.compile(r"^[A-Za-z_][A-Za-z0-9_./@ -]*$")
_RESERVED = {"null", "true", "false", "yes", "no", "on", "off", "y", "n"}
_MARKS = {
    "realized": "green",
    "up": "green",
    "in_sync": "green",
    "pending": "yellow",
    "degraded": "yellow",
    "starting": "yellow",
    "rejected": "red",
    "failed": "red",
    "down": "red",
    NO_ANSWER: "red",
}


def machine(value: Any, style: str) -> str:
    """Return plain data as JSON or YAML text, with a newline at its end."""
    if style == "json":
        return json.dumps(value, indent=2) + "\n"
    return "\n".join(_yaml(value, "")) + "\n"


def table(
    columns: Sequence[str], rows: Iterable[Sequence[str]], empty: str, wide: bool = False, spare: str = ""
) -> None:
    """Print rows under headings, or say that there are none.

    What does not fit is folded, never cut; the column `spare` is left out when the table does not fit with it.
    """
    rows = [list(row) for row in rows]
    console = Console(highlight=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = PIPED_WIDTH
    if not rows:
        console.print(escape(empty))
        return
    grid = _grid(columns, rows)
    width = console.measure(grid, options=console.options.update(max_width=UNLIMITED)).maximum
    if wide:
        console.width = max(console.width, width)
    elif spare in columns and width > console.width:
        left_out = columns.index(spare)
        grid = _grid(_without(columns, left_out), [_without(row, left_out) for row in rows])
    console.print(grid)


def _grid(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    grid = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True)
    for column in columns:
        grid.add_column(column, overflow="fold")
    for row in rows:
        grid.add_row(*(_marked(cell) for cell in row))
    return grid


def _without(cells: Sequence[str], index: int) -> list[str]:
    return [*cells[:index], *cells[index + 1 :]]


def duration(seconds: float) -> str:
    """Return a time span as one would say it: `42s`, `3m10s`, `5h02m`, `12d4h`."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02}m"
    return f"{whole // 86400}d{whole % 86400 // 3600}h"


def _marked(cell: str) -> str:
    colour = _MARKS.get(cell)
    return f"[{colour}]{cell}[/{colour}]" if colour else escape(cell)


def _yaml(value: Any, indent: str) -> list[str]:
    """Return the lines of plain data in YAML's block style."""
    if isinstance(value, Mapping) and value:
        return _yaml_items([(f"{_scalar(str(key))}:", item) for key, item in value.items()], indent)
    if isinstance(value, list | tuple) and value:
        lines = []
        for item in value:
            first, *rest = _yaml(item, f"{indent}  ")
            lines += [f"{indent}- {first.strip()}", *rest]
        return lines
    return [indent + _scalar(value)]


def _yaml_items(items: list[tuple[str, Any]], indent: str) -> list[str]:
    lines = []
    for head, item in items:
        if isinstance(item, Mapping | list | tuple) and item:
            lines += [f"{indent}{head}", *_yaml(item, f"{indent}  ")]
        else:
            lines.append(f"{indent}{head} {_scalar(item)}")
    return lines


def _scalar(value: Any) -> str:
    """Return a scalar or an empty collection; text that YAML could take for something else is quoted as in JSON."""
    if isinstance(value, str) and _PLAIN.match(value) and value.lower() not in _RESERVED and value == value.strip():
        return value
    return json.dumps(value)
