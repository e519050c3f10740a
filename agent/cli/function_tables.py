"""Formats functions' counters, maps and logs as tables and text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import click
import msgspec

from agent.cli.output import folded, table
from protocol.rpc import FieldValue, FunctionLogReply, FunctionMap, FunctionMapEntry, MapValue
from protocol.status import FunctionTraffic, ServedFunction

FUNCTION, KEY, VALUE = "FUNCTION", "KEY", "VALUE"
_OPTIONAL = ("SENT BACK", "SENT TO", "HANDED OVER", "FAULTS", "REASONS", "MEAN TIME", "QUEUES", "VERSION")
"""Columns of counters that are left out if they are empty for every function."""


def plain_traffic(item: FunctionTraffic) -> dict[str, Any]:
    """Return a function's counters as plain data, with packets and bytes by name."""
    return {**msgspec.structs.asdict(item), "received": msgspec.structs.asdict(item.received)}


def traffic(rows: Sequence[tuple[str, FunctionTraffic]], wide: bool, *, hosts: bool = True) -> None:
    """Print one line of counters for each function, and host if `hosts`; nothing if there is none."""
    columns = ("HOST", FUNCTION, "POINT", "RECEIVED", "WENT ON", "DROPPED", *_OPTIONAL)
    lines = [_traffic_row(host, item) for host, item in rows]
    shown = [
        index
        for index, name in enumerate(columns)
        if (name != "HOST" or hosts) and (name not in _OPTIONAL or any(line[index] for line in lines))
    ]
    if lines:
        click.echo()
        cells = [[line[index] or ("-" if columns[index] == "VERSION" else "0") for index in shown] for line in lines]
        table([columns[index] for index in shown], cells, "", wide, spare="MEAN TIME")


def _traffic_row(host: str, item: FunctionTraffic) -> tuple[str, ...]:
    return (
        *(host, item.function, item.point),
        *(f"{number:,}" for number in (item.received.packets, item.went_on, item.dropped)),
        *(f"{number:,}" if number else "" for number in (item.sent_back, item.sent_to, item.handed_over, item.faults)),
        ", ".join(f"{reason}: {packets:,}" for reason, packets in sorted(item.reasons.items(), key=_by_number)),
        f"{item.mean_ns:,.0f} ns" if item.samples else "",
        _queues(item) if item.queues else "",
        f"revision {item.rolled_back} rolled back" if item.rolled_back else "",
    )


def _queues(item: FunctionTraffic | ServedFunction) -> str:
    return f"{item.queues} ({item.mode.replace('_', ' ')})"


def processes(rows: Sequence[tuple[str, ServedFunction]]) -> None:
    """Print one line for each function whose packets reach a process; nothing if there is none."""
    if rows:
        click.echo()
        cells = [[host, one.function, one.point, _queues(one)] for host, one in rows]
        table(["HOST", FUNCTION, "POINT", "QUEUES OF ITS PROCESS"], cells, "", wide=True)


def _by_number(reason: tuple[str, int]) -> int:
    return int(reason[0]) if reason[0].isdecimal() else 0


def function_map(host: str, one: FunctionMap, entries: Sequence[FunctionMapEntry], more: bool, wide: bool) -> None:
    """Print a map's name and its entries, a column for each field."""
    kind = f"{one.type}{', the numbers of all CPUs added' if one.per_cpu else ''}"
    number = f"{'the first ' if more else ''}{len(entries)} of at most {one.max_entries:,} entries"
    click.echo(f"{host} {one.name} ({kind}): {number}")
    if not entries:
        return
    rows = [{**_columns(KEY, entry.key), **_columns(VALUE, added(entry.values))} for entry in entries]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    table(columns, [[row.get(name, "-") for name in columns] for row in rows], "", wide)


def _columns(title: str, value: MapValue) -> dict[str, str]:
    """Return the cells of a key or value by column. Fields of a key and a value may have the same name."""
    if not isinstance(value, dict):
        return {title: _cell(value)}
    return {f"{title} {name}": _cell(part) for name, part in value.items()}


def _cell(value: FieldValue) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def added(values: Sequence[MapValue]) -> MapValue:
    """Return one value, or the sum of those of all CPUs; of bytes the first that are not all zeros."""
    first = values[0]
    if len(values) == 1:
        return first
    if isinstance(first, dict):
        parts = [value for value in values if isinstance(value, dict)]
        return {name: _sum([part[name] for part in parts]) for name in first}
    return _sum([value for value in values if not isinstance(value, dict)])


def _sum(values: Sequence[FieldValue]) -> FieldValue:
    numbers = [value for value in values if isinstance(value, int)]
    if numbers:
        return sum(numbers)
    if rows := [value for value in values if isinstance(value, list)]:
        return [sum(column) for column in zip(*rows, strict=True)]
    return next((value for value in values if isinstance(value, str) and value.strip("0")), values[0])


def logs(found: Mapping[str, FunctionLogReply]) -> None:
    """Print what is known of a function's programs, host by host."""
    click.echo("\n\n".join("\n".join(_log_lines(host, item)) for host, item in found.items()))


def _log_lines(host: str, item: FunctionLogReply) -> Iterator[str]:
    yield f"{host}: document {item.document}, revision {item.revision}, at {item.point}"
    yield from _block("installed", item.installed, "nothing is installed")
    yield from _block(
        "refused", item.refused, "no program of the newest revision (dropletctl get documents shows its state)"
    )


def _block(title: str, text: str, empty: str) -> Iterable[str]:
    return (f"{title}:", *folded(text, "  ")) if text else folded(f"{title}: {empty}", "")
