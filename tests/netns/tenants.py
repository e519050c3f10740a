"""Endpoints of one droplet as the plan would order them, and their pairs as the kernel shows them."""

from __future__ import annotations

import ipaddress
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from agent.core.model.desired_entries import Veth
from agent.core.model.endpoint_slots import IFINDEX_BASE, host_ifname
from agent.core.model.hooks import TRANSIT_AGENT, Hook
from agent.core.model.map_layout import (
    DROPLET,
    ENDPOINT,
    INTERFACE,
    LOCAL_DROPLET,
    NETWORK_LOCAL_BOUNCER,
    OVERLAY_KEY,
    U32,
    MapName,
    mapped,
    network_key,
    network_value,
    vpc_value,
)
from agent.core.model.offloads import wrong_offloads
from agent.core.model.uplinks import Uplink
from agent.core.plan.actions import Action, AttachTransit, EnsureVeth, PutEntries
from agent.datapath.attach.attach_modes import AttachModes
from agent.datapath.attach.tc import TcIngress, TcKind
from agent.datapath.attach.transit_agent import TransitAgent
from agent.datapath.attach.xdp import AttachMode
from agent.datapath.bpf import syscall as bpf
from agent.datapath.net.ethtool import read_offloads
from agent.datapath.net.link_query import LinkQuery
from agent.datapath.net.namespaces import in_namespace, open_control_socket, opened_namespace
from agent.datapath.net.netlink import Netlink
from agent.datapath.veth.pairs import Links
from tests.netns.conftest import ip_json
from tests.netns.programs import TC_UNSPEC, loaded, owning

INSTANCE = "knlinks"
"""The instance that `open_links` and `wanted` are of."""
VNI = 77
HERE = mapped(ipaddress.ip_address("10.77.0.1").packed)
GATEWAY = mapped(ipaddress.ip_address("10.1.0.1").packed)


def endpoint_veth(instance: str, namespace: str, endpoint: str, slot: int) -> Veth:
    return Veth(
        endpoint=endpoint,
        ifname=host_ifname(instance, endpoint),
        ifindex=IFINDEX_BASE + slot,
        namespace=namespace,
        peer_name="eth0",
        peer_mac=bytes.fromhex("0200000000") + bytes([slot]),
        mtu=1438,
        addresses=(f"10.1.0.{slot}/24",),
        gateways=("10.1.0.1",),
    )


def host_actions(uplink: Uplink) -> list[Action]:
    local = LOCAL_DROPLET.pack(HERE, uplink.ifindex, uplink.ingress[0], uplink.egress, uplink.mac, 0, 0)
    network = network_value(GATEWAY, NETWORK_LOCAL_BOUNCER, (HERE,))
    return [
        PutEntries(MapName.LOCAL_DROPLETS, ((U32.pack(0), local),)),
        PutEntries(MapName.DROPLETS, ((mapped(bytes([10, 77, 0, 2])), DROPLET.pack(0, 0)),)),
        PutEntries(MapName.VPCS, ((U32.pack(VNI), vpc_value(0, ())),)),
        PutEntries(MapName.NETWORKS, ((network_key(VNI, bytes([10, 1, 0, 0]), 24), network),)),
        AttachTransit(uplink.carrier),
    ]


def endpoint_actions(veth: Veth) -> list[Action]:
    address = mapped(ipaddress.ip_interface(veth.addresses[0]).packed)
    slot = veth.ifindex - IFINDEX_BASE
    where = ENDPOINT.pack(HERE, veth.ifindex, 0, veth.mtu, veth.peer_mac)
    sender = INTERFACE.pack(VNI, 0, bytes(16), address[12:], veth.peer_mac, 0, veth.mtu, 0, 0)
    return [
        EnsureVeth(veth),
        PutEntries(MapName.INTERFACES, ((U32.pack(slot), sender),)),
        PutEntries(MapName.ENDPOINTS, ((OVERLAY_KEY.pack(VNI, address), where),)),
    ]


@asynccontextmanager
async def open_links(
    mode: AttachMode = AttachMode.NATIVE, hook: Hook = Hook.XDP, kind: TcKind | None = None
) -> AsyncIterator[Links]:
    tc = bpf.ProgramType.SCHED_CLS
    with loaded(TRANSIT_AGENT[Hook.XDP]) as xdp, loaded(TRANSIT_AGENT[Hook.TC], TC_UNSPEC, tc) as at_tc:
        async with Netlink() as netlink:
            programs, own, query = {Hook.XDP: xdp, Hook.TC: at_tc}, owning(xdp, at_tc), LinkQuery()
            ingress = TcIngress(netlink, query, own, kind)
            agents = TransitAgent(netlink, ingress, programs, own, AttachModes(mode), hook)
            links = Links(netlink, INSTANCE, agents)
            try:
                yield links
            finally:
                links.name_watch.close()
                query.close()


def wanted(namespace: str, endpoint: str = "web", slot: int = 5) -> Veth:
    return endpoint_veth(INSTANCE, namespace, endpoint, slot)


def host_side(veth: Veth) -> dict[str, Any]:
    return ip_json("link", "show", veth.ifname)[0]


def peer_side(veth: Veth) -> dict[str, Any]:
    return ip_json("link", "show", veth.peer_name, namespace=veth.namespace)[0]


def addresses(veth: Veth) -> set[str]:
    (shown,) = ip_json("addr", "show", veth.peer_name, namespace=veth.namespace)
    return {f"{one['local']}/{one['prefixlen']}" for one in shown["addr_info"] if one["scope"] != "link"}


def defaults(veth: Veth) -> set[str]:
    return {one["gateway"] for one in ip_json("route", "show", "default", namespace=veth.namespace)}


def assert_right(veth: Veth) -> None:
    host, peer = host_side(veth), peer_side(veth)
    assert host["ifindex"] == veth.ifindex
    assert peer["mtu"] == veth.mtu
    assert host["mtu"] >= peer["max_mtu"]
    assert host["ifalias"] == f"droplet/{INSTANCE}/{veth.endpoint}"
    at_xdp = host.get("xdp", {}).get("prog", {}).get("name", "")
    assert at_xdp == (TRANSIT_AGENT[Hook.XDP] if veth.sending.hook is Hook.XDP else "")
    assert host["inet6_addr_gen_mode"] == "none"
    assert "UP" in host["flags"]
    assert "UP" in peer["flags"]
    assert peer["address"] == veth.peer_mac.hex(":")
    assert addresses(veth) >= set(veth.addresses)
    assert defaults(veth) == set(veth.gateways)
    assert "UP" in ip_json("link", "show", "lo", namespace=veth.namespace)[0]["flags"]
    with opened_namespace(veth.namespace) as namespace, in_namespace(namespace, open_control_socket) as control:
        found = read_offloads(control, veth.peer_name)
    assert found.keys() >= {"rx-gro", "tx-checksum-ip-generic", "tx-vlan-hw-insert", "tx-vlan-stag-hw-insert"}
    assert wrong_offloads(found, veth.sending) == {}
