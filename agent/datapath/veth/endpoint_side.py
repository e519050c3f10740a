"""The endpoint's side of a veth, inside the tenant's namespace: reads it, and repairs what differs from the document.

Changes only the one interface that it is given (and brings `lo` up). Link-local addresses are the kernel's and stay.
A default route of another interface is never displaced: ours is then added with a metric behind it.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Self

from pyroute2.netlink.rtnl.ifaddrmsg import IFA_F_NODAD
from pyroute2.netlink.rtnl.ifinfmsg import IFF_UP
from pyroute2.netlink.rtnl.rtmsg import RTNH_F_ONLINK

from agent.core.model.desired_entries import Veth
from agent.core.model.offloads import GSO_MAX_SIZE, Offload, cuts_too_late
from agent.core.plan.observed import ObservedPeer
from agent.core.plan.remedies import Step
from agent.datapath.net.ethtool import set_endpoint_offloads
from agent.datapath.net.interface_query import RT_TABLE_MAIN, Address, DefaultRoute, InterfaceQuery
from agent.datapath.net.namespaces import open_sockets_in
from agent.datapath.net.netlink import Message, Netlink, attribute
from agent.errors import kernel_step

_GSO_MAX_SIZES = ("IFLA_GSO_MAX_SIZE", "IFLA_GSO_IPV4_MAX_SIZE")
METRIC_BEHIND = 0x10000
"""Metric of our default route where another interface already has one; the peer's ifindex is added."""


class EndpointSide:
    """Sockets inside one endpoint's namespace."""

    def __init__(self, descriptor: int) -> None:
        """Enter the namespace behind the descriptor; OSError (EINVAL) when it is none."""
        sockets = open_sockets_in(descriptor)
        self._control: socket.socket = sockets.control
        self.netlink = Netlink(sockets.netlink)
        self._query = InterfaceQuery(sockets.query)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.netlink.close()
        self._query.close()
        self._control.close()

    async def configure(self, link: Message, wanted: Veth) -> None:
        """Configure the interface as wanted; OSError if the kernel refuses a part."""
        index, subject = int(link["index"]), f"interface {wanted.peer_name} in namespace {wanted.namespace}"
        if attribute(link, "IFLA_IFNAME") != wanted.peer_name:
            with kernel_step(Step.CHANGE_LINK, subject):
                await self.netlink.request("link", "set", index=index, state="down", ifname=wanted.peer_name)
        with kernel_step(Step.READ, subject):
            link, found = await self._present(index), await self._addresses(index)
        with kernel_step(Step.CHANGE_LINK, subject):
            await self._configure_link(index, as_observed(link, found, (), {}), wanted)
        self.set_offloads(link, wanted)
        await self._configure_addresses(index, found, wanted)
        await self._configure_gateways(index, wanted)

    def set_offloads(self, link: Message, wanted: Veth) -> None:
        """Set the offloads that differ, by the interface's present name; OSError if the kernel refuses."""
        with kernel_step(Step.SET_OFFLOADS, f"interface {wanted.peer_name} in namespace {wanted.namespace}"):
            set_endpoint_offloads(self._control, str(attribute(link, "IFLA_IFNAME")), wanted.sending)

    async def _present(self, index: int) -> Message:
        link = await self._query.link(index)
        if link is None:
            raise OSError(errno.ENODEV, "the endpoint's interface went away while it was being set up")
        return link

    async def _configure_link(self, index: int, found: ObservedPeer, wanted: Veth) -> None:
        changes: dict[str, object] = {}
        if found.mtu != wanted.mtu:
            changes["mtu"] = wanted.mtu
        if found.mac != wanted.peer_mac:
            changes["address"] = wanted.peer_mac.hex(":")
        if not found.up:
            changes["state"] = "up"
        if changes:
            await self.netlink.request("link", "set", index=index, **changes)
        if cuts_too_late(found.gso_max_size, wanted.sending):
            await self._limit_gso(index)
        loopback = await self.netlink.link(index=1)
        if loopback is not None and not loopback["flags"] & IFF_UP:
            await self.netlink.request("link", "set", index=1, state="up")

    async def _limit_gso(self, index: int) -> None:
        """Limit GSO packets of both families: a change of `gso_max_size` sets the size of IPv4, too.

        Source: netif_set_gso_max_size() in include/linux/netdevice.h.
        """
        for size in (GSO_MAX_SIZE - 1, GSO_MAX_SIZE):
            await self.netlink.request("link", "set", index=index, gso_max_size=size)

    async def _addresses(self, index: int) -> tuple[str, ...]:
        return tenant_addresses(await self._query.addresses(index))

    async def _configure_addresses(self, index: int, found: tuple[str, ...], veth: Veth) -> None:
        """Add what is missing. Only then does the rest go: it was ours before, or the tenant must add it anew.

        With the first IPv4 address of a subnet the kernel removes all others of that subnet, which may be the new ones:
        these are added once more (`promote_secondaries` is the tenant's setting).
        """
        wanted, where = canonical_addresses(veth.addresses), f"{veth.peer_name} in namespace {veth.namespace}"
        missing = [address for address in wanted if address not in found]
        for address in missing:
            with kernel_step(Step.ADD_ADDRESS, f"{address} to {where}"):
                await self._change_address("add", index, address)
        unwanted = [address for address in found if address not in wanted] if missing else []
        for address in unwanted:
            with kernel_step(Step.REMOVE_ADDRESS, f"{address} from {where}"):
                await self._change_address("del", index, address)
        left = await self._addresses(index) if unwanted else wanted
        for address in wanted:
            if address not in left:
                with kernel_step(Step.ADD_ADDRESS, f"{address} to {where}"):
                    await self._change_address("add", index, address)

    async def _change_address(self, command: str, index: int, text: str) -> None:
        interface = ipaddress.ip_interface(text)
        options: dict[str, object] = {"address": str(interface.ip), "prefixlen": interface.network.prefixlen}
        if interface.version == 6 and command == "add":
            options["flags"] = IFA_F_NODAD
        try:
            await self.netlink.request("addr", command, index=index, **options)
        except OSError as error:
            if error.errno != (errno.EEXIST if command == "add" else errno.EADDRNOTAVAIL):
                raise

    async def _configure_gateways(self, index: int, veth: Veth) -> None:
        texts = {str(ipaddress.ip_address(gateway)) for gateway in veth.gateways}
        with kernel_step(Step.READ, f"the routes of {veth.peer_name} in namespace {veth.namespace}"):
            found = await self._query.default_routes(index)
        missing = sorted(texts - {route.gateway for route in found})
        for route in found if missing else ():
            if route.gateway not in texts:
                with kernel_step(Step.REMOVE_ROUTE, f"by {route.gateway} in namespace {veth.namespace}"):
                    await self._remove_default(index, route)
        for gateway in missing:
            with kernel_step(Step.ADD_ROUTE, f"by {gateway} in namespace {veth.namespace}"):
                await self._add_default(index, gateway)

    async def _add_default(self, index: int, gateway: str) -> None:
        options = _default_options(index, gateway)
        options["flags"] = RTNH_F_ONLINK
        try:
            await self.netlink.request("route", "add", **options)
        except OSError as error:
            if error.errno != errno.EEXIST:
                raise
            await self.netlink.request("route", "add", priority=METRIC_BEHIND + index, **options)

    async def _remove_default(self, index: int, route: DefaultRoute) -> None:
        try:
            await self.netlink.request("route", "del", priority=route.metric, **_default_options(index, route.gateway))
        except OSError as error:
            if error.errno != errno.ESRCH:
                raise


def tenant_addresses(found: Iterable[Address]) -> tuple[str, ...]:
    """Return an interface's addresses without the link-local ones, which are the kernel's."""
    return _in_order(address for address in found if not address.is_link_local)


def as_observed(
    link: Message, addresses: tuple[str, ...], gateways: tuple[str, ...], offloads: Mapping[str, Offload]
) -> ObservedPeer:
    """Return an endpoint's side as messages and replies describe it."""
    return ObservedPeer(
        name=str(attribute(link, "IFLA_IFNAME")),
        mac=bytes.fromhex(str(attribute(link, "IFLA_ADDRESS")).replace(":", "")),
        mtu=int(attribute(link, "IFLA_MTU")),
        up=bool(link["flags"] & IFF_UP),
        addresses=addresses,
        gateways=gateways,
        longest=int(attribute(link, "IFLA_MAX_MTU") or 0),
        gso_max_size=gso_max_size(link),
        offloads=offloads,
    )


def gso_max_size(link: Message) -> int:
    """Return the most bytes of a GSO packet that an interface takes whole, of either family."""
    return max(int(attribute(link, name) or 0) for name in _GSO_MAX_SIZES)


def _default_options(index: int, gateway: str) -> dict[str, object]:
    version = ipaddress.ip_address(gateway).version
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    return {
        "family": int(family),
        "dst": "0.0.0.0/0" if version == 4 else "::/0",
        "gateway": gateway,
        "oif": index,
        "table": RT_TABLE_MAIN,
    }


def canonical_addresses(addresses: Iterable[str]) -> tuple[str, ...]:
    """Return addresses with their prefix lengths in one spelling, sorted by family and number."""
    return _in_order(ipaddress.ip_interface(address) for address in addresses)


def _in_order(addresses: Iterable[Address]) -> tuple[str, ...]:
    ordered = sorted(addresses, key=lambda one: (one.version, int(one.ip), one.network.prefixlen))
    return tuple(one.with_prefixlen for one in ordered)
