"""The oracle's rules for packets: received and sent tunnel packets, inner frames before and after."""

from __future__ import annotations

from fuzz_machine import Step
from fuzz_model import GATEWAY_MAC, Model, Uplink, is_v4
from fuzz_offloads import finished, longest, unfinished_at
from fuzz_parse import (
    ARP,
    ICMP,
    ICMPV6,
    IPV4,
    IPV6,
    MAPPED,
    TCP,
    UDP,
    Ip,
    Tunnel,
    is_transport_right,
    read_inner,
    read_tunnel,
    total_of,
)

from agent.core.model import map_layout
from agent.core.model.hooks import Hook
from agent.datapath.bpf.outcomes import Outcome

ANSWERS = {
    Outcome.ARP_ANSWERED_REMOTE,
    Outcome.ND_ANSWERED_REMOTE,
    Outcome.ICMP_TOO_BIG_SENT_REMOTE,
    Outcome.ICMP_UNREACHABLE_SENT_REMOTE,
}
"""Of those that are forwarded: a single packet of this droplet's own."""
INVALIDATE, MISDIRECTED, RTS, PROBE, LABEL, LABEL_ASKING = 0x82, 0x84, 1, 3, 5, 6
ASKS = 16
"""Flag of return-to-sender: the sender's network asks for labels."""
BACK = ((0xFF4D, INVALIDATE), (0xFF4D, MISDIRECTED))
"""Options of a packet that comes back to the droplet of its sender."""


class ViolationError(AssertionError):
    """A frame was treated against the rules."""


def need(held: object, rule: str) -> None:
    """Raise ViolationError, naming the rule, when it is not held."""
    if not held:
        raise ViolationError(rule)


def found(model: Model, frame: bytes) -> Tunnel | None:
    """Return a frame as a tunnel packet by the configured ports and families."""
    tunnel = read_tunnel(frame, model.features.geneve_port, model.features.vxlan_port)
    if tunnel and (tunnel.vlan or 0) & 0xFFF and not model.features.vlan_tags:
        return None
    return tunnel


def uplink_of(model: Model, arrival: int, tunnel: Tunnel) -> Uplink | None:
    """Return the droplet of this host that a tunnel packet came in for."""
    vlan = (tunnel.vlan or 0) & 0xFFF
    for uplink in model.uplinks.values():
        if (uplink.arrives, uplink.vlan, uplink.address) == (arrival, vlan, tunnel.ip.destination):
            return uplink
    return None


def accepted(model: Model, step: Step) -> tuple[Tunnel, Uplink]:
    """Return what came in, held to all that a tunnel packet must be before anything may follow from it."""
    tunnel = found(model, step.frame)
    if tunnel is None:
        raise ViolationError("only sound tunnel packets are acted on")
    uplink = uplink_of(model, step.arrival, tunnel)
    if uplink is None:
        raise ViolationError("only what is for a droplet of this host is acted on")
    need(tunnel.ip.plain, "outer options and extension headers are refused")
    need(tunnel.ip.summed, "the outer IPv4 checksum is verified")
    need(not is_sum_wrong(step, tunnel), "an outer UDP checksum is verified")
    need(tunnel.ip.source in model.peers, "only known droplets are listened to")
    zero = (model.peers[tunnel.ip.source] | uplink.flags) & map_layout.DROPLET_ZERO_CHECKSUM
    need(
        is_v4(uplink.address) or tunnel.udp.check is not None or zero,
        "no UDP checksum over IPv6 but from those that may",
    )
    need(tunnel.protocol == 0x6558, "the payload is Ethernet")
    critical = [o for o in tunnel.options if o[1] & 0x80]
    need(all(o[:2] in BACK for o in critical), "an unknown critical option drops the packet")
    return tunnel, uplink


def is_sum_wrong(step: Step, tunnel: Tunnel) -> bool:
    """Say whether an outer UDP checksum is wrong; at tc it may be unfinished, and a GSO packet has one a segment."""
    left_to_device = step.hook is Hook.TC and (tunnel.udp.unfinished or step.marks.segment)
    return tunnel.udp.check is False and not left_to_device


def data_packet(model: Model, step: Step) -> tuple[Tunnel, Uplink]:
    """Return what came in, which is no control packet and has an inner frame."""
    tunnel, uplink = accepted(model, step)
    need(tunnel.is_vxlan or not tunnel.flags & 0x80, "control packets go no further")
    need(len(tunnel.inner) >= 14, "there is an inner Ethernet header")
    return tunnel, uplink


def origin_of(tunnel: Tunnel) -> bytes:
    """Return the droplet that a packet's sender is on: by RTS, else where it came from."""
    body = tunnel.option(RTS)
    if body is None or tunnel.option(MISDIRECTED) is not None:
        return tunnel.ip.source
    return address_in(body)


def address_in(body: bytes) -> bytes:
    """Return the address in the body of return-to-sender or misdirected."""
    return MAPPED + body[4:8] if len(body) == 8 else body[4:20]


def label_of(tunnel: Tunnel) -> tuple[int, bool]:
    """Return the label that a packet carries, 0 for none, and whether its sender's network asks for labels."""
    last = next((o for o in reversed(tunnel.options) if o[0] == 0xFF4D and o[1] in (LABEL, LABEL_ASKING)), None)
    rts = None if tunnel.option(MISDIRECTED) is not None else tunnel.option(RTS)
    asks = bool(rts and rts[1] & ASKS)
    return (int.from_bytes(last[2], "big"), asks or last[1] == LABEL_ASKING) if last else (0, asks)


def comes_back(tunnel: Tunnel) -> bool:
    """Return whether a packet is marked as coming back to the droplet of its sender."""
    return any(tunnel.option(kind) is not None for kind in (INVALIDATE, MISDIRECTED))


def is_own_misdirected(model: Model, tunnel: Tunnel, ip: Ip) -> bool:
    """Return whether a packet of a local endpoint was misdirected to its own host."""
    sender, to = model.endpoints.get((tunnel.vni, ip.source)), model.network_of(tunnel.vni, ip.destination)
    here = bool(sender and sender.ifindex) and tunnel.option(RTS) is not None and origin_of(tunnel) not in model.peers
    role = bool(to and to.flags & map_layout.NETWORK_LOCAL_BOUNCER) or model.divided_here(tunnel.vni)
    return here and not role and (tunnel.vni, ip.destination) not in model.endpoints


def sent_out(model: Model, step: Step, vni: int, *, inner_right: bool = True) -> tuple[Tunnel, Uplink]:
    """Return the sent tunnel packet, checked against RFC 8926, RFC 7348, RFC 6936 and the configuration."""
    tunnel = found(model, step.out)
    if tunnel is None:
        raise ViolationError("what leaves is a sound tunnel packet")
    ip = tunnel.ip
    leaving = [
        u for u in model.uplinks.values()
        if (u.address, u.leaves, u.mac, u.vlan) == (ip.source, step.leaves, tunnel.source_mac, tunnel.vlan or 0)
    ]  # fmt: skip
    need(leaving, "it leaves by a droplet of this host, in its name")
    need(ip.destination in model.peers, "it goes to a known droplet")
    hop = next((hop for hop in _hops(model, ip.destination, leaving) if hop.mac == tunnel.destination_mac), None)
    if hop is None:
        raise ViolationError("it goes where a next hop leads")
    length = ip.end - ip.at
    if step.outcome not in ANSWERS:
        need(not step.marks.segment or tunnel.udp.check is None, "each segment would need a UDP checksum of its own")
        length -= len(tunnel.inner) - longest(step, tunnel.inner)
    need(length <= hop.mtu, "it is no longer than the path carries")
    need(ip.plain and not ip.fragment and ip.never, "no options, no fragments, DF set")
    need(tunnel.vni == vni, "it stays in its VPC")
    _check_checksum(model, step, tunnel, leaving[0], hop, inner_right)
    _check_header(tunnel, step.out)
    return tunnel, leaving[0]


def _hops(model: Model, to: bytes, leaving: list[Uplink]) -> list[map_layout.NextHop]:
    """Return the entries that lead to a droplet in the name of one of this host's."""
    found = []
    for (peer, interface), hop in model.hops.items():
        own = interface in (uplink.interface for uplink in leaving) and not hop.flags & map_layout.NEXT_HOP_BY_OTHER
        if peer == to and (own or model.uplinks.get(hop.droplet) in leaving):
            found.append(hop)
    return found


def _check_checksum(
    model: Model, step: Step, tunnel: Tunnel, uplink: Uplink, hop: map_layout.NextHop, inner_right: bool
) -> None:
    if is_v4(tunnel.ip.source):
        need(tunnel.ip.summed and tunnel.udp.check is None, "right IPv4 checksum, no UDP checksum")
    elif hop.flags & map_layout.NEXT_HOP_ZERO_CHECKSUM or uplink.flags & map_layout.DROPLET_ZERO_CHECKSUM:
        need(tunnel.udp.check is None, "no UDP checksum where either end wants none")
    else:
        need(tunnel.udp.check is not None, "a UDP checksum over IPv6")
        need(_completed(model, step, tunnel).udp.check or not inner_right, "the UDP checksum is right")


def _completed(model: Model, step: Step, tunnel: Tunnel) -> Tunnel:
    """Return what left this droplet after a device completed the inner checksum, which only tc leaves to one."""
    if step.hook is Hook.XDP or not unfinished_at(tunnel.inner):
        return tunnel
    at = len(step.out) - tunnel.udp.end
    inner = finished(tunnel.inner)
    frame = step.out[: tunnel.udp.end - len(inner)] + inner + step.out[len(step.out) - at :]
    return found(model, frame) or tunnel


def _check_header(tunnel: Tunnel, frame: bytes) -> None:
    head = frame[tunnel.udp.at + 8 : tunnel.udp.at + 16]
    need(head[7] == 0, "reserved bits are zero")
    if tunnel.is_vxlan:
        need(head[:4] == b"\x08\0\0\0", "VXLAN's flags are the VNI's alone")
        return
    labels = [option for option in tunnel.options if option[1] in (LABEL, LABEL_ASKING)]
    need(len(labels) <= 1 and all(len(body) == 4 for _, _, body in labels), "at most one label, of 4 bytes")
    kinds = [option[:2] for option in tunnel.options if option not in labels]
    need(kinds in ([], [(0xFF4D, RTS)], *([one] for one in BACK)), "at most one other option, ours")
    critical = 0x40 if kinds and kinds[0] in BACK else 0
    need(tunnel.flags == critical and tunnel.protocol == 0x6558, "C says whether an option is critical; O is not set")


def merged(inner: int, outer: int) -> int | None:
    """Return the inner TOS that RFC 6040 section 4.2 gives, None for a drop."""
    table = {
        0: (0, 0, 0, None),
        1: (1, 1, 1, 3),
        2: (2, 1, 2, 3),
        3: (3, 3, 3, 3),
    }  # fmt: skip
    ecn = table[inner & 3][outer & 3]
    return None if ecn is None else inner & 0xFC | ecn


def check_same(before: bytes, after: bytes, ip: Ip, tos: int, ttl: int) -> None:
    """Hold that an inner frame is what it was, from its ethertype on, but for TOS, time to live and IPv4's checksum."""
    need(len(before) == len(after), "an inner frame keeps its length")
    want, have = bytearray(before), bytearray(after)
    if before[12:14] == b"\x08\x00":
        want[15], want[22] = tos, ttl
        header = slice(14, ip.transport)
        need(
            total_of(bytes(want[header])) % 0xFFFF == total_of(before[header]) % 0xFFFF
            or (total_of(before[header]) - total_of(after[header])) % 0xFFFF == 0,
            "an IPv4 checksum that was right stays right, and one that was wrong, wrong",
        )
        want[24:26] = have[24:26] = b"\0\0"
    else:
        want[14:16] = (int.from_bytes(before[14:16], "big") & 0xF00F | tos << 4).to_bytes(2, "big")
        want[21] = ttl
    need(want[12:] == have[12:], "an inner frame keeps its content")


def inner_sums_right(frame: bytes) -> bool:
    """Return whether the checksums of an inner frame, where they stand in for its sum, are right."""
    frame = finished(frame)
    _, ip = read_inner(frame)
    if ip is None:
        return True
    if ip.protocol not in (TCP, UDP) or ip.fragment:
        return ip.summed
    return ip.summed and is_transport_right(frame, ip, ip.protocol)


def asked_by(frame: bytes) -> tuple[bytes, bytes] | None:
    """Return sender and target of an ARP request or solicitation in an inner frame, None if it is neither."""
    kind, ip = read_inner(frame)
    if kind == ARP:
        return (MAPPED + frame[28:32], MAPPED + frame[38:42]) if frame[20:22] == b"\0\1" else None
    if ip and kind == IPV6 and ip.protocol == ICMPV6 and ip.plain and frame[54:55] == b"\x87":
        return ip.source, frame[62:78]
    return None


def ip_of(frame: bytes) -> Ip:
    """Return the IP packet of an inner frame, which must be sound."""
    _, ip = read_inner(frame)
    if ip is None:
        raise ViolationError("an inner packet's lengths and version add up")
    return ip


def check_routed(frame: bytes, ip: Ip) -> int:
    """Return the time to live behind a gateway, when the frame was given to one."""
    if frame[:6] != GATEWAY_MAC:
        return ip.ttl
    need(ip.ttl > 1, "a packet whose time to live is used up goes no further")
    return ip.ttl - 1


def check_single(model: Model, vni: int, source: bytes) -> None:
    """Hold that an address is a single host's (RFC 1122 section 3.2.2, RFC 4443 section 2.4 e)."""
    single = source[12] not in (0, 127) and source[12] < 224 if is_v4(source) else source != bytes(16)
    need(single and not model.is_to_many(vni, source), "no ICMP error to a source that is no single host's")


def check_error(model: Model, step: Step, vni: int, about: bytes, error: bytes) -> Ip:
    """Hold an ICMP error about an inner frame to RFC 792, RFC 1191 and RFC 4443; return the packet that it is about."""
    _, culprit = read_inner(about)
    if culprit is None:
        raise ViolationError("ICMP errors are about IP packets")
    ip = ip_of(error)
    v4 = is_v4(culprit.source)
    network = model.network_of(vni, culprit.source) or model.network_of(vni, culprit.destination)
    need(
        network and ip.source == network.gateway,
        "an ICMP error comes from the gateway of the sender, else of the other",
    )
    need(ip.destination == culprit.source, "an ICMP error goes to the one who sent the packet")
    need(error[:6] == about[6:12] and error[6:12] == GATEWAY_MAC, "its Ethernet addresses are theirs")
    need(is_v4(ip.source) == v4 and ip.protocol == (ICMP if v4 else ICMPV6) and ip.plain, "in the packet's own family")
    need(ip.end == len(error), "nothing stands behind an ICMP error")
    body = error[ip.transport : ip.end]
    need(ip.summed and total_of(body) == 0xFFFF if v4 else is_transport_right(error, ip, ICMPV6), "its sums are right")
    need(len(error) - 14 <= (576 if v4 else 1280), "it is no longer than RFC 1812 and RFC 4443 allow")
    need(not culprit.later, "no ICMP error about a later fragment")
    if culprit.protocol == (ICMP if v4 else ICMPV6) and culprit.transport < culprit.end:
        kind = about[culprit.transport]
        need(kind in (0, 8) if v4 else kind >= 128, "no ICMP error about an ICMP error")
        need(v4 or not 133 <= kind <= 137, "nor about neighbour discovery")
    check_single(model, vni, culprit.source)
    need(about[0] & 1 == 0, "no ICMP error about what went to many by Ethernet")
    need(not model.is_to_many(vni, culprit.destination) or (vni, culprit.destination) in model.endpoints, "nor by IP")
    unfinished = unfinished_at(about) if step.hook is Hook.TC else None
    check_quote(about, body[8:], culprit, unfinished[0] if unfinished else None)
    if unfinished:
        check_completed(error, ip, len(error) - len(body) + 8 - 14, *unfinished)
    return ip


def check_completed(error: bytes, ip: Ip, moved: int, field: int, about: Ip) -> None:
    """Hold that the sum of an error stays right when a device completes the quoted checksum, as the frame is marked."""
    start, field = about.transport + moved, field + moved
    if field + 2 > len(error):
        return
    completed = error[:field] + (total_of(error[start:]) ^ 0xFFFF).to_bytes(2, "big") + error[field + 2 :]
    body = completed[ip.transport : ip.end]
    right = total_of(body) == 0xFFFF if is_v4(ip.source) else is_transport_right(completed, ip, ICMPV6)
    need(right, "its sum stays right when a device completes the quoted checksum")


def check_quote(about: bytes, quote: bytes, culprit: Ip, unfinished: int | None) -> None:
    """Hold that an ICMP error quotes the packet from its start on, with its time to live counted or not.

    `unfinished` is where its checksum is that a device is to complete.
    """
    whole = about[14 : culprit.end]
    need(len(quote) == len(whole) or len(quote) >= 500, "it quotes the packet whole or as far as it may")
    want, have = bytearray(whole[: len(quote)]), bytearray(quote)
    spots: tuple[int, ...] = (1, 8, 10, 11) if about[12:14] == IPV4.to_bytes(2, "big") else (0, 1, 7)
    if unfinished is not None and unfinished - 14 + 2 <= len(quote):
        spots = (*spots, unfinished - 14, unfinished - 13)
    for at in spots:
        want[at] = have[at] = 0
    need(want == have, "it quotes the packet itself")
