"""Reads this host's uplinks: physical interfaces, VLANs, bonds, and VLANs on bonds.

Decides from netlink messages alone which interfaces frames really arrive on and leave by; changes nothing.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from pyroute2.netlink.rtnl.ifaddrmsg import IFA_F_DADFAILED, IFA_F_TENTATIVE

from agent.core.model.uplinks import Uplink
from agent.core.uplinks.hook_choice import GSO_DRIVERS, why_gso
from agent.datapath.net.ethtool import can_merge, driver_of
from agent.datapath.net.namespaces import open_control_socket
from agent.datapath.net.netlink import Message, Netlink, attribute

ETH_P_8021Q = 0x8100
Address = ipaddress.IPv4Address | ipaddress.IPv6Address
IsAttached = Callable[[int], bool]
"""Returns whether our current program is attached to an interface, as it should be."""
AGGREGATES = ("bond", "team")
"""Kinds of interfaces that hand over the frames of their members as these do."""
STACKED = ("vlan", *AGGREGATES)
"""Kinds of interfaces whose frames arrive on other interfaces, which must be read too."""


async def read_uplinks(
    netlink: Netlink, names: Iterable[str], is_attached: IsAttached = lambda _: False
) -> tuple[Uplink, ...]:
    """Return the uplinks with these names, in their order; `is_attached`: whether our program is on a carrier.

    Raises OSError: ENODEV if there is no such interface, EINVAL if XDP cannot serve it.
    """
    links = [await _link(netlink, name) for name in names]
    others = await netlink.links() if any(kind(link) in STACKED for link in links) else links
    found = []
    for link in links:
        addresses = await netlink.dump("get_addr", index=link["index"])
        uplink = uplink_from(link, others, addresses)
        carrier = next(one for one in (link, *others) if one["index"] == uplink.carrier)
        gso = why_hands_over_gso(carrier, others, _why_gso)
        found.append(replace(uplink, gso=gso, transit=is_attached(uplink.carrier)))
    return tuple(found)


def why_hands_over_gso(link: Message, links: Sequence[Message], why: Callable[[Message], str]) -> str:
    """Return why an interface, or one that its frames arrive on, hands over GSO packets; empty if none does. Pure.

    `why` answers for one that stands on no others of `links`.
    """
    if kind(link) == "vlan" and attribute(link, "IFLA_LINK_NETNSID") is None:
        below = [one for one in links if one["index"] == attribute(link, "IFLA_LINK")]
    elif kind(link) in AGGREGATES:
        below = _members(int(link["index"]), links)
    else:
        return why(link)
    reasons = ((attribute(one, "IFLA_IFNAME"), why_hands_over_gso(one, links, why)) for one in below)
    return next((f"{name}: {reason}" for name, reason in reasons if reason), "")


def _members(master: int, links: Iterable[Message]) -> list[Message]:
    return [one for one in links if attribute(one, "IFLA_MASTER") == master]


def _why_gso(link: Message) -> str:
    """Return why a device that stands on no others hands over GSO packets, empty if it does not."""
    name, what = str(attribute(link, "IFLA_IFNAME")), kind(link)
    if what:
        return why_gso(what, "", False)
    with open_control_socket() as control:
        driver = driver_of(control, name)
        return why_gso("", driver, driver in GSO_DRIVERS and can_merge(control, name))


async def _link(netlink: Netlink, name: str) -> Message:
    link = await netlink.link(ifname=name)
    if link is None:
        raise OSError(errno.ENODEV, "no such interface", name)
    return link


def kind(link: Message) -> str:
    """Return an interface's kind (`vlan`, `bond`, `veth`, ...), empty for a physical one."""
    info = attribute(link, "IFLA_LINKINFO")
    return str(attribute(info, "IFLA_INFO_KIND") or "") if info is not None else ""


def uplink_from(link: Message, links: Sequence[Message], addresses: Iterable[Message]) -> Uplink:
    """Return the uplink that replies to RTM_GETLINK and RTM_GETADDR (rtnetlink(7)) describe. Pure.

    `links` holds at least a VLAN's parent and a bond's members. OSError (EINVAL) names what XDP cannot serve.
    """
    carrier, vlan = (_below(link, links), _vlan_id(link)) if kind(link) == "vlan" else (link, 0)
    index = int(carrier["index"])
    members = [int(one["index"]) for one in _members(index, links)]
    return Uplink(
        name=str(attribute(link, "IFLA_IFNAME")),
        ifindex=int(link["index"]),
        mac=_mac(link),
        mtu=int(attribute(link, "IFLA_MTU")),
        addresses=tuple(_underlay_addresses(addresses)),
        ingress=(index, *sorted(members)) if kind(carrier) == "bond" else (index,),
        egress=index,
        carrier=index,
        vlan=vlan,
    )


def _below(link: Message, links: Sequence[Message]) -> Message:
    """Return a VLAN's parent."""
    name, index = attribute(link, "IFLA_IFNAME"), attribute(link, "IFLA_LINK")
    found = next((one for one in links if one["index"] == index), None)
    if found is None or attribute(link, "IFLA_LINK_NETNSID") is not None:
        raise OSError(errno.EINVAL, "the VLAN lies on an interface of another network namespace", name)
    if kind(found) == "vlan":
        raise OSError(errno.EINVAL, "the VLAN lies on another VLAN: frames with two tags are not served", name)
    return found


def _vlan_id(link: Message) -> int:
    data = attribute(attribute(link, "IFLA_LINKINFO"), "IFLA_INFO_DATA") or {}
    if attribute(data, "IFLA_VLAN_PROTOCOL") not in (None, ETH_P_8021Q):
        name = attribute(link, "IFLA_IFNAME")
        raise OSError(errno.EINVAL, "the VLAN is of 802.1ad: 802.1Q tags alone are served", name)
    return int(attribute(data, "IFLA_VLAN_ID"))


def _underlay_addresses(addresses: Iterable[Message]) -> Iterable[bytes]:
    """Yield the packed addresses, of 4 or 16 bytes, that a droplet may have."""
    for message in addresses:
        address = _address(message)
        if _is_usable(address, message):
            yield address.packed


async def confirmed_addresses(netlink: Netlink, ifindex: int) -> set[bytes]:
    """Return an interface's packed addresses, including link-local ones, that have passed duplicate address detection.

    OSError if the query fails.
    """
    messages = await netlink.dump("get_addr", index=ifindex)
    unsure = IFA_F_TENTATIVE | IFA_F_DADFAILED
    return {_address(message).packed for message in messages if not _flags(message) & unsure}


def _address(message: Message) -> Address:
    # The own side of a point-to-point link is IFA_LOCAL; elsewhere both are the same, or only one is there.
    return ipaddress.ip_address(attribute(message, "IFA_LOCAL") or attribute(message, "IFA_ADDRESS"))


def _is_usable(address: Address, message: Message) -> bool:
    """Return whether a droplet may have an address: not a link-local one, which means nothing beyond its link.

    Nor one that another host has (RFC 4862, section 5.4.5). A tentative address is allowed: nearly all pass.
    """
    return not address.is_link_local and not _flags(message) & IFA_F_DADFAILED


def _flags(message: Message) -> int:
    """Return an address's flags (IFA_F_*), including those that do not fit the header."""
    wide = attribute(message, "IFA_FLAGS")
    return int(message.get("flags", 0) if wide is None else wide)


def differs(uplinks: Iterable[Uplink], message: Message) -> bool:
    """Return whether an event about a link or an address changes what is known about the uplinks. Pure."""
    match message.get("event"):
        case "RTM_NEWADDR":
            return _address_differs(uplinks, message, there=True)
        case "RTM_DELADDR":
            return _address_differs(uplinks, message, there=False)
        # Messages of other families are about a bridge's ports.
        case "RTM_NEWLINK" if message["family"] == socket.AF_UNSPEC:
            return any(_link_differs(uplink, message) for uplink in uplinks)
        case "RTM_DELLINK" if message["family"] == socket.AF_UNSPEC:
            return any(message["index"] in uplink.ingress[1:] for uplink in uplinks)
    return False


def _address_differs(uplinks: Iterable[Uplink], message: Message, *, there: bool) -> bool:
    own = [uplink for uplink in uplinks if uplink.ifindex == message["index"]]
    if not own:
        return False
    address = _address(message)
    usable = there and _is_usable(address, message)
    return any((address.packed in uplink.addresses) != usable for uplink in own)


def _link_differs(uplink: Uplink, message: Message) -> bool:
    index = int(message["index"])
    if attribute(message, "IFLA_IFNAME") == uplink.name:
        mac = _mac(message)
        if (uplink.ifindex, uplink.mac, uplink.mtu) != (index, mac, attribute(message, "IFLA_MTU")):
            return True
    return (index in uplink.ingress[1:]) != (_bond_of(message) == uplink.carrier)


def _bond_of(link: Message) -> int:
    """Return the index of the bond that an interface is a member of, 0 if there is none."""
    info = attribute(link, "IFLA_LINKINFO") or {}
    is_member = attribute(info, "IFLA_INFO_SLAVE_KIND") == "bond"
    return int(attribute(link, "IFLA_MASTER") or 0) if is_member else 0


def _mac(link: Message) -> bytes:
    return bytes.fromhex(str(attribute(link, "IFLA_ADDRESS") or "").replace(":", ""))


def served_by(link: Message, links: Iterable[Message]) -> str:
    """Return the name of an interface's bond, empty if it is no member of one. A member's frames are the bond's."""
    master = attribute(link, "IFLA_MASTER")
    found = next((one for one in links if one["index"] == master and kind(one) == "bond"), None)
    return str(attribute(found, "IFLA_IFNAME")) if found is not None else ""


def names_of(ifindexes: Iterable[int]) -> list[str]:
    """Return interfaces' names in this thread's network namespace; OSError (ENXIO) if one is gone."""
    return [socket.if_indextoname(index) for index in ifindexes]
