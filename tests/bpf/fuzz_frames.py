"""Random frames by a grammar: frames of endpoints and tunnel packets, malformed at any depth."""

from __future__ import annotations

from random import Random
from typing import NamedTuple

import fuzz_layers as layer
from fuzz_layers import IPV4, IPV6, RandomSource
from fuzz_model import (
    CIDRS,
    GATEWAY_MAC,
    HOMES,
    PEERS,
    SLOTS,
    STRANGE_VNIS,
    STRANGER,
    STRANGER6,
    UPLINKS,
    VNIS,
    ZERO,
    Model,
    Uplink,
    is_v4,
    packed,
)

from agent.core.model import map_layout
from agent.core.model.endpoint_slots import IFINDEX_BASE
from agent.core.model.hooks import Hook

WRONG = (0.0, 0.0, 0.01, 0.04, 0.15)
"""How often a field of one frame is wrong: many frames are right, and reach the deepest."""
INNER = {family: tuple(packed(f"{h[family]}{n}") for h in HOMES for n in (1, 2, 3, 4, 77)) for family in (0, 1)}
GATEWAYS = {0: tuple(packed(c[:-4] + "254") for c in CIDRS[:2]), 1: tuple(packed(c[:-3] + "fe") for c in CIDRS[2:])}
ODD = {
    0: tuple(
        map(packed, ("224.0.0.1", "255.255.255.255", "0.0.0.0", "8.8.8.8", "192.0.2.1", "10.0.0.255", "10.0.1.255"))
    ),
    1: (ZERO, *map(packed, ("ff02::1", "fe80::1", "2001:db8::1", "::1", "ff02::1:ff00:1", "64:ff9b::a00:1"))),
}


UNFINISHED = 0.25
"""How often a checksum of a frame at tc is unfinished."""
SEGMENTS = (2, 60, 500, 536, 1000, 1200, 1220, 1240, 1346, 1366, 1386, 1398, 1410, 1448, 3000)
LONGEST = 3650
"""Bytes of a frame that a test run of tc takes, with its tag."""
TAGS = (b"\x81\x00", b"\x88\xa8")
"""IEEE 802.1Q's and 802.1ad's."""


class Marks(NamedTuple):
    """What the kernel knows of a frame at tc.

    Of a GSO packet `gso_size`, 0 for a single packet, and `gso_segs`, 0 if that is not known yet.
    """

    segment: int = 0
    segments: int = 0
    by_kernel: bool = False
    """The kernel sees `segment` too, but as of no protocol: it refuses to change the length of the headers."""
    in_tunnel: bool = False
    """As a tc program of this machine sent it (skb->encapsulation)."""


SINGLE = Marks()


class Frame(NamedTuple):
    """A frame, the program that it goes to and the interface that it arrives on."""

    program: str
    arrival: int
    data: bytes
    metadata: int = 0
    """Bytes of head room that are taken."""
    marks: Marks = SINGLE


def frame(rng: Random, model: Model, hook: Hook = Hook.XDP) -> Frame:
    """Return one frame for a configuration; the same from the same state of the generator."""
    if hook is Hook.XDP:
        return _frame(RandomSource(rng, rng.choice(WRONG)), model)
    bulk = rng.random() < 0.35
    while True:
        made = _frame(RandomSource(rng, rng.choice(WRONG), bulk, UNFINISHED), model)
        if is_run_at_tc(split_tag(made.data)[1]):
            return made._replace(metadata=0, marks=_marks(rng, bulk))


def split_tag(data: bytes) -> tuple[bytes, bytes]:
    """Return the outermost VLAN tag, empty if there is none, and the frame without it."""
    tagged = data[12:14] in TAGS and len(data) >= 18
    return (data[12:16], data[:12] + data[16:]) if tagged else (b"", data)


def is_run_at_tc(data: bytes) -> bool:
    """Say whether a test run takes a frame without its tag: bpf_prog_test_run_skb() in net/bpf/test_run.c."""
    kind = int.from_bytes(data[12:14], "big")
    return len(data) >= 14 + {IPV4: 20, IPV6: 40}.get(kind, 1) and (kind != layer.VLAN or len(data) >= 18)


def _marks(rng: Random, bulk: bool) -> Marks:
    in_tunnel = rng.random() < 0.2
    if not bulk:
        return Marks(in_tunnel=in_tunnel)
    segment = rng.choice((*SEGMENTS, rng.randrange(1, 1500), rng.randrange(1, 65536))) + rng.choice((0, 0, -1, 1))
    segments = rng.choice((0, 0, 2, 3, rng.randrange(1, 2000)))
    return Marks(min(max(1, segment), 65535), segments, rng.random() < 0.15, in_tunnel)


def _frame(c: RandomSource, model: Model) -> Frame:
    kind, rng = c.rng.random(), c.rng
    if kind < 0.02:
        noise = rng.randbytes(rng.randrange(14, 300))
        if c.once(0.5):
            return Frame("transit_xdp", rng.choice(UPLINKS), noise)
        return Frame("transit_agent", IFINDEX_BASE + rng.randrange(SLOTS), noise)
    made = _from_endpoint(c, model) if kind < 0.5 else _from_underlay(c, model)
    return made._replace(metadata=4 * rng.randrange(54)) if c.once(0.01) else made


def _whole(c: RandomSource, data: bytes) -> bytes:
    """Mangle a whole frame, pad it now and then, and keep it as long as a frame may be."""
    data = c.mangle(data)
    if c.once(0.03):
        data += c.rng.randbytes(c.rng.choice((1, 2, 18, 46)))
    return (data + bytes(14 - len(data)) if len(data) < 14 else data)[: LONGEST if c.bulk else 3000]


# Inner frames


def _address(c: RandomSource, family: int, likely: tuple[bytes, ...]) -> bytes:
    if likely and c.rng.random() < 0.75:
        return c.rng.choice(likely)
    odd = c.rng.random()
    if odd < 0.6:
        return c.rng.choice(INNER[family])
    if odd < 0.8:
        return c.rng.choice(GATEWAYS[family])
    if odd < 0.95:
        return c.rng.choice(ODD[family])
    return c.rng.randbytes(16) if family else map_layout.V4_MAPPED + c.rng.randbytes(4)


def _payload(c: RandomSource) -> bytes:
    if c.bulk and c.once(0.9):
        return c.rng.randbytes(32) + bytes(c.of(100, 1000, 2000, 2500, 3000, 3200) + c.rng.randrange(20))
    size = c.rng.choice((0, 1, 18, 19, 64, 100)) if c.once(0.85) else c.rng.choice((500, 1200, 1400, 1420, 1500, 2000))
    return c.rng.randbytes(min(size, 32)) + bytes(max(size - 32, 0))


def _transport(c: RandomSource, source: bytes, destination: bytes) -> tuple[int, bytes]:
    kind, data = c.rng.random(), _payload(c)
    if c.bulk and c.once(0.85):
        kind *= 0.65
    if kind < 0.4:
        ports = c.of(1, 6081, 50000), c.of(2, 53, 5, 4789) if c.once(0.9) else c.of(6081, 7000)
        return layer.UDP, layer.udp(c, source, destination, ports, data, summed=c.once(0.7))
    if kind < 0.65:
        return layer.TCP, layer.tcp(c, source, destination, data)
    if kind < 0.9:
        return layer.icmp(c, source, destination, data)
    return c.of(layer.SCTP, 47, 4, 41, 59, 0, 255), data


def _ip(c: RandomSource, source: bytes, destination: bytes) -> tuple[int, bytes]:
    protocol, payload = _transport(c, source, destination)
    payload = c.mangle(payload)
    if not is_v4(source) and c.once(0.2):
        protocol, payload = layer.extensions(c, protocol, payload, 11 if c.once(0.1) else 4)
    ttl = c.of(64, 64, 64, 255, 2) if c.once(0.93) else c.of(0, 1)
    fragmented = is_v4(source) and c.once(0.06)
    kind, data = layer.ip(c, source, destination, protocol, payload, tos=c.of(0, 1, 2, 3, 0xB8), ttl=ttl)
    if fragmented and len(data) >= 20:
        head = data[:6] + c.of(0x2000, 0x2001, 1, 0x1FFF).to_bytes(2, "big") + data[8:10] + bytes(2) + data[12:20]
        data = head[:10] + layer.fold(head).to_bytes(2, "big") + head[12:] + data[20:]
    return kind, c.mangle(data)


def _solicitation(c: RandomSource, source: bytes, target: bytes, mac: bytes) -> tuple[int, bytes]:
    if c.once(0.15):
        source = c.rng.choice((ZERO, packed("fe80::1")))
    destination = packed("ff02::1:ff00:0")[:13] + target[13:] if c.once(0.7) else target
    data, protocol = c.mangle(layer.neighbour(c, source, destination, target, mac)), layer.ICMPV6
    if c.once(0.05):
        protocol, data = layer.extensions(c, protocol, data)
    return layer.ip(c, source, destination, protocol, data, ttl=255 if c.once(0.95) else 64)


def _inner(c: RandomSource, family: int, source: bytes, likely: tuple[bytes, ...], macs: tuple[bytes, bytes]) -> bytes:
    """Return an Ethernet frame; `macs`: destination and source."""
    destination = _address(c, family, likely)
    kind = c.rng.random()
    if kind < 0.08 and not family:
        protocol, data = layer.ARP, layer.arp(c, macs[1], source, destination)
    elif kind < 0.16 and family:
        protocol, data = _solicitation(c, source, destination, macs[1])
    elif kind < 0.18:
        protocol, data = c.of(0x88CC, 0x8100, IPV4, IPV6, layer.ARP), c.rng.randbytes(c.rng.randrange(90))
    else:
        protocol, data = _ip(c, source, destination)
    return layer.ethernet(*macs, c.number(protocol, 65535), c.mangle(data))


# From endpoints


def _from_endpoint(c: RandomSource, model: Model) -> Frame:
    slot = c.rng.choice(list(model.interfaces)) if c.once(0.98) else c.rng.randrange(SLOTS)
    sender = model.interfaces.get(slot) or next(iter(model.interfaces.values()))
    family = int(sender.ipv6 != ZERO and (sender.ipv4 == bytes(4) or c.once(0.5)))
    if c.once(0.01):
        family = 1 - family
    own = sender.ipv6 if family else map_layout.mapped(sender.ipv4)
    source = own if c.once(0.96) else _address(c, family, ())
    mac = sender.mac if c.once(0.98) else c.rng.randbytes(6)
    likely = tuple(a for vni, a in model.endpoints if vni == sender.vni and is_v4(a) != bool(family))
    to = c.rng.choice((GATEWAY_MAC, GATEWAY_MAC, bytes([2, 7, 0, 0, 0, 3])))
    if c.once(0.06):
        to = c.rng.choice((b"\xff" * 6, b"\x33\x33\0\0\0\1", b"\1\0\x5e\0\0\1"))
    return Frame("transit_agent", IFINDEX_BASE + slot, _whole(c, _inner(c, family, source, likely, (to, mac))))


# From the underlay


def _from_underlay(c: RandomSource, model: Model) -> Frame:
    uplink = c.rng.choice(list(model.uplinks.values()))
    v4 = is_v4(uplink.address)
    peers = [peer for peer in PEERS if is_v4(peer) == v4]
    peer = c.rng.choice(peers) if c.once(0.96) else c.rng.choice((STRANGER if v4 else STRANGER6, uplink.address))
    summed = c.once(0.3 if v4 else 0.9)
    ports, payload = _tunnel(c, model, peer)
    payload = c.mangle(payload)
    datagram = layer.udp(c, peer, uplink.address, ports, payload, summed=summed)
    return Frame("transit_xdp", _arrival(c, uplink), _whole(c, _outer(c, uplink, peer, datagram)))


def _arrival(c: RandomSource, uplink: Uplink) -> int:
    return uplink.arrives if c.once(0.99) else c.rng.choice(UPLINKS)


def _outer(c: RandomSource, uplink: Uplink, peer: bytes, datagram: bytes) -> bytes:
    to = uplink.address
    if c.once(0.02):
        to = map_layout.V4_MAPPED + c.rng.randbytes(4) if is_v4(to) else c.rng.randbytes(16)
    protocol = layer.UDP
    if not is_v4(peer) and c.rng.random() < max(c.wrong, 0.01):
        protocol, datagram = layer.extensions(c, protocol, datagram)
    ttl = c.of(64, 64, 63) if c.once(0.97) else c.of(0, 1, 2)
    tos = c.of(0, 0, 0, 1, 2, 3, 0xBA, 0xFF)
    kind, data = layer.ip(c, peer, to, c.number(protocol, 255), datagram, tos=tos, ttl=ttl)
    vlan = uplink.vlan if c.once(0.98) else c.of(0, 1, 5, 6, 0x2005, 0x1006, 0xE000)
    if not uplink.vlan and c.once(0.01):
        return layer.ethernet(uplink.mac, b"\6\0\0\0\0\1", layer.VLAN, c.of(0, 0xA000).to_bytes(2, "big")
                              + kind.to_bytes(2, "big") + data)  # fmt: skip
    whole = layer.tagged(uplink.mac, b"\6\0\0\0\0\1", vlan, c.number(kind, 65535), c.mangle(data))
    return whole[:12] + TAGS[1] + whole[14:] if vlan and c.once(0.02) else whole


def _tunnel(c: RandomSource, model: Model, peer: bytes) -> tuple[tuple[int, int], bytes]:
    """Return UDP ports and payload: Geneve, VXLAN, a probe, or a packet that is no tunnel's."""
    kind = c.rng.random()
    vni = c.rng.choice(VNIS) if c.once(0.96) else c.rng.choice(STRANGE_VNIS)
    source_port = c.rng.randrange(49152, 65536)
    geneve, vxlan = model.features.geneve_port, model.features.vxlan_port or 4789
    if kind < 0.04:
        body = layer.option(c, layer.OURS, 3, bytes([c.of(1, 1, 1, 2, 0)]) + bytes(3) + c.rng.randbytes(8))
        data = layer.geneve(c, c.number(0, 100), c.mangle(body), bytes(c.rng.randrange(900)), control=True)
        return (source_port, geneve), data
    inner = c.mangle(_tunnelled(c, model, vni, peer))
    if kind < 0.2:
        return (source_port, vxlan), layer.vxlan(c, vni, inner)
    if kind < 0.22:
        return (source_port, c.of(53, 6080, 6081, 4789)), inner
    options, critical = _options(c, model)
    return (source_port, geneve), layer.geneve(c, vni, options, inner, control=c.once(0.01), critical=critical)


def _options(c: RandomSource, model: Model) -> tuple[bytes, bool]:
    """Return options in any order, and whether one that is known is critical."""
    parts: list[bytes] = []
    critical = c.once(0.1)
    if critical:
        if c.once(0.5):
            parts.append(layer.option(c, layer.OURS, 0x82, bytes(4) if c.once(0.05) else b""))
        else:
            parts.append(layer.option(c, layer.OURS, 0x84, _droplet_and_attempt(c, model)))
    elif c.once(0.5):
        parts.append(layer.option(c, layer.OURS, 1, _droplet_and_attempt(c, model)))
    if c.once(0.3):
        length = 4 if c.once(0.95) else c.of(0, 8)
        parts.append(layer.option(c, layer.OURS, c.of(5, 6), c.of(b"\0\0\0\7", bytes(8), b"\xff" * 8)[:length]))
    for _ in range(c.of(0, 0, 0, 1, 2, 9) if c.once(0.3) else 0):
        kind = c.rng.randrange(128) | (0x80 if c.once(0.08) else 0)
        parts.append(layer.option(c, c.of(0x0102, 0xFF4D, 0), kind, bytes(c.of(0, 4, 8, 20))))
    c.rng.shuffle(parts)
    return b"".join(parts)[:252], critical


def _droplet_and_attempt(c: RandomSource, model: Model) -> bytes:
    """Return the body of return-to-sender or misdirected; now and then with a droplet of this host."""
    origin = c.rng.choice(list(model.peers)) if c.once(0.93) else c.rng.choice((STRANGER, STRANGER6))
    if c.once(0.05):
        origin = c.rng.choice(list(model.uplinks.values())).address
    body = origin[12:] if is_v4(origin) and c.once(0.9) else origin
    flags = c.of(0, 0, 1, 2, 3, 4, 7, 12, 16, 17, 255)
    return bytes([c.of(0, 0, 1, 3, 4, 255), flags, c.of(0, 0, 0, 1, 3, 15, 255), 0]) + body


def _tunnelled(c: RandomSource, model: Model, vni: int, peer: bytes) -> bytes:
    """Return an inner frame as a droplet sends it: from an endpoint elsewhere, or one from here that comes back."""
    family = int("ipv6" in model.features.families and c.once(0.5))
    near = tuple(a for (v, a), e in model.endpoints.items() if v == vni and e.ifindex and is_v4(a) != bool(family))
    far = tuple(a for (v, a), e in model.endpoints.items() if v == vni and not e.ifindex and is_v4(a) != bool(family))
    turned = c.once(0.12)
    source = _address(c, family, near if turned else far)
    mac = bytes([2, vni & 0xFF, 0, 0, 0, 3])
    to = GATEWAY_MAC if c.once(0.4) else bytes([2, vni & 0xFF, 0, 0, 0, 1])
    if c.once(0.03):
        to = b"\xff" * 6
    return _inner(c, family, source, far if turned or c.once(0.25) else near, (to, mac))
