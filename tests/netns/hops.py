"""Next hops as tests tell and read them: peers by their addresses as text, entries of the map."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Callable, Mapping

from agent.core.model.map_layout import NEXT_HOP, NEXT_HOP_KEY, mapped
from agent.core.nexthop.next_hops import Hop, PathFindings, Peer
from agent.datapath.nexthop.neighbours import NeighbourWatch
from tests.netns.conftest import Topo, ip, ip_json

SETTLING = 1200


def packed(text: str) -> bytes:
    return ipaddress.ip_address(text).packed


def peers(*addresses: str, by: Mapping[int, PathFindings] = {}) -> dict[bytes, Peer]:
    return {packed(address): Peer(by=by) for address in addresses}


def set_peers(watch: NeighbourWatch, peers_by_address: Mapping[bytes, Peer]) -> None:
    """Tell peers, and that each uplink has one droplet, whose place is the uplink's."""
    own = enumerate(watch._uplinks)
    watch.set_peers(
        peers_by_address, {(uplink.ifindex, len(one)): place for place, uplink in own for one in uplink.addresses}
    )


async def heard_all(watch: NeighbourWatch) -> None:
    """Wait until a watch has processed all netlink events so far.

    One socket has the events in order: those of a neighbour that comes and goes are the last.
    """
    address, link = "10.77.0.250", socket.if_nametoindex("eth0")
    hop = Hop(packed(address), link)
    ip("neigh", "replace", address, "lladdr", "02:00:00:00:00:fa", "dev", "eth0", "nud", "permanent")
    await until(lambda: hop in watch._neighbours)
    ip("neigh", "del", address, "dev", "eth0")
    await until(lambda: hop not in watch._neighbours)
    await watch.caught_up()


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(SETTLING):
        if condition():
            return
        await asyncio.sleep(0.025)
    raise AssertionError("did not come about")


def mac_of(topo: Topo, interface: str = "sub0") -> bytes:
    (link,) = ip_json("link", "show", interface, namespace=topo.underlay)
    return bytes.fromhex(link["address"].replace(":", ""))


def entry(
    address: str, mac: bytes, interface: str = "eth0", *, mtu: int = 1500, flags: int = 0, place: int = 0
) -> tuple[bytes, bytes]:
    index = int(ip_json("link", "show", interface)[0]["ifindex"])
    return NEXT_HOP_KEY.pack(mapped(packed(address)), index), NEXT_HOP.pack(mac, mtu, flags, place)
