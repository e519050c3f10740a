"""Checks drop reasons: the condition of each on the frame or the configuration, evaluated independently."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

from fuzz_machine import Step
from fuzz_model import GATEWAY_MAC, ZERO, Model, host_of, is_v4
from fuzz_offloads import is_gso_of_udp, is_no_tunnels, is_refused_by_kernel
from fuzz_parse import ARP, EXTENSIONS, ICMPV6, IPV6, MAPPED, UNFOUND, VLAN, Ip, Tunnel, read_inner, read_ip
from fuzz_rules import (
    INVALIDATE,
    LABEL,
    LABEL_ASKING,
    MISDIRECTED,
    PROBE,
    RTS,
    comes_back,
    found,
    is_own_misdirected,
    is_sum_wrong,
    merged,
    origin_of,
)

from agent.core.model import map_layout
from agent.core.model.endpoint_slots import IFINDEX_BASE
from agent.datapath.bpf.outcomes import Outcome

SOLICITATION = b"\x87"
PORTED = (6, 17, 132)
"""TCP, UDP and SCTP: their ports stand first."""


class PacketView:
    """A dropped frame as far as it can be read."""

    def __init__(self, model: Model, step: Step) -> None:
        self.model = model
        self.step = step
        self.frame = step.frame
        self.arrival = step.arrival
        self.from_endpoint = step.program == "transit_agent"

    @cached_property
    def sender(self) -> map_layout.Interface:
        return self.model.interfaces[self.arrival - IFINDEX_BASE]

    @cached_property
    def outer(self) -> Ip | None:
        """The outer IP packet."""
        tagged = self.frame[12:14] == VLAN.to_bytes(2, "big")
        at = 18 if tagged else 14
        return read_ip(self.frame, int.from_bytes(self.frame[at - 2 : at], "big"), at, len(self.frame))

    @cached_property
    def payload(self) -> bytes:
        """What follows the outer UDP header."""
        return self.frame[self.outer.transport + 8 : self.outer.end] if self.outer else b""

    @cached_property
    def tunnel(self) -> Tunnel | None:
        return found(self.model, self.frame)

    @cached_property
    def inner(self) -> bytes:
        return self.frame if self.from_endpoint else self.tunnel.inner if self.tunnel else b""

    @cached_property
    def vni(self) -> int:
        return self.sender.vni if self.from_endpoint else self.tunnel.vni if self.tunnel else -1

    @cached_property
    def kind(self) -> int:
        return read_inner(self.inner)[0] if len(self.inner) >= 14 else -1

    @cached_property
    def ip(self) -> Ip | None:
        return read_inner(self.inner)[1] if len(self.inner) >= 14 else None

    @property
    def source(self) -> bytes:
        """The address in whose name a packet goes; of ARP and neighbour discovery, the endpoint's own."""
        if self.from_endpoint and (self.kind == ARP or self.is_nd):
            return MAPPED + self.sender.ipv4 if self.kind == ARP else self.sender.ipv6
        return self.ip.source if self.ip else ZERO

    @property
    def target(self) -> bytes:
        """The address that a packet is for or asks for."""
        if self.kind == ARP:
            return MAPPED + self.inner[38:42]
        if self.is_nd and self.ip and self.inner[self.ip.transport : self.ip.transport + 1] == SOLICITATION:
            return self.inner[62:78]
        return self.ip.destination if self.ip else ZERO

    @property
    def is_nd(self) -> bool:
        ip = self.ip
        if not ip or self.kind != IPV6 or ip.protocol != ICMPV6 or ip.later:
            return False
        return 133 <= (self.inner[ip.transport : ip.transport + 1] or b"\0")[0] <= 137

    @property
    def origin(self) -> bytes | None:
        return self.tunnel.option(RTS) if self.tunnel else None


def _is_malformed_inner(s: PacketView) -> bool:
    ip = s.ip
    if ip is None or ip.transport > ip.end:
        return True
    if (ip.protocol == UNFOUND and s.kind == IPV6) or ip.protocol in EXTENSIONS:
        return True
    if (
        ip.protocol == ICMPV6
        and s.kind == IPV6
        and not ip.later
        and ip.transport + 1 > (ip.end if ip.fragment else len(s.inner))
    ):
        return True
    return ip.protocol in PORTED and not ip.later and ip.transport + 4 > ip.end


def _is_inner_protocol(s: PacketView) -> bool:
    known = (0x0800, ARP, IPV6 if "ipv6" in s.model.features.families else ARP)
    return s.kind not in known and not (s.from_endpoint and s.inner[0] & 1)


def _is_arp(s: PacketView) -> bool:
    return len(s.inner) >= 42 and s.inner[14:20] == b"\0\1\x08\0\6\4"


def _is_multicast(s: PacketView) -> bool:
    to = s.target if not s.is_nd else s.ip.destination if s.ip else ZERO
    looked_at = s.from_endpoint or (s.tunnel and s.tunnel.is_vxlan)
    read = s.kind != IPV6 or "ipv6" in s.model.features.families
    if looked_at and s.inner[0] & 1 and s.kind != ARP and not (s.is_nd and read):
        return True
    return s.model.is_to_many(s.vni, to)


def _is_malformed_geneve(s: PacketView) -> bool:
    t = s.tunnel
    if t is None or (len(t.inner) < 14 and not t.flags & 0x80):
        return True
    sizes = {RTS: (8, 20), PROBE: (12,), INVALIDATE: (0,), MISDIRECTED: (8, 20), LABEL: (4,), LABEL_ASKING: (4,)}
    return any(class_ == 0xFF4D and len(body) not in sizes.get(kind, (len(body),)) for class_, kind, body in t.options)


def _is_badly_summed(s: PacketView) -> bool:
    return bool(s.outer) and (not s.outer.summed or not s.tunnel or is_sum_wrong(s.step, s.tunnel))


def _is_unsummed(s: PacketView) -> bool:
    outer = s.outer
    if not outer or is_v4(outer.source) or s.model.peers.get(outer.source, 0):
        return False
    return s.frame[outer.transport + 6 : outer.transport + 8] == b"\0\0"


def _is_like_nd(s: PacketView) -> bool:
    """Neighbour discovery, or what would be if the packet were as long as its frame."""
    return s.kind == IPV6 and (s.is_nd or _is_malformed_inner(s))


def _is_unknown(s: PacketView) -> bool:
    """No endpoint, or one that has left the droplet where documents put it."""
    endpoint = s.model.endpoints.get((s.vni, s.target))
    return endpoint is None or bool(s.tunnel and comes_back(s.tunnel))


def _is_source_arp(s: PacketView) -> bool:
    own = (s.sender.ipv4, bytes(4))
    return s.sender.ipv4 == bytes(4) or s.frame[22:28] != s.sender.mac or s.frame[28:32] not in own


def _is_own_source(s: PacketView) -> bool:
    if not s.ip:
        return False
    own = MAPPED + s.sender.ipv4 if is_v4(s.ip.source) else s.sender.ipv6
    return s.ip.source == own and any(own[12:] if is_v4(own) else own)


def _is_own_solicitation(s: PacketView) -> bool:
    """Asked about the asker's own address or a link-local one."""
    if s.from_endpoint:
        return s.target == s.sender.ipv6 or (s.target[0] == 0xFE and s.target[1] >> 6 == 2)
    endpoint = s.model.endpoints.get((s.vni, s.target))
    if not s.ip or s.ip.source != ZERO or not s.tunnel or not endpoint:
        return False
    return host_of(endpoint.host) == host_of(origin_of(s.tunnel))


def _is_source_elsewhere(s: PacketView) -> bool:
    """The source is an endpoint of this host, or one that the VXLAN peer may not use."""
    endpoint, network = s.model.endpoints.get((s.vni, s.source)), s.model.network_of(s.vni, s.source)
    if endpoint and endpoint.ifindex:
        return True
    if not s.tunnel or not s.tunnel.is_vxlan:
        return False
    elsewhere = endpoint is not None and host_of(endpoint.host) != host_of(s.tunnel.ip.source)
    return elsewhere or bool(network and network.gateway == s.source)


def _is_bad_critical(s: PacketView) -> bool:
    """An unknown critical option, maybe in front of one whose length is wrong."""
    head = s.payload
    at, limit = 8, min(8 + (head[0] & 63) * 4, len(head))
    while at + 4 <= limit:
        if head[at + 2] & 0x80 and head[at : at + 3] not in (b"\xff\x4d\x82", b"\xff\x4d\x84"):
            return True
        at += 4 + (head[at + 3] & 31) * 4
    return False


def is_last_attempt(s: PacketView) -> bool:
    """Returned as often as attempts are allowed: two for each bouncer, or one for a single bouncer."""
    network = s.model.network_of(s.vni, s.source)
    if not s.tunnel or not s.ip or not network:
        return False
    body = s.tunnel.option(MISDIRECTED)
    if body is None and is_own_misdirected(s.model, s.tunnel, s.ip):
        body = s.tunnel.option(RTS)
    count = len(network.bouncers)
    ways = 16 if s.model.between(s.vni, s.source, s.target) else 1 if count == 1 else min(2 * count, 16)
    return body is not None and body[2] + 1 >= ways


def _has_no(s: PacketView, outcome: Outcome) -> bool:
    """A network or VPC on the packet's path has no bouncer or divider."""
    model = s.model
    if outcome is Outcome.NO_DIVIDER:
        return s.vni in model.vpcs and not model.vpcs[s.vni].members
    networks = [model.network_of(s.vni, s.source), model.network_of(s.vni, s.target)]
    return any(n and not n.bouncers for n in networks)


REASONS: dict[Outcome, Callable[[PacketView], object]] = {
    Outcome.UNKNOWN_INTERFACE: lambda s: s.arrival - IFINDEX_BASE not in s.model.interfaces,
    Outcome.SOURCE_MAC: lambda s: s.frame[6:12] != s.sender.mac,
    Outcome.SOURCE_ADDRESS: lambda s: not _is_own_source(s),
    Outcome.SOURCE_ARP: _is_source_arp,
    Outcome.SOURCE_ND: _is_like_nd,
    Outcome.ARP_OWN_ADDRESS: lambda s: s.target[12:] == s.sender.ipv4,
    Outcome.ND_OWN_ADDRESS: _is_own_solicitation,
    Outcome.ARP_OPCODE: lambda s: s.inner[20:22] not in ((b"\0\1", b"\0\2") if s.origin is not None else (b"\0\1",)),
    Outcome.ND_TYPE: lambda s: _is_like_nd(s) and (not s.ip or not s.ip.plain or s.inner[54] != 135),
    Outcome.MALFORMED_ARP: lambda s: not _is_arp(s),
    Outcome.MALFORMED_ND: _is_like_nd,
    Outcome.INNER_PROTOCOL: _is_inner_protocol,
    Outcome.MALFORMED_INNER: _is_malformed_inner,
    Outcome.EXTENSION_HEADERS: lambda s: s.kind == IPV6 and s.ip and s.inner[20] in EXTENSIONS,
    Outcome.MULTICAST: _is_multicast,
    Outcome.LINK_LOCAL: lambda s: s.ip and s.ip.destination[0] == 0xFE and s.ip.destination[1] >> 6 == 2,
    Outcome.INNER_TTL: lambda s: s.ip and s.ip.ttl <= 1 and s.frame[:6] == GATEWAY_MAC,
    Outcome.TO_GATEWAY: lambda s: (n := s.model.network_of(s.vni, s.source)) and n.gateway == s.target,
    Outcome.NO_PROGRAM: lambda s: not s.model.delivers,
    Outcome.NO_LOCAL_DROPLET: lambda s: s.sender.droplet not in s.model.uplinks,
    Outcome.NO_NETWORK: lambda s: None in (s.model.network_of(s.vni, s.source), s.model.network_of(s.vni, s.target)),
    Outcome.NO_BOUNCER: lambda s: _has_no(s, Outcome.NO_BOUNCER),
    Outcome.NO_DIVIDER: lambda s: _has_no(s, Outcome.NO_DIVIDER),
    Outcome.NO_VPC: lambda s: s.vni not in s.model.vpcs,
    Outcome.NO_ENDPOINT: _is_unknown,
    Outcome.OUTER_FRAGMENT: lambda s: s.frame[20:22] != b"@\0",
    Outcome.OUTER_OPTIONS: lambda s: not s.outer or not s.outer.plain or s.frame[s.outer.at + 6] in EXTENSIONS,
    Outcome.OUTER_CHECKSUM: _is_badly_summed,
    Outcome.NO_CHECKSUM: _is_unsummed,
    Outcome.OUTER_TTL: lambda s: s.outer and s.outer.ttl <= 1,
    Outcome.MALFORMED_OUTER: lambda s: (
        not s.tunnel or (s.tunnel.is_vxlan and len(s.tunnel.inner) < 14) or s.step.marks.by_kernel
    ),
    Outcome.NO_HEADROOM: lambda s: is_refused_by_kernel(s.step),
    Outcome.GSO_PACKET: lambda s: is_no_tunnels(s.model, s.step) or is_gso_of_udp(s.model, s.step),
    Outcome.UNKNOWN_DROPLET: lambda s: s.outer and s.outer.source not in s.model.peers,
    Outcome.UNKNOWN_ORIGIN: lambda s: s.origin is not None,
    Outcome.GENEVE_VERSION: lambda s: s.payload[0] >> 6,
    Outcome.GENEVE_CONTROL: lambda s: s.payload[1] & 0x80,
    Outcome.GENEVE_PROTOCOL: lambda s: s.payload[2:4] != b"\x65\x58",
    Outcome.MALFORMED_GENEVE: _is_malformed_geneve,
    Outcome.CRITICAL_OPTION: _is_bad_critical,
    Outcome.VXLAN_FLAGS: lambda s: not s.payload[0] & 8,
    Outcome.TOO_MANY_BOUNCES: lambda s: s.origin and s.origin[0] >= 4,
    Outcome.ECN_NOT_CAPABLE: lambda s: s.ip and s.tunnel and merged(s.ip.tos, s.tunnel.ip.tos) is None,
    Outcome.SOURCE_ELSEWHERE: _is_source_elsewhere,
    Outcome.ALL_MISDIRECTED: is_last_attempt,
}  # fmt: skip
"""The condition of each drop reason, except reasons that depend on the whole path."""


def is_true(model: Model, step: Step) -> bool:
    """Return whether the reason for which a frame was dropped is a true one; none is about a byte that is not there."""
    rule = REASONS.get(step.outcome)
    try:
        return rule is None or bool(rule(PacketView(model, step)))
    except IndexError:
        return False
