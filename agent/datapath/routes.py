"""Asks the kernel for the route to a droplet: by whichever interface it takes, or by one uplink."""

from __future__ import annotations

import errno
import ipaddress
import socket

from agent.core.next_hops import Route
from agent.core.uplinks import Uplink
from agent.datapath.netlink import Message, Netlink, attribute
from protocol.addresses import format_address

RTM_F_LOOKUP_TABLE = 0x1000
_LENGTHS = {socket.AF_INET: 4, socket.AF_INET6: 16}
_UNROUTABLE = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EINVAL, errno.EACCES, errno.ENODEV)


async def route_to(requests: Netlink, droplet: bytes, uplink: Uplink | None = None) -> Route | None:
    """Return the kernel's route to a packed address, None when it has none; OSError when it cannot be asked.

    With `uplink`: the route of packets that leave by it with its address, as rules for the source demand. The kernel
    may answer with one by another interface all the same, when it has none by this one.
    """
    options: dict[str, object] = {"dst": format_address(droplet)}
    if uplink is not None:
        source = next(address for address in uplink.addresses if len(address) == len(droplet))
        options |= {"oif": uplink.ifindex, "src": format_address(source), "flags": RTM_F_LOOKUP_TABLE}
    try:
        answers = await requests.request("route", "get", **options)
    except OSError as error:
        if error.errno in _UNROUTABLE:
            return None
        raise
    route = next((answer for answer in answers if attribute(answer, "RTA_OIF")), None)
    if route is None or (uplink is not None and _is_assumed(route)):
        return None
    # RTA_VIA: a router of the other family (RFC 8950).
    gateway = attribute(route, "RTA_GATEWAY") or (attribute(route, "RTA_VIA") or {}).get("addr")
    next_hop = ipaddress.ip_address(gateway).packed if gateway else droplet
    return Route(int(attribute(route, "RTA_OIF")), next_hop)


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
