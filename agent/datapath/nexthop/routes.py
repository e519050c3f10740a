"""Asks the kernel for the route that packets of one uplink take to a droplet."""

from __future__ import annotations

import errno
import ipaddress
import socket

from agent.core.model.uplinks import Uplink
from agent.core.nexthop.next_hops import Route
from agent.datapath.net.netlink import Message, Netlink, attribute
from protocol.addresses import format_address

RTM_F_LOOKUP_TABLE = 0x1000
_LENGTHS = {socket.AF_INET: 4, socket.AF_INET6: 16}
_UNROUTABLE = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EINVAL, errno.EACCES, errno.ENODEV)


async def route_by(requests: Netlink, droplet: bytes, uplink: Uplink, *, only: bool) -> Route | None:
    """Return the kernel's route to a packed address for packets of one uplink, None when it has none.

    The look-up names the uplink and its address, as its packets do: rules for the source and the table of a VRF that
    the uplink is a member of apply (Documentation/networking/vrf.rst). The kernel may answer with a route by another
    interface all the same. With `only`, no other uplink could lead there: where none leads there by this one, a
    route by an interface that is no uplink is returned, so that its interface can be named. OSError when the kernel
    cannot be asked.
    """
    source = next(address for address in uplink.addresses if len(address) == len(droplet))
    found = await _ask(requests, droplet, oif=uplink.ifindex, src=format_address(source), flags=RTM_F_LOOKUP_TABLE)
    if found is not None and not _is_assumed(found):
        return _route(found, droplet)
    if not only:
        return None
    elsewhere = await _ask(requests, droplet)
    route = _route(elsewhere, droplet) if elsewhere is not None else None
    return route if route is not None and route.ifindex != uplink.ifindex else None


async def _ask(requests: Netlink, droplet: bytes, **options: object) -> Message | None:
    """Return the answer of RTM_GETROUTE that names an interface, None when there is no route."""
    try:
        answers = await requests.request("route", "get", dst=format_address(droplet), **options)
    except OSError as error:
        if error.errno in _UNROUTABLE:
            return None
        raise
    return next((answer for answer in answers if attribute(answer, "RTA_OIF")), None)


def _route(answer: Message, droplet: bytes) -> Route:
    # RTA_VIA: a router of the other address family (RFC 8950).
    gateway = attribute(answer, "RTA_GATEWAY") or (attribute(answer, "RTA_VIA") or {}).get("addr")
    next_hop = ipaddress.ip_address(gateway).packed if gateway else droplet
    return Route(int(attribute(answer, "RTA_OIF")), next_hop)


def prefix_of(message: Message) -> tuple[bytes, int] | None:
    """Return the destination of a route (rtnetlink(7)), packed and with its bits; None when it is not of IP."""
    length = _LENGTHS.get(message["family"])
    if length is None:
        return None
    text = attribute(message, "RTA_DST")
    return ipaddress.ip_address(text).packed if text else bytes(length), int(message["dst_len"])


def _is_assumed(route: Message) -> bool:
    """Whether no table has the route: IPv4 takes any address for on-link when an interface is given (route.c)."""
    return bool(attribute(route, "RTA_TABLE") == 0)
