"""What the maps of a measured host hold: one endpoint that talks, those it talks to, and silent ones beside them. Pure.

As the agent would write it for a host with one interface in the underlay.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import NamedTuple

from agent.core.model import map_layout
from agent.core.model.features import family_of
from agent.core.model.map_layout import MapName
from agent.core.model.overhead import endpoint_mtu
from bench import frames as f
from bench.frames import INSIDE_IPV4, INSIDE_IPV6, OVER_IPV4, Underlay

UNDERLAY_MTU = 1500
SLOT = 1
"""The endpoint's, which the number of its interface holds."""
SCALE_FIRST = IPv4Address("10.128.0.0")
"""The address of the first silent endpoint."""
SILENT = 10_000

Entries = dict[str, dict[bytes, bytes]]


class Place(NamedTuple):
    """The measured host's interfaces: towards the underlay with its address, and towards the endpoint."""

    wire: int
    mac: bytes
    tap: int


@dataclass(frozen=True, slots=True)
class Scale:
    """So many endpoints and no others in the map, on this host or elsewhere; those here share one interface."""

    count: int
    local: bool


@dataclass(frozen=True, slots=True)
class MapContents:
    """One content of the maps. `zero_checksum`: droplets send and take UDP without a checksum over IPv6."""

    over: Underlay = OVER_IPV4
    zero_checksum: bool = False
    vlan: int = 0
    scale: Scale | None = None

    def entries(self, place: Place) -> Entries:
        """Return what all maps hold on a host with these interfaces."""
        own, peer, third = (_mapped(text) for text in (self.over.own, self.over.peer, self.over.third))
        vlan = int.from_bytes(self.vlan.to_bytes(2, "big"), sys.byteorder)
        local = map_layout.LOCAL_DROPLET.pack(own, *[place.wire] * 3, place.mac, vlan, 0)
        droplet = map_layout.DROPLET.pack(map_layout.DROPLET_ZERO_CHECKSUM if self.zero_checksum else 0, 0)
        unsummed = map_layout.NEXT_HOP_ZERO_CHECKSUM if self.zero_checksum else 0
        hop = map_layout.NEXT_HOP.pack(f.PEER_MAC, UNDERLAY_MTU, unsummed, 0)
        return {
            MapName.LOCAL_DROPLETS: {map_layout.U32.pack(0): local},
            MapName.DROPLETS: {peer: droplet, third: droplet},
            MapName.NEXT_HOPS: {map_layout.NEXT_HOP_KEY.pack(other, place.wire): hop for other in (peer, third)},
            MapName.VPCS: {
                map_layout.U32.pack(f.VNI): map_layout.vpc_value(0, (peer,)),
                map_layout.U32.pack(f.DIVIDED_VNI): map_layout.vpc_value(map_layout.VPC_LOCAL_DIVIDER, (own,)),
            },
            MapName.NETWORKS: _networks(f.VNI, peer) | _networks(f.DIVIDED_VNI, third),
            MapName.ENDPOINTS: self._endpoints(place),
            MapName.INTERFACES: {map_layout.U32.pack(SLOT): self._interface()},
        }

    def _mtu(self) -> int:
        return endpoint_mtu(UNDERLAY_MTU, family_of(f.packed(self.over.own)))

    def _interface(self) -> bytes:
        addresses = f.packed(INSIDE_IPV6.local), f.packed(INSIDE_IPV4.local)
        return map_layout.INTERFACE.pack(f.VNI, 0, *addresses, f.LOCAL_MAC, 0, self._mtu(), 0, 0)

    def _endpoints(self, place: Place) -> dict[bytes, bytes]:
        own, peer, third = (_mapped(text) for text in (self.over.own, self.over.peer, self.over.third))
        local = map_layout.ENDPOINT.pack(own, place.tap, 0, self._mtu(), f.LOCAL_MAC)
        elsewhere = map_layout.ENDPOINT.pack(third, 0, 0, 0, f.REMOTE_MAC)
        if self.scale is not None:
            return _scale_entries(self.scale.count, local if self.scale.local else elsewhere)
        found = _scale_entries(SILENT, elsewhere)
        for inside in (INSIDE_IPV4, INSIDE_IPV6):
            found[_key(inside.local)] = found[_key(inside.beside)] = local
            found[_key(inside.documented)] = elsewhere
            found[_key(inside.vxlan)] = map_layout.ENDPOINT.pack(peer, 0, map_layout.ENDPOINT_VXLAN, 0, f.REMOTE_MAC)
        return found


def _mapped(address: str) -> bytes:
    return map_layout.mapped(f.packed(address))


def _key(address: str) -> bytes:
    return map_layout.OVERLAY_KEY.pack(f.VNI, _mapped(address))


def _networks(vni: int, bouncer: bytes) -> dict[bytes, bytes]:
    """Return a network of each family with one bouncer."""
    return {
        map_layout.network_key(vni, f.packed("10.0.0.0"), 8): map_layout.network_value(
            _mapped("10.255.255.254"), 0, (bouncer,)
        ),
        map_layout.network_key(vni, f.packed("fd00::"), 64): map_layout.network_value(
            _mapped("fd00::ffff"), 0, (bouncer,)
        ),
    }


def _scale_entries(count: int, value: bytes) -> dict[bytes, bytes]:
    first, head = int(SCALE_FIRST), map_layout.U32.pack(f.VNI) + map_layout.V4_MAPPED
    return {head + (first + number).to_bytes(4, "big"): value for number in range(count)}
