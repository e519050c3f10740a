"""Endpoints at tc send no GSO packets that are longer than a tunnel's headers can state (BIG TCP)."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import replace

import pytest
from pyroute2.netlink import NLM_F_ACK, NLM_F_REQUEST
from pyroute2.netlink.rtnl import RTM_NEWLINK

from agent.core.model.desired_entries import Veth
from agent.core.model.hooks import Hook
from agent.core.model.offloads import GSO_MAX_SIZE, Sending
from agent.datapath.net.interface_query import InterfaceQuery
from agent.datapath.net.namespaces import in_namespace, open_netlink_socket, opened_namespace
from agent.datapath.net.raw_netlink import LINK, error_in, message, messages
from agent.datapath.veth.endpoint_side import gso_max_size
from tests.netns.conftest import Topo, ip
from tests.netns.tenants import open_links, peer_side, wanted

BIG = 190_000


def socket_in(veth: Veth) -> socket.socket:
    with opened_namespace(veth.namespace) as opened:
        return in_namespace(opened, open_netlink_socket)


def set_for_ipv6(veth: Veth) -> None:
    ip("link", "set", "eth0", "gso_max_size", str(BIG), namespace=veth.namespace)


def set_for_ipv4(veth: Veth) -> None:
    """By hand: iproute2 6.1 does not know the attribute."""
    with socket_in(veth) as netlink:
        body = LINK.pack(index=peer_side(veth)["ifindex"]) + LINK.u32("IFLA_GSO_IPV4_MAX_SIZE", BIG)
        netlink.send(message(RTM_NEWLINK, NLM_F_REQUEST | NLM_F_ACK, 1, body))
        for _, _, answer in messages(netlink.recv(1 << 16)):
            assert error_in(answer) is None


async def longest(veth: Veth) -> int:
    with socket_in(veth) as netlink:
        link = await InterfaceQuery(netlink).link(peer_side(veth)["ifindex"])
    assert link is not None
    return gso_max_size(link)


@pytest.mark.parametrize("enlarge", [set_for_ipv6, set_for_ipv4])
async def test_longer_gso_packets_are_turned_off(topo: Topo, enlarge: Callable[[Veth], None]) -> None:
    veth = replace(wanted(topo.endpoint_namespace()), sending=Sending(Hook.TC, gso=True))
    async with open_links(hook=Hook.TC) as links:
        await links.ensure_veth(veth)
        enlarge(veth)
        assert await longest(veth) == BIG
        await links.ensure_veth(veth)
        assert await longest(veth) == GSO_MAX_SIZE


async def test_a_tenants_lower_limit_stays(topo: Topo) -> None:
    veth = replace(wanted(topo.endpoint_namespace()), sending=Sending(Hook.TC, gso=True))
    async with open_links(hook=Hook.TC) as links:
        await links.ensure_veth(veth)
        ip("link", "set", "eth0", "gso_max_size", "20000", namespace=veth.namespace)
        await links.ensure_veth(veth)
        assert await longest(veth) == 20_000
