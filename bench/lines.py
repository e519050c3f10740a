"""The lines of the report on features: which frame, which program, which contents of the maps, beside what. Pure.

Every line is a ratio to the yardstick of its group, from the same rounds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from agent.core.model.features import Features
from agent.datapath.bpf.outcomes import Outcome
from bench import frames as f
from bench.contestants import Contestant, Edit
from bench.far_end import Restore
from bench.frames import INSIDE_IPV4, INSIDE_IPV6, OVER_IPV6, Overlay
from bench.map_contents import SCALE_FIRST, MapContents, Scale

OURS = "ours"
INGRESS, EGRESS = "ingress", "egress"
OVERHEAD = 50
"""Bytes of tunnel headers over IPv4 without options."""
RTS = 12
TO_IPV4 = 16
"""Where the destination is in an IPv4 header."""
ETHERNET = 14

TAGGED = Contestant("with VLAN tags", features=Features(vlan_tags=True))
IPV4_ALONE = Contestant(
    "for IPv4 alone", features=Features(vxlan_port=0, families=frozenset({"ipv4"}), underlay=frozenset({"ipv4"}))
)
UNLIMITED_ERRORS = Contestant(
    "without the limit of errors", edits=(Edit("constants.h", r"(ICMP_ERRORS_\w+\s+)50\b", r"\g<1>0xffffffffULL"),)
)
"""Else nearly all packets that are too big would be dropped in silence."""
SCALED_BARE = Contestant(
    "bare, a large map",
    "bare",
    edits=tuple(
        Edit(f"entry/{name}.h", r'BPF_TABLE\("hash", (.*), 1\)', r'BPF_F_TABLE("hash", \1, 2000000, 1)')
        for name in ("from_underlay", "from_endpoint")
    ),
)
CONTESTANTS = (TAGGED, IPV4_ALONE, UNLIMITED_ERRORS, SCALED_BARE)

PLAIN = MapContents()
"""A conversation in IPv4 over IPv4."""
MakeFrame = Callable[[bytes], bytes]
"""Makes a frame for a host whose interface has this Ethernet address."""


@dataclass(frozen=True, slots=True)
class Line:
    """One feature in one direction. `outcome` is how each packet must end; None for a program that does not count.

    `taught` comes in before each turn, so that its sender's direct path is known. `to_endpoint`: frames arrive at the
    endpoint's far end, else at the wire's.
    """

    name: str
    direction: str
    frame: MakeFrame
    outcome: Outcome | None
    to_endpoint: bool
    contestant: str = OURS
    contents: MapContents = PLAIN
    taught: MakeFrame | None = None
    restore: Restore | None = None


@dataclass(frozen=True, slots=True)
class Group:
    """Lines that are shown beside one of them, or beside our programs on a small packet in IPv4 over IPv4."""

    title: str
    note: str
    yardstick: str
    lines: tuple[Line, ...]


def received(name: str, frame: MakeFrame, **more: object) -> Line:
    """Return a line of packets that are delivered."""
    return Line(name, INGRESS, frame, Outcome.DELIVERED, True, **more)  # type: ignore[arg-type]


def sent(name: str, packet: bytes, outcome: Outcome = Outcome.SENT_DIRECT, **more: object) -> Line:
    """Return a line of packets that an endpoint sends."""
    return Line(name, EGRESS, lambda _: f.sent_by_endpoint(packet), outcome, False, **more)  # type: ignore[arg-type]


def _both(
    name: str, inside: Overlay, contents: MapContents, *, full: bool = False, contestant: str = OURS
) -> tuple[Line, Line]:
    """Return a conversation's lines in both directions."""
    make = f.full_tcp if full else f.small_udp
    incoming = partial(_incoming, make(inside.remote, inside.local), contents)
    return (
        received(name, incoming, contents=contents, contestant=contestant),
        sent(name, make(inside.local, inside.remote), contents=contents, contestant=contestant, taught=incoming),
    )


def _incoming(packet: bytes, contents: MapContents, mac: bytes) -> bytes:
    """Return a packet for the endpoint as it arrives: direct, with a checksum over IPv6 unless set to zero."""
    summed = contents.over is OVER_IPV6 and not contents.zero_checksum
    return f.in_geneve(mac, f.for_endpoint(packet), over=contents.over, summed=summed, vlan=contents.vlan)


def _with_options(options: bytes) -> MakeFrame:
    return lambda mac: f.in_geneve(mac, options=options)


V6, V6_ZERO = MapContents(OVER_IPV6), MapContents(OVER_IPV6, zero_checksum=True)
FAMILIES: tuple[tuple[str, Overlay, MapContents], ...] = (
    ("4in4", INSIDE_IPV4, MapContents()),
    ("6in4", INSIDE_IPV6, MapContents()),
    ("4in6, UDP checksum", INSIDE_IPV4, V6),
    ("4in6, checksum 0", INSIDE_IPV4, V6_ZERO),
    ("6in6, UDP checksum", INSIDE_IPV6, V6),
    ("6in6, checksum 0", INSIDE_IPV6, V6_ZERO),
)
TO_VXLAN, TO_DOCUMENTED, TO_UNKNOWN, TO_BESIDE = (
    f.small_udp(INSIDE_IPV4.local, to)
    for to in (INSIDE_IPV4.vxlan, INSIDE_IPV4.documented, INSIDE_IPV4.unknown, INSIDE_IPV4.beside)
)
FROM_VXLAN = f.for_endpoint(f.small_udp(INSIDE_IPV4.vxlan, INSIDE_IPV4.local))

FEATURES = Group(
    "What a feature costs",
    "Nanoseconds for a small packet, and the ratio to IPv4 in IPv4 (4in4) on a direct path, without options or a tag.",
    OURS,
    (
        *(line for family in FAMILIES[1:] for line in _both(*family)),
        received("UDP checksum over IPv4", lambda mac: f.in_geneve(mac, summed=True)),
        *_both("VLAN tag", INSIDE_IPV4, MapContents(vlan=100), contestant=TAGGED.name),
        received("VXLAN", lambda mac: f.in_vxlan(mac, FROM_VXLAN)),
        sent("VXLAN", TO_VXLAN),
        received("RTS option: after a hop", _with_options(f.rts_option(f.OVER_IPV4.third))),
        sent("RTS option: no direct path, by a bouncer", TO_UNKNOWN, Outcome.SENT_TO_BOUNCER),
        sent("no direct path, known from documents", TO_DOCUMENTED),
        received("one unknown option skipped", _with_options(f.unknown_options(1))),
        received("eight unknown options skipped", _with_options(f.unknown_options(8))),
        Line(
            "to an endpoint on this host",
            EGRESS,
            lambda _: f.sent_by_endpoint(TO_BESIDE),
            Outcome.DELIVERED_SAME_HOST,
            True,
        ),
        *_both("4in4, compiled for IPv4 alone, no VXLAN", INSIDE_IPV4, MapContents(), contestant=IPV4_ALONE.name),
        *_both("4in4, compiled for all and VLAN tags", INSIDE_IPV4, MapContents(), contestant=TAGGED.name),
    ),
)
FULL = Group(
    "Full packets",
    f"TCP of {f.FULL:,} bytes inside. A UDP checksum over IPv6 is read on arrival; on sending, the inner packet's own "
    "checksum stands for it.",
    "4in4",
    tuple(line for name, inside, contents in FAMILIES for line in _both(name, inside, contents, full=True)),
)


def _reached_from_far(name: str, vni: int, to: str, outcome: Outcome) -> Line:
    """Return a line of packets that this host hands on."""
    inner = f.for_endpoint(f.small_udp(INSIDE_IPV4.remote, to))
    options = f.rts_option(f.OVER_IPV4.third)
    return Line(name, INGRESS, lambda mac: f.in_geneve(mac, inner, options=options, vni=vni), outcome, False,
                restore=Restore())  # fmt: skip


FRESH_IN, FRESH_OUT = Restore(-OVERHEAD), Restore(OVERHEAD)
PLAIN_IN, _ = _both("4in4", INSIDE_IPV4, MapContents())
HOPS = Group(
    "Hops and answers",
    "The far end restores these frames for the next turn, as it does for `4in4`. ICMP errors run without their rate "
    "limit.",
    "4in4",
    (
        received("4in4", PLAIN_IN.frame, restore=FRESH_IN),
        sent("4in4", f.small_udp(INSIDE_IPV4.local, INSIDE_IPV4.remote), restore=FRESH_OUT, taught=PLAIN_IN.frame),
        _reached_from_far("bouncer's hop", f.VNI, INSIDE_IPV4.documented, Outcome.BOUNCED),
        _reached_from_far("divider's hop", f.DIVIDED_VNI, INSIDE_IPV4.documented, Outcome.HANDED_TO_BOUNCER),
        Line(
            "too big, answered by ICMP",
            EGRESS,
            lambda _: f.sent_by_endpoint(f.udp(INSIDE_IPV4.local, INSIDE_IPV4.remote, (1, 2), bytes(1460))),
            Outcome.ICMP_TOO_BIG_SENT,
            True,
            UNLIMITED_ERRORS.name,
            restore=Restore(28),
        ),
    ),
)

MANY, SOME = 1_000_000, 1_000


def _scaled(name: str, count: int, spread: int, contestant: str = OURS) -> tuple[Line, Line]:
    """Return lines with so many endpoints in the map and packets to `spread` of them, in both directions."""
    first = str(SCALE_FIRST)
    inner = f.for_endpoint(f.small_udp(INSIDE_IPV4.remote, first))
    counted = contestant == OURS
    place = ETHERNET + TO_IPV4
    arriving = Restore(-OVERHEAD, OVERHEAD + place, spread, SCALE_FIRST)
    leaving = Restore(OVERHEAD, place, spread, SCALE_FIRST)
    packet = f.small_udp(INSIDE_IPV4.local, first)
    return (
        Line(name, INGRESS, lambda mac: f.in_geneve(mac, inner), Outcome.DELIVERED if counted else None, True,
             contestant, MapContents(scale=Scale(count, local=True)), restore=arriving),
        Line(name, EGRESS, lambda _: f.sent_by_endpoint(packet), Outcome.SENT_DIRECT if counted else None, False,
             contestant, MapContents(scale=Scale(count, local=False)), restore=leaving),
    )  # fmt: skip


ONE, MILLION_TO_ONE, MILLION_TO_SOME, MILLION_TO_ALL = (
    "1",
    f"{MANY:,}, to 1",
    f"{MANY:,}, to {SOME:,}",
    f"{MANY:,}, to all",
)
BARE_MILLION_TO_ALL = f"bare, {MILLION_TO_ALL}"
SCALE = Group(
    "Endpoints in the maps",
    "Endpoints known from documents; traffic to one of them, or to many in random order. The far end writes the next "
    "destination, also if there is only one. `bare` has as many entries in its own map.",
    ONE,
    (
        *_scaled(ONE, 1, 1),
        *_scaled(f"{SOME:,}, to 1", SOME, 1),
        *_scaled(f"{SOME:,}, to all", SOME, SOME),
        *_scaled(MILLION_TO_ONE, MANY, 1),
        *_scaled(MILLION_TO_SOME, MANY, SOME),
        *_scaled(MILLION_TO_ALL, MANY, MANY),
        *_scaled(BARE_MILLION_TO_ALL, MANY, MANY, SCALED_BARE.name),
    ),
)
GROUPS = (FEATURES, FULL, HOPS, SCALE)
