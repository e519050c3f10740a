"""Prints answers as a table for people, or as JSON or YAML for machines."""

from __future__ import annotations

import json
import os
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape
from rich.table import Table

FORMATS = ("table", "wide", "json", "yaml")
TABLES = ("table", "wide")
"""The formats for people; a wide table has every column and is as wide as its cells."""
NO_ANSWER = "no answer"
PIPED_WIDTH = 120
"""The width of a table that is not printed to a terminal."""
UNLIMITED = 1 << 16
LONG_WORD = 40
"""Longer words are broken if they do not fit; an IPv6 address is shorter."""

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


def folded(text: str, indent: str) -> list[str]:
    """Return the lines of a text, indented, and folded between words on a terminal; piped lines stay as they are."""
    console = Console()
    if not console.is_terminal and "COLUMNS" not in os.environ:
        return [f"{indent}{line}" for line in text.splitlines()]
    further = f"{indent}    "
    wrapper = textwrap.TextWrapper(console.width, indent, further, break_long_words=False, break_on_hyphens=False)
    return [one for line in text.splitlines() for one in wrapper.wrap(line) or [""]]


def table(
    columns: Sequence[str], rows: Iterable[Sequence[str]], empty: str, wide: bool = False, spare: str = ""
) -> None:
    """Print rows under headings, or `empty` if there are none; no cell is truncated.

    Cells that do not fit are folded between words. If the table is still too wide, the column `spare` is left out, and
    a last line says so. If that does not suffice, each row is printed as a block of lines with all columns.
    """
    rows = [list(row) for row in rows]
    console = Console(highlight=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = PIPED_WIDTH
    if not rows:
        console.print(escape(empty))
        return
    if wide:
        console.width = max(console.width, _width(console, columns, rows))
    if _print_folded(console, columns, rows):
        return
    if spare in columns:
        left_out = columns.index(spare)
        if _print_folded(console, _without(columns, left_out), [_without(row, left_out) for row in rows]):
            console.print(escape(f"not shown: {spare} (use a wider terminal, -o wide or -o json)"))
            return
    _print_blocks(console, columns, rows)


def _print_folded(console: Console, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> bool:
    """Print a table whose cells are folded between words; print nothing and return False when it is too wide."""
    spans = [_spans(cells) for cells in zip(columns, *rows, strict=True)]
    between = _width(console, columns, rows) - sum(whole for _, whole in spans)
    widths = folded_widths(spans, console.width - between)
    if widths is not None:
        console.print(_grid(columns, rows, widths))
    return widths is not None


def _spans(cells: Sequence[str]) -> tuple[int, int]:
    """Return the smallest width of a column that breaks no word of its heading, and the width that folds nothing."""
    heading, *others = cells
    longest = max(cell_len(word) for cell in others or [""] for word in cell.split() or [""])
    least = max(min(longest, LONG_WORD), *(cell_len(word) for word in heading.split()))
    return least, max(cell_len(cell) for cell in cells)


def folded_widths(spans: Sequence[tuple[int, int]], width: int) -> list[int] | None:
    """Return column widths that fit into `width` together, None if that is impossible. The widest shrink first."""
    widths = [whole for _, whole in spans]
    while sum(widths) > width:
        foldable = [index for index, (least, _) in enumerate(spans) if widths[index] > least]
        if not foldable:
            return None
        widths[max(foldable, key=lambda index: widths[index])] -= 1
    return widths


def _width(console: Console, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> int:
    """Return the width of a table in which nothing is folded."""
    return console.measure(_grid(columns, rows), options=console.options.update(max_width=UNLIMITED)).maximum


def _grid(columns: Sequence[str], rows: Iterable[Sequence[str]], widths: Sequence[int] | None = None) -> Table:
    grid = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True)
    for index, column in enumerate(columns):
        grid.add_column(column, overflow="fold", width=widths[index] if widths else None)
    for row in rows:
        grid.add_row(*(_marked(cell) for cell in row))
    return grid


def _print_blocks(console: Console, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print each row as lines of a heading and its cell, with an empty line between rows."""
    for number, row in enumerate(rows):
        if number:
            console.print()
        block = Table.grid(padding=(0, 1))
        block.add_column(no_wrap=True)
        block.add_column(overflow="fold")
        for column, cell in zip(columns, row, strict=True):
            block.add_row(f"{column}:", _marked(cell))
        console.print(block)


def _without(cells: Sequence[str], index: int) -> list[str]:
    return [*cells[:index], *cells[index + 1 :]]


def duration(seconds: float) -> str:
    """Format a time span: `42s`, `3m10s`, `5h02m`, `12d4h`."""
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
    """Return a scalar or an empty collection; text that YAML could interpret is quoted as in JSON."""
    if isinstance(value, str) and _PLAIN.match(value) and value.lower() not in _RESERVED and value == value.strip():
        return value
    return json.dumps(value)
