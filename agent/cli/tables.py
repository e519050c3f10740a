"""Formats the hosts' answers as tables of 80 to 120 columns."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import click
import msgspec

from agent.cli.output import NO_ANSWER, duration, table
from agent.core.kinds import catalogue
from protocol.acknowledgements import Acknowledgement
from protocol.rpc import PathReply, PeerPath
from protocol.status import Counters, Status, Traffic

STATUS = ("HOST", "STATE", "REALIZED", "NOT REALIZED", "XDP", "ENDPOINTS", "REVISION", "UPTIME")
TROUBLES = ("UNRESOLVED", "DOWN", "NARROW")
"""Columns of `status` that are left out if they are empty for every host."""
FEW_ADDRESSES = 3
"""The most unreachable addresses shown for one reason; a wide table shows all that the host reported."""


def statuses(found: Sequence[Status], absent: Sequence[str], wide: bool) -> None:
    """Print one line per host, including those that did not answer, and below it the hosts' problems."""
    rows = [_status_row(item) for item in found]
    rows += [(host, NO_ANSWER, *("-" for _ in (*STATUS[2:], *TROUBLES))) for host in absent]
    rows = sorted(rows)
    columns = (*STATUS, *TROUBLES)
    shown = [i for i, name in enumerate(columns) if name not in TROUBLES or any(row[i] != "-" for row in rows)]
    cells = [[row[i] for i in shown] for row in rows]
    table([columns[i] for i in shown], cells, "no host answered", wide, spare="XDP")
    by_host = sorted(found, key=lambda item: item.host)
    reasons = [(item.host, *reason) for item in by_host for reason in _reasons(item, wide)]
    if reasons:
        click.echo()
        table(("HOST", "PROBLEM", "CAUSE"), reasons, "", wide)


def _reasons(item: Status, wide: bool) -> Iterator[tuple[str, str]]:
    """Yield a host's problems."""
    if item.unreadable and not any(fault.kind == "kernel_unreadable" for fault in item.faults):
        yield "the agent cannot read the kernel", item.unreadable
    for one in item.unresolved_next_hops:
        shown = one.addresses if wide else one.addresses[:FEW_ADDRESSES]
        more = one.droplets - len(shown)
        yield f"no next hop to {', '.join(shown)}" + (f" and {more:,} more" if more else ""), one.reason
    if item.attach_reason and any(uplink.attach_mode == "generic" for uplink in item.uplinks):
        yield "programs run in generic mode, which is slower", item.attach_reason
    if item.losses_unknown:
        yield "frames that the kernel drops after a program's verdict are not counted", item.losses_unknown
    for fault in item.faults:
        yield f"{fault.kind} {fault.subject}", fault.detail + (f"; {fault.remedy}" if fault.remedy else "")


def _status_row(item: Status) -> tuple[str, ...]:
    documents = item.documents
    troubled = [
        f"{number} {state}"
        for state, number in (
            ("pending", documents.pending),
            ("rejected", documents.rejected),
            ("failed", documents.failed),
        )
        if number
    ]
    return (
        item.host,
        str(item.state),
        str(documents.realized),
        ", ".join(troubled) or "0",
        ", ".join(f"{uplink.interface} {uplink.attach_mode}" for uplink in item.uplinks) or "-",
        f"{item.objects.local_endpoints} of {item.objects.endpoints}",
        str(item.revision),
        duration(item.uptime),
        str(sum(one.droplets for one in item.unresolved_next_hops) or "-"),
        ", ".join(item.down_droplets) or "-",
        ", ".join(f"{path.droplet} {path.carries} of {path.configured}" for path in item.narrow_paths) or "-",
    )


def peers(rows: Sequence[tuple[str, PeerPath]], wide: bool) -> None:
    """Print one line per host and path."""
    now = time.time()
    lines = [
        (
            host,
            path.by,
            path.droplet,
            path.address,
            path.state,
            "-" if path.round_trip is None else f"{path.round_trip * 1000:.1f} ms",
            str(path.carries) if path.carries == path.configured else f"{path.carries} of {path.configured}",
            duration(max(0.0, now - path.since)),
        )
        for host, path in rows
    ]
    columns = ("HOST", "FROM", "DROPLET", "ADDRESS", "STATE", "ROUND TRIP", "PATH MTU", "SINCE")
    table(columns, sorted(lines), "no peers", wide, spare="FROM")


def objects(kind: str, rows: Sequence[tuple[str, Any]], wide: bool) -> None:
    """Print one line per object and host. Columns in which every object has the usual value are left out."""
    cells = {column: [column.cell(item) for _, item in rows] for column in catalogue.KINDS.by_name[kind].columns}
    shown = {column: texts for column, texts in cells.items() if any(text != column.usual for text in texts)}
    lines = [list(line) for line in zip((host for host, _ in rows), *shown.values(), strict=True)]
    spare = next((column.title for column in shown if column.spare), "")
    table(["HOST", *(column.title for column in shown)], lines, f"no {kind}", wide, spare=spare)


def without_host(plain: dict[str, Any]) -> dict[str, Any]:
    """Return an object's fields, with a droplet's own `host` as `droplet_host`: `host` is the host that answered."""
    return {("droplet_host" if name == "host" else name): value for name, value in plain.items()}


def acknowledgements(rows: Sequence[tuple[str, Acknowledgement]], wide: bool) -> None:
    """Print one line per document and host."""
    table(
        ("HOST", "DOCUMENT", "STATE", "REVISION", "IN FORCE", "AGE", "CAUSE"),
        [
            (
                host,
                item.document,
                str(item.state),
                str(item.revision),
                "removed" if item.removed else str(item.in_force),
                duration(max(0.0, time.time() - item.at)),
                why(item),
            )
            for host, item in rows
        ],
        "no acknowledgements",
        wide,
    )


def acknowledgement_line(host: str, item: Acknowledgement) -> str:
    """Return one acknowledgement in one line."""
    at = time.strftime("%H:%M:%S", time.localtime(item.at))
    state = f"{item.state} (removed)" if item.removed else str(item.state)
    return f"{at}  {host}  {item.document}  {item.revision}  {state}  {why(item)}".rstrip()


def why(item: Acknowledgement) -> str:
    """Return why a document is not realized; empty if it is."""
    parts = [f"{error.path}: {error.message}" for error in item.errors]
    parts += [f"{failure.object}: {failure.name}: {failure.message}" for failure in item.failures]
    if item.missing:
        parts.append("needs " + ", ".join(f"{needed.kind} {needed.id}" for needed in item.missing))
    if item.absent:
        parts.append("not in the stream; kept until it is published again or removed")
    return "; ".join(parts)


def counted(number: int, thing: str) -> str:
    """Format a number of things, as in "1 document"."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def path_line(endpoint: str, destination: str, answer: PathReply) -> str:
    """Format the path of a packet in one line."""
    if answer.route == "none":
        return f"{endpoint} -> {destination}: no route: {answer.reason}"
    parts = [answer.route.replace("_", " ")]
    if answer.hosts:
        parts.append("to " + " or ".join(_hosts(answer)))
    if answer.encapsulation:
        parts.append(f"by {answer.encapsulation}")
    if answer.learnt:
        parts.append("learnt" if answer.age is None else f"learnt, confirmed {answer.age:.1f} s ago")
    return f"{endpoint} -> {destination}: {', '.join(parts)}"


def _hosts(answer: PathReply) -> list[str]:
    """Name the droplets of a path; older agents send no ids."""
    ids = dict(zip(answer.hosts, answer.droplets, strict=False))
    named = (f"{ids[host]} ({host})" if ids.get(host, host) != host else host for host in answer.hosts)
    marks = (", which does not answer" if host in answer.down else "" for host in answer.hosts)
    return [f"{name}{mark}" for name, mark in zip(named, marks, strict=True)]


def plain_counters(now: Counters) -> dict[str, Any]:
    """Return counters as plain data, with packets and bytes by name; messages on the bus have pairs, to be small."""
    traffic = ("sent", "direct", "delivered", "dropped")
    return {
        "host": now.host,
        "at": now.at,
        "outcomes": {name: msgspec.structs.asdict(item) for name, item in now.outcomes.items()},
        "endpoints": [
            {
                "endpoint": item.endpoint,
                **{name: msgspec.structs.asdict(getattr(item, name)) for name in traffic},
            }
            for item in now.endpoints
        ],
        "lost": [msgspec.structs.asdict(item) for item in now.lost],
        "lost_unknown": now.lost_unknown,
    }


def counters(now: Counters, before: Counters | None, rates: bool, wide: bool) -> None:
    """Print the outcomes that occurred, with their rate since `before` if `rates`, and each endpoint's packets."""
    span = now.at - before.at if before else 0.0
    if before:
        click.echo()
    rows = []
    for name, traffic in now.outcomes.items():
        if traffic.packets:
            earlier = before.outcomes.get(name, Traffic(0, 0)) if before else traffic
            rate = f"{(traffic.packets - earlier.packets) / span:,.0f}/s" if span > 0 else "-"
            rows.append((name, f"{traffic.packets:,}", f"{traffic.bytes:,}", *([rate] if rates else [])))
    table(("OUTCOME", "PACKETS", "BYTES", *(["RATE"] if rates else [])), rows, "no packets yet", wide)
    endpoints = [
        (item.endpoint, *(f"{t.packets:,}" for t in (item.sent, item.direct, item.delivered, item.dropped)))
        for item in now.endpoints
    ]
    if endpoints:
        click.echo()
        table(("ENDPOINT", "SENT", "SENT DIRECT", "DELIVERED", "DROPPED"), endpoints, "", wide)
    _losses(now, wide)


def _losses(now: Counters, wide: bool) -> None:
    """Print the frames that the kernel dropped after the outcomes above, or why they are not counted."""
    if now.lost_unknown:
        click.echo(f"\nframes that the kernel dropped after these outcomes are not counted: {now.lost_unknown}")
    if now.lost:
        click.echo()
        rows = [(item.interface, item.reason, f"{item.frames:,}") for item in now.lost]
        table(("LOST AT INTERFACE", "REASON", "FRAMES"), rows, "", wide)
