"""Endpoints of one droplet as the plan would order them: what the kernel needs so that they talk."""

from __future__ import annotations

import ipaddress

from agent.core.model.desired_entries import Veth
from agent.core.model.endpoint_slots import IFINDEX_BASE, host_ifname
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
from agent.core.model.uplinks import Uplink
from agent.core.plan.actions import Action, AttachTransit, EnsureVeth, PutEntries

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
    sender = INTERFACE.pack(VNI, 0, bytes(16), address[12:], veth.peer_mac, 0, veth.mtu, 0)
    return [
        EnsureVeth(veth),
        PutEntries(MapName.INTERFACES, ((U32.pack(slot), sender),)),
        PutEntries(MapName.ENDPOINTS, ((OVERLAY_KEY.pack(VNI, address), where),)),
    ]
