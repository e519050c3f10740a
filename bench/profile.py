"""Where the nanoseconds of our programs go: the same programs with one part left out each, in the same rounds. Pure.

What a part costs is the difference to the whole program; the parts overlap in what the processor does at once, so they
do not add up to the whole. Measured on a small packet in IPv4 over IPv4, direct.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from bench.contestants import Contestant, Edit
from bench.lines import EGRESS, INGRESS
from bench.report import differences


@dataclass(frozen=True, slots=True)
class Part:
    """A step of our programs that can be left out without the packet going another way."""

    name: str
    directions: tuple[str, ...]
    edits: tuple[Edit, ...] = ()
    overlay: str | None = None

    @property
    def contestant(self) -> Contestant:
        """The programs without this part."""
        return Contestant(f"without {self.name}", self.overlay, self.edits)


def _ingress(name: str, file: str, pattern: str, by: str = "") -> Part:
    return Part(name, (INGRESS,), (Edit(file, pattern, by),))


def _egress(name: str, *edits: tuple[str, str, str]) -> Part:
    return Part(name, (EGRESS,), tuple(Edit(*edit) for edit in edits))


_IS_HERE = "struct interface fixed = {.mtu = 1400, .mac = {2, 0, 0, 0, 0, 1}};"
_PEER = "{{0, 0, bpf_htonl(0xffff), bpf_htonl(0xc0000202)}}"

PARTS = (
    _ingress("outer IPv4 checksum", "lib/outer.h", r"if \(sum_fold\(sum_words\(ip,.*\n\t\treturn OUTER_CHECKSUM;"),
    _ingress(
        "which droplet of this host",
        "lib/outer.h",
        r"\*local = find_local\([^;]*;",
        "__u32 first = 0;\n\t*local = local_droplets.lookup(&first);",
    ),
    _ingress(
        "known sender: its direct path",
        "entry/from_underlay.h",
        r"on_path = recently_confirmed\([^;]*;",
        "on_path = true;",
    ),
    _ingress("ECN", "entry/from_underlay.h", r"= merge_ecn\([^;]*;", "= CONTINUE;"),
    _ingress(
        "local endpoint: its cached slot",
        "entry/from_underlay.h",
        r"(?<=\treturn outcome;\n\t)receiver = cached_receiver\([^;]*;",
        f"{_IS_HERE}\n\treceiver = &fixed;\n\t*tx_ifindex = IFINDEX_BASE + 1;",
    ),
    _ingress(
        "whose interface it is",
        "entry/from_underlay.h",
        r"(?<=struct interface )\*receiver = find_receiver\(ifindex, state->tunnel\.vni\);",
        "fixed = {.mac = {2, 0, 0, 0, 0, 1}}, *receiver = &fixed;",
    ),
    _ingress("inner Ethernet addresses", "lib/endpoint.h", r"(?<=\t)rewrite_ethernet\(ethernet, receiver\);"),
    _ingress("taking the headers off", "lib/endpoint.h", r"if \(\(!STAGES \|\| [^;]*;"),
    _egress(
        "source checks",
        ("entry/from_endpoint.h", r"if \(!is_own_source\([^;]*;", ""),
        ("entry/from_endpoint.h", r"if \(!same_mac\(ethernet->h_source[^;]*;", ""),
    ),
    _egress("flow hash", ("entry/from_endpoint.h", r"= hash_flow\([^;]*\);", "= CONTINUE;")),
    _egress(
        "direct path: its cached copy",
        (
            "lib/egress_route.h",
            r"struct found_path path = find_path\(&egress->packet->to\);",
            f"struct address fixed = {_PEER};\n\tstruct found_path path = {{.host = &fixed}};",
        ),
    ),
    _egress(
        "next hop: its cached copy",
        ("lib/egress_route.h", r"(?<=\t__u32 flow;)(?=\n)", "\n\tstruct next_hop fixed;"),
        (
            "lib/egress_route.h",
            r"\bhop = find_hop\([^;]*;(?=\n\tif \(!is_up)",
            "egress->fixed = (struct next_hop){{6, 0, 0, 0, 0, 2}, 1500};\n\thop = &egress->fixed;",
        ),
    ),
    _egress("writing the headers", ("lib/encap.h", r"if \(ipv6 \? !write_over_ipv6\([^;]*;", "")),
    Part("counters", (INGRESS, EGRESS), overlay="no_counters"),
)
"""In the order of a packet's way."""


def layers(by_name: dict[str, list[float]], order: list[str]) -> list[tuple[str, list[float]]]:
    """Return what each contestant of `order` costs more than the one before, in nanoseconds a packet and round."""
    found = [(order[0], by_name[order[0]])]
    for before, after in pairwise(order):
        found.append((f"{after}, more than {before}", differences(by_name[after], by_name[before])))
    return found


def costs(by_name: dict[str, list[float]], whole: str) -> dict[str, list[float]]:
    """Return what each part that was measured costs in nanoseconds a packet, round by round: whole minus variant."""
    found = {}
    for part in PARTS:
        if part.contestant.name in by_name:
            found[part.name] = differences(by_name[whole], by_name[part.contestant.name])
    return found
