"""A small world made by chance, as plain data: what the maps of one host say, for the generator and for the check.

Several VPCs hold the same addresses on purpose. Addresses are 16 bytes, IPv4 mapped into IPv6, as in the maps.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from random import Random
from socket import htons

from agent.core.model import map_layout
from agent.core.model.endpoint_slots import IFINDEX_BASE
from agent.core.model.features import Features
from agent.core.model.map_layout import MapName

UPLINKS = (11, 12, 13)
"""Interfaces that frames from the underlay arrive on."""
SLOTS = 32
"""Endpoints' interfaces that there are, by slot."""
WITH_STAGES = map_layout.INTERFACE_STAGES_FROM | map_layout.INTERFACE_STAGES_TO
VNIS = (7, 8, 9, 10, 0xFFFFFF)
STRANGE_VNIS = (0, 77, 0x700)
GATEWAY_MAC = bytes.fromhex("02d201e70001")
ZERO = bytes(16)
CIDRS = ("10.0.0.0/24", "10.0.1.0/24", "fd00::/64", "fd00:0:0:1::/64")
HOMES = (("10.0.0.", "fd00::"), ("10.0.1.", "fd00:0:0:1::"))
"""Where the addresses of the endpoints of each network begin, in both families."""


def packed(text: str) -> bytes:
    """Return an address as 16 bytes."""
    return map_layout.mapped(ip_address(text).packed)


def is_v4(address: bytes) -> bool:
    return address[:12] == map_layout.V4_MAPPED


def host_of(peer: bytes) -> int:
    """Return the number of the host that a droplet is on: every host has one droplet in each subnet."""
    return peer[-1]


PEERS = tuple(
    packed(f"{start}{n}") for start in ("192.0.2.", "198.51.100.", "2001:db8::", "2001:db8:2::") for n in (2, 3, 4)
)
STRANGER, STRANGER6 = packed("203.0.113.9"), packed("2001:db8:9::9")


@dataclass(frozen=True)
class Uplink:
    """One entry of `local_droplets`."""

    address: bytes
    interface: int
    arrives: int
    leaves: int
    mac: bytes
    vlan: int
    flags: int = 0


@dataclass(frozen=True)
class Network:
    """One entry of `networks`."""

    vni: int
    cidr: str
    gateway: bytes
    flags: int
    bouncers: tuple[bytes, ...]


@dataclass
class Model:
    """The content of every map that documents and neighbours fill."""

    features: Features
    delivers: bool = True
    """Transit XDP is in the program array, for delivery on the same host."""
    uplinks: dict[int, Uplink] = field(default_factory=dict)
    peers: dict[bytes, int] = field(default_factory=dict)
    hops: dict[tuple[bytes, int], map_layout.NextHop] = field(default_factory=dict)
    networks: dict[tuple[int, str], Network] = field(default_factory=dict)
    vpcs: dict[int, map_layout.AddressSet] = field(default_factory=dict)
    endpoints: dict[tuple[int, bytes], map_layout.Endpoint] = field(default_factory=dict)
    interfaces: dict[int, map_layout.Interface] = field(default_factory=dict)
    paths: dict[tuple[int, bytes], tuple[bytes, int, int]] = field(default_factory=dict)
    """VNI and address -> host, flags, age in tenths of a second."""

    def network_of(self, vni: int, address: bytes) -> Network | None:
        for cidr in CIDRS:
            found = self.networks.get((vni, cidr))
            if found and ip_address(map_layout.unmapped(address)) in ip_network(cidr):
                return found
        return None

    def is_to_many(self, vni: int, address: bytes) -> bool:
        """Say whether an address is a group's, everybody's or all of a known network's."""
        if not is_v4(address):
            return address[0] == 0xFF
        network = self.network_of(vni, address)
        subnet = network and ip_network(network.cidr).broadcast_address.packed == address[12:]
        return address[12] >> 4 == 14 or address[12:] == b"\xff" * 4 or bool(subnet)

    def between(self, vni: int, one: bytes, other: bytes) -> bool:
        return self.network_of(vni, one) is not self.network_of(vni, other)

    def divided_here(self, vni: int) -> bool:
        return vni in self.vpcs and bool(self.vpcs[vni].flags & map_layout.VPC_LOCAL_DIVIDER)

    def entries(self, tick: int, per_second: int) -> dict[MapName, dict[bytes, bytes]]:
        """Return what belongs into every map."""
        return {
            MapName.LOCAL_DROPLETS: {
                map_layout.U32.pack(index): map_layout.LOCAL_DROPLET.pack(
                    u.address, u.interface, u.arrives, u.leaves, u.mac, htons(u.vlan), u.flags
                )
                for index, u in self.uplinks.items()
            },
            MapName.DROPLETS: {
                peer: map_layout.DROPLET.pack(flags, host_of(peer)) for peer, flags in self.peers.items()
            },
            MapName.NEXT_HOPS: {
                map_layout.NEXT_HOP_KEY.pack(*k): map_layout.NEXT_HOP.pack(*h) for k, h in self.hops.items()
            },
            MapName.VPCS: {
                map_layout.U32.pack(vni): map_layout.vpc_value(v.flags, v.members) for vni, v in self.vpcs.items()
            },
            MapName.NETWORKS: dict(self._network(n) for n in self.networks.values()),
            MapName.ENDPOINTS: {
                map_layout.OVERLAY_KEY.pack(*k): map_layout.ENDPOINT.pack(*e) for k, e in self.endpoints.items()
            },
            MapName.INTERFACES: {
                map_layout.U32.pack(s): map_layout.INTERFACE.pack(*i) for s, i in self.interfaces.items()
            },
            MapName.DIRECT: {
                map_layout.OVERLAY_KEY.pack(*k): map_layout.DIRECT_PATH.pack(
                    host, flags, 0, tick - age * per_second // 10
                )
                for k, (host, flags, age) in self.paths.items()
            },
        }

    @staticmethod
    def _network(network: Network) -> tuple[bytes, bytes]:
        cidr = ip_network(network.cidr)
        key = map_layout.network_key(network.vni, cidr.network_address.packed, cidr.prefixlen)
        broadcast = map_layout.mapped(cidr.broadcast_address.packed)[12:] if cidr.version == 4 else bytes(4)
        return key, map_layout.network_value(network.gateway, network.flags, network.bouncers, broadcast)


def make(rng: Random, features: Features) -> Model:
    """Return a random configuration; the same from the same state of the generator."""
    model = Model(features, delivers=rng.random() < 0.97)
    _add_uplinks(rng, model)
    _add_peers(rng, model)
    for vni in VNIS:
        _add_vpc(rng, model, vni)
    _add_paths(rng, model)
    return model


def _add_uplinks(rng: Random, model: Model) -> None:
    tags = model.features.vlan_tags
    rows = [
        ("192.0.2.1", 11, 11, 11, 0),
        ("2001:db8::1", 11, 11, 11, 0),
        ("198.51.100.1", 21 if tags else 12, 12, 12, 5 if tags else 0),
        ("2001:db8:2::1", 22 if tags else 12, 12, 12, 6 if tags else 0),
        ("192.0.2.1", 11, 13, 11, 0),  # a second member of a bond
    ]
    rows = [row for row in rows if ("ipv4" if "." in row[0] else "ipv6") in model.features.underlay]
    index = 0
    for address, interface, arrives, leaves, vlan in rows:
        index += rng.random() < 0.1  # an entry that is empty
        mac = bytes([6, 0, 0, 0, 1, interface])
        model.uplinks[index] = Uplink(packed(address), interface, arrives, leaves, mac, vlan, int(rng.random() < 0.2))
        index += 1


def _add_peers(rng: Random, model: Model) -> None:
    for number, peer in enumerate(PEERS):
        if ("ipv4" if is_v4(peer) else "ipv6") not in model.features.underlay:
            continue
        model.peers[peer] = map_layout.DROPLET_ZERO_CHECKSUM if rng.random() < 0.3 else 0
        for uplink in model.uplinks.values():
            if rng.random() < 0.85:
                model.hops[(peer, uplink.interface)] = _some_hop(rng, model, peer, number, uplink)


def _some_hop(rng: Random, model: Model, peer: bytes, number: int, uplink: Uplink) -> map_layout.NextHop:
    """Make an entry as an agent would, and now and then one that leads by a droplet which is not there any more."""
    flags = map_layout.NEXT_HOP_DOWN if rng.random() < 0.2 else 0
    flags |= map_layout.NEXT_HOP_ZERO_CHECKSUM if rng.random() < 0.2 else 0
    own = [index for index, one in model.uplinks.items() if one.interface == uplink.interface]
    by = rng.choice([*model.uplinks] if rng.random() < 0.3 else own)
    if rng.random() < 0.05:
        by = map_layout.MAX_LOCAL_DROPLETS - 1
    if by not in own or rng.random() < 0.1:
        flags |= map_layout.NEXT_HOP_BY_OTHER
    mtu = rng.choice((1500, 1500, 1500, 9000, 1400, 1280, 600, 150))
    return map_layout.NextHop(bytes([6, 0, 0, 0, 2 + number, uplink.interface]), mtu, flags, by)


def _some_peers(rng: Random, model: Model, most: int = 3) -> tuple[bytes, ...]:
    known = [*model.peers, *(u.address for u in model.uplinks.values())] if rng.random() < 0.1 else list(model.peers)
    return tuple(rng.choice(known) for _ in range(rng.randrange(most + 1)))


def _add_vpc(rng: Random, model: Model, vni: int) -> None:
    if rng.random() < 0.9:
        model.vpcs[vni] = map_layout.AddressSet(int(rng.random() < 0.35), _some_peers(rng, model))
    pinned = {at: rng.random() < 0.3 for at in (0, 1)}
    asks = {at: rng.random() < 0.3 for at in (0, 1)}
    for at, cidr in enumerate(CIDRS):
        if rng.random() < 0.93:
            flags = map_layout.NETWORK_LOCAL_BOUNCER if rng.random() < 0.35 else 0
            flags |= map_layout.NETWORK_PINNED if pinned[at % 2] else 0
            flags |= map_layout.NETWORK_LABELS if asks[at % 2] else 0
            gateway = map_layout.mapped(ip_network(cidr)[254].packed)
            model.networks[(vni, cidr)] = Network(vni, cidr, gateway, flags, _some_peers(rng, model))
    for home in (0, 1):
        for number in (1, 2, 3, 4):
            if rng.random() < 0.85:
                _add_endpoint(rng, model, vni, home, number, pinned[home], asks[home])


def _add_endpoint(rng: Random, model: Model, vni: int, home: int, number: int, pinned: bool, asks: bool) -> None:
    """Numbers 1 and 2 are local, the others elsewhere; most have both families."""
    mac = bytes([2, vni & 0xFF, 0, 0, home, number])
    flags = (map_layout.ENDPOINT_PINNED if pinned else 0) | (map_layout.ENDPOINT_LABELS if asks else 0)
    flags |= map_layout.ENDPOINT_VXLAN if vni == 10 and model.features.vxlan_port else 0
    mtu = rng.choice((1406, 1438, 1438, 1280, 576, 100))
    v4, v6 = (packed(f"{start}{number}") for start in HOMES[home])
    families = rng.choice((3, 3, 3, 1, 2)) if "ipv6" in model.features.families else 1
    slot, ifindex = len(model.interfaces), 0
    index, uplink = rng.choice(list(model.uplinks.items()))
    host = uplink.address if number <= 2 else rng.choice(list(model.peers))
    if number <= 2:
        ifindex = IFINDEX_BASE + slot
        model.interfaces[slot] = map_layout.Interface(
            vni,
            index if rng.random() < 0.95 else 15,
            v6 if families & 2 else ZERO,
            v4[12:] if families & 1 else bytes(4),
            mac,
            (map_layout.INTERFACE_PINNED if pinned else 0)
            | (map_layout.INTERFACE_LABELS if asks else 0)
            | (WITH_STAGES if model.features.functions else 0),
            mtu,
            rng.choice((0, 0, 0x2E << 2, 63 << 2)),
            rng.choice((0, 0, 1, 0xFFFFFFFF)),
        )
    for bit, address in ((1, v4), (2, v6)):
        if families & bit:
            model.endpoints[(vni, address)] = map_layout.Endpoint(host, ifindex, flags, mtu if ifindex else 0, mac)


def _add_paths(rng: Random, model: Model) -> None:
    """Paths to endpoints on other hosts, and to addresses that were only learnt from packets."""
    for vni in VNIS:
        for home in (0, 1):
            for number in (3, 4, 77):
                for start in HOMES[home]:
                    if rng.random() < 0.25:
                        flags = map_layout.PATH_PINNED if rng.random() < 0.3 else 0
                        flags |= map_layout.PATH_LABELS if rng.random() < 0.3 else 0
                        path = rng.choice(list(model.peers)), flags, rng.choice((0, 5, 20, 50, 120))
                        model.paths[(vni, packed(f"{start}{number}"))] = path
