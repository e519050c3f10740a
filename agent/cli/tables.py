"""Formats the hosts' answers as tables of 80 to 120 columns."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import click
import msgspec

from agent.cli import function_tables
from agent.cli.output import NO_ANSWER, duration, table
from agent.core.kinds import catalogue
from agent.datapath.bpf import outcomes
from protocol.acknowledgements import Acknowledgement, KernelFailure
from protocol.rpc import PathReply, PeerPath
from protocol.status import Counters, Status, Traffic, UplinkStatus

STATUS = ("HOST", "STATE", "REALIZED", "NOT REALIZED", "HOOK", "ENDPOINTS", "REVISION", "UPTIME")
TROUBLES = ("UNRESOLVED", "DOWN", "NARROW")
"""Columns of `status` that are left out if they are empty for every host."""
GROUPS = tuple(
    (name, frozenset(outcome.name.lower() for outcome in members))
    for name, members in (
        ("received", outcomes.RECEIVED),
        ("passed", outcomes.PASSED),
        ("answered", outcomes.ANSWERED),
        ("forwarded", outcomes.FORWARDED),
        ("dropped", outcomes.DROPPED),
        ("other", frozenset[outcomes.Outcome]()),
    )
)
NO_ROUTE = {"outside_vpc": "the address is in no network of the VPC"}
"""Reasons of a reply in words for people."""
NO_TIMES: Mapping[tuple[str, str], float] = MappingProxyType({})
UNCOUNTED = (
    "frames that the kernel dropped after programs at tc are not counted here ({}): see ip -s link, tc -s qdisc show"
)
DOWN_REMEDY = "check that its host, agent and interface are up, and the underlay between (dropletctl peers HOST)"
GSO_REMEDY = "set udp_checksum to zero in the documents of these droplets, if RFC 6936 allows that for all hosts"
FEW_DOCUMENTS = 3
FEW_ADDRESSES = 3
"""The most unreachable addresses shown for one reason; a wide table shows all that the host reported."""


def statuses(
    found: Sequence[Status], absent: Sequence[str], wide: bool, down_since: Mapping[tuple[str, str], float] = NO_TIMES
) -> None:
    """Print one line per host, including those that did not answer, and below it the hosts' problems.

    A wide one ends with the functions whose packets reach a process.

    `down_since` says since when a droplet does not answer a host, in seconds since the epoch, where it is known.
    """
    rows = [_status_row(item) for item in found]
    rows += [(host, NO_ANSWER, *("-" for _ in (*STATUS[2:], *TROUBLES))) for host in absent]
    rows = sorted(rows)
    columns = (*STATUS, *TROUBLES)
    shown = [i for i, name in enumerate(columns) if name not in TROUBLES or any(row[i] != "-" for row in rows)]
    cells = [[row[i] for i in shown] for row in rows]
    table([columns[i] for i in shown], cells, "no host answered", wide, spare="HOOK")
    by_host = sorted(found, key=lambda item: item.host)
    reasons = [(item.host, *reason) for item in by_host for reason in _reasons(item, wide, down_since)]
    if reasons:
        click.echo()
        table(("HOST", "PROBLEM", "CAUSE", "REMEDY"), reasons, "", wide)
    if wide:
        function_tables.processes([(item.host, one) for item in by_host for one in item.processes])


def down_since(peers_of: Mapping[str, Sequence[PeerPath]]) -> dict[tuple[str, str], float]:
    """Return since when droplets do not answer, by the host that asks and the droplet."""
    found: dict[tuple[str, str], float] = {}
    for host, paths in peers_of.items():
        for path in paths:
            if path.state == "down":
                found[host, path.droplet] = min(path.since, found.get((host, path.droplet), path.since))
    return found


def _reasons(item: Status, wide: bool, down_since: Mapping[tuple[str, str], float]) -> Iterator[tuple[str, str, str]]:
    """Yield a host's problems, each with its cause and its remedy, `-` where none is known."""
    if item.unreadable and not any(fault.kind == "kernel_unreadable" for fault in item.faults):
        yield "the agent cannot read the kernel", item.unreadable, "-"
    for droplet in item.down_droplets:
        since = down_since.get((item.host, droplet))
        cause = "it answers no probes" + ("" if since is None else f", for {duration(time.time() - since)} now")
        yield f"droplet {droplet} is down", cause, DOWN_REMEDY
    for one in item.unresolved_next_hops:
        shown = one.addresses if wide else one.addresses[:FEW_ADDRESSES]
        more = one.droplets - len(shown)
        yield f"no next hop to {', '.join(shown)}" + (f" and {more:,} more" if more else ""), one.reason, "-"
    if item.attach_reason and any(uplink.attach_mode == "generic" for uplink in item.uplinks):
        yield "programs run in generic mode, which is slower", item.attach_reason, "-"
    if item.losses_unknown:
        yield "frames that the kernel drops after a program's verdict are not counted", item.losses_unknown, "-"
    if item.gso_refused and item.objects.local_endpoints:
        yield "endpoints' TCP is cut into packets before the tunnel, which is slower", item.gso_refused, GSO_REMEDY
    for fault in item.faults:
        yield f"{fault.kind} {fault.subject}", fault.detail, fault.remedy or "-"


def runs(uplink: UplinkStatus) -> str:
    """Return how the program of an uplink runs: its mode at XDP, or the hook."""
    return uplink.attach_mode if uplink.hook in ("xdp", "none") else uplink.hook


def endpoint_hooks(item: Status) -> str:
    """Return the hook at which programs of endpoints run, with numbers if not all of them run where they belong."""
    found = {hook: number for hook, number in item.endpoint_hooks.items() if number}
    if not found.keys() - {item.endpoint_hook}:
        return item.endpoint_hook
    return ", ".join(f"{number} {hook}" for hook, number in sorted(found.items(), key=lambda one: -one[1]))


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
        ", ".join(f"{uplink.interface} {runs(uplink)}" for uplink in item.uplinks) or "-",
        f"{item.objects.local_endpoints} of {item.objects.endpoints} {endpoint_hooks(item)}".rstrip(),
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
    """Print one line per document and host, and below it each cause once, with the documents that it concerns."""
    table(
        ("HOST", "DOCUMENT", "STATE", "REVISION", "IN FORCE", "AGE"),
        [
            (
                host,
                item.document,
                str(item.state),
                str(item.revision),
                "removed" if item.removed else str(item.in_force),
                duration(max(0.0, time.time() - item.at)),
            )
            for host, item in rows
        ],
        "no acknowledgements",
        wide,
    )
    documents: dict[tuple[str, str, str], list[str]] = {}
    for host, item in rows:
        for cause, remedy in causes(item):
            documents.setdefault((host, cause, remedy), []).append(item.document)
    if documents:
        click.echo()
        lines = [(host, _few(names, wide), *reason) for (host, *reason), names in documents.items()]
        table(("HOST", "DOCUMENTS", "CAUSE", "REMEDY"), lines, "", wide)


def _few(names: Sequence[str], wide: bool) -> str:
    """List documents, of many their number and the first ones."""
    if wide or len(names) <= FEW_DOCUMENTS:
        return ", ".join(names)
    return f"{len(names):,}: {', '.join(names[:FEW_DOCUMENTS])} and {len(names) - FEW_DOCUMENTS:,} more"


def acknowledgement_line(host: str, item: Acknowledgement) -> str:
    """Return one acknowledgement in one line."""
    at = time.strftime("%H:%M:%S", time.localtime(item.at))
    state = f"{item.state} (removed)" if item.removed else str(item.state)
    return f"{at}  {host}  {item.document}  {item.revision}  {state}  {why(item)}".rstrip()


def causes(item: Acknowledgement) -> list[tuple[str, str]]:
    """Return why a document is not realized, each with its remedy, `-` where none is known; nothing if it is."""
    found = [f"{error.path}: {error.message}".removeprefix("$: ") for error in item.errors]
    found += [failure_text(failure) for failure in item.failures]
    parts = [(cause, remedy or "-") for cause, _, remedy in (text.partition("; ") for text in found)]
    if item.missing:
        needed = ", ".join(str(one) for one in item.missing)
        parts.append((f"needs {needed}", "publish what is missing, or correct the reference"))
    if item.absent:
        parts.append(("not in the stream", "publish it again, or remove it (dropletctl sweep)"))
    return parts


def failure_text(failure: KernelFailure) -> str:
    """Return what the kernel refused and why; messages usually contain the name of the errno."""
    named = failure.message if failure.name in failure.message else f"{failure.name}: {failure.message}"
    return f"{failure.object}: {named}"


def why(item: Acknowledgement) -> str:
    """Return why a document is not realized in one line; empty if it is."""
    return "; ".join(cause if remedy == "-" else f"{cause}; {remedy}" for cause, remedy in causes(item))


def counted(number: int, thing: str) -> str:
    """Format a number of things, as in "1 document"."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def path_line(endpoint: str, destination: str, answer: PathReply) -> str:
    """Format the path of a packet in one line."""
    through = ", then ".join(f"{one.function} at {one.point}" for one in answer.functions)
    functions = f"; functions: {through}" if through else ""
    if answer.route == "none":
        return f"{endpoint} -> {destination}: no route: {NO_ROUTE.get(answer.reason, answer.reason)}{functions}"
    parts = [answer.route.replace("_", " ")]
    if answer.hosts:
        parts.append("to " + " or ".join(_hosts(answer)))
    if answer.encapsulation:
        parts.append(f"by {answer.encapsulation}")
    if answer.learnt:
        parts.append("learnt" if answer.age is None else f"learnt, confirmed {answer.age:.1f} s ago")
    return f"{endpoint} -> {destination}: {', '.join(parts)}{functions}"


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
        "functions": [function_tables.plain_traffic(item) for item in now.functions],
        "lost": [msgspec.structs.asdict(item) for item in now.lost],
        "lost_unknown": now.lost_unknown,
        "lost_at_tc": now.lost_at_tc,
    }


def counters(now: Counters, before: Counters | None, rates: bool, wide: bool) -> None:
    """Print the outcomes that occurred, and packets of endpoints and functions.

    With `rates` outcomes have their rate since `before`.

    Outcomes are grouped as in docs/outcomes.md; those that only a newer agent knows are in the last group.
    """
    span = now.at - before.at if before else 0.0
    if before:
        click.echo()
    rows = []
    for group, name in sorted((_group(name), name) for name, traffic in now.outcomes.items() if traffic.packets):
        traffic = now.outcomes[name]
        earlier = before.outcomes.get(name, Traffic(0, 0)) if before else traffic
        rate = f"{(traffic.packets - earlier.packets) / span:,.0f}/s" if span > 0 else "-"
        row = (GROUPS[group][0], name, f"{traffic.packets:,}", f"{traffic.bytes:,}")
        rows.append((*row, *([rate] if rates else [])))
    table(("GROUP", "OUTCOME", "PACKETS", "BYTES", *(["RATE"] if rates else [])), rows, "no packets yet", wide)
    endpoints = [
        (item.endpoint, *(f"{t.packets:,}" for t in (item.sent, item.direct, item.delivered, item.dropped)))
        for item in now.endpoints
    ]
    if endpoints:
        click.echo()
        table(("ENDPOINT", "SENT", "SENT DIRECT", "DELIVERED", "DROPPED"), endpoints, "", wide)
    function_tables.traffic([(now.host, item) for item in now.functions], wide, hosts=False)
    _losses(now, wide)


def _group(outcome: str) -> int:
    """Return the index of an outcome's group."""
    return next((i for i, (_, members) in enumerate(GROUPS) if outcome in members), len(GROUPS) - 1)


def _losses(now: Counters, wide: bool) -> None:
    """Print the frames that the kernel dropped after the outcomes above, or why they are not counted."""
    if now.lost_unknown:
        click.echo(f"\nframes that the kernel dropped after these outcomes are not counted: {now.lost_unknown}")
    if now.lost:
        click.echo()
        rows = [(item.interface, item.reason, f"{item.frames:,}") for item in now.lost]
        table(("LOST AT INTERFACE", "REASON", "FRAMES"), rows, "", wide)
    if now.lost_at_tc:
        click.echo(f"\n{UNCOUNTED.format(now.lost_at_tc)}")
