"""Netlink's messages about interfaces, as plain data: which of them frames come in on and leave by."""

from __future__ import annotations

import errno
from dataclasses import replace
from typing import Any

import pytest

from agent.core.model.uplinks import Uplink
from agent.datapath.attach.uplinks import differs, served_by, uplink_from, why_hands_over_gso

MAC = "02:00:00:00:00:07"
ADDRESSES = ({"attrs": [("IFA_ADDRESS", "10.0.0.1"), ("IFA_LOCAL", "10.0.0.1")]},)


def link(index: int, name: str, kind: str = "", *, xdp: int = 0, data: dict[str, Any] | None = None, **attrs: Any):
    found = [("IFLA_IFNAME", name), ("IFLA_MTU", 1500), ("IFLA_ADDRESS", MAC)]
    found += [(f"IFLA_{key.upper()}", value) for key, value in attrs.items()]
    if kind:
        info: list[tuple[str, Any]] = [("IFLA_INFO_KIND", kind)]
        if data is not None:
            info.append(("IFLA_INFO_DATA", {"attrs": list(data.items())}))
        found.append(("IFLA_LINKINFO", {"attrs": info}))
    if xdp:
        found.append(("IFLA_XDP", {"attrs": [("IFLA_XDP_ATTACHED", 1), ("IFLA_XDP_DRV_PROG_ID", xdp)]}))
    return {"index": index, "attrs": found}


def vlan(index: int, name: str, below: int, identity: int = 100, protocol: int = 0x8100, **attrs: Any):
    data = {"IFLA_VLAN_ID": identity, "IFLA_VLAN_PROTOCOL": protocol}
    return link(index, name, "vlan", data=data, link=below, **attrs)


def read(which: dict[str, Any], *others: dict[str, Any], addresses: Any = ADDRESSES) -> Uplink:
    return uplink_from(which, [which, *others], addresses)


def shape(found: Uplink) -> tuple[tuple[int, ...], int, int, int]:
    return found.ingress, found.egress, found.carrier, found.vlan


def test_a_plain_interface_is_its_own_carrier() -> None:
    found = read(link(2, "eth0"), link(3, "eth1"))
    own = bytes.fromhex(MAC.replace(":", ""))
    assert found == Uplink("eth0", 2, own, 1500, (bytes([10, 0, 0, 1]),), (2,), 2, 2)


@pytest.mark.parametrize("kind", ["veth", "bridge", "macvlan", "ipvlan"])
def test_any_other_kind_of_interface_is_its_own_carrier(kind: str) -> None:
    members = (link(3, "eth1", master=2), link(4, "eth2", link=2))
    assert shape(read(link(2, "upper0", kind, link=9), *members)) == ((2,), 2, 2, 0)


def test_a_vlans_frames_are_received_and_sent_by_its_parent() -> None:
    found = read(vlan(5, "eth0.100", below=2), link(2, "eth0"), link(3, "eth1"))
    assert shape(found) == ((2,), 2, 2, 100)
    assert (found.name, found.ifindex) == ("eth0.100", 5)


def test_a_bonds_frames_are_received_by_its_members_and_sent_by_the_bond() -> None:
    members = (link(4, "eth2", master=7), link(3, "eth1", master=7), link(2, "eth0", master=8))
    assert shape(read(link(7, "bond0", "bond"), *members)) == ((7, 3, 4), 7, 7, 0)


def test_a_vlan_on_a_bond_combines_both() -> None:
    below = (link(7, "bond0", "bond"), link(3, "eth1", master=7), link(4, "eth2", master=7))
    assert shape(read(vlan(9, "bond0.42", below=7, identity=42), *below)) == ((7, 3, 4), 7, 7, 42)


def test_a_bonds_member_with_an_address_is_its_own_carrier() -> None:
    member, bond = link(3, "eth1", master=7), link(7, "bond0", "bond")
    assert shape(read(member, bond)) == ((3,), 3, 3, 0)


def test_a_member_names_its_bond() -> None:
    bond, bridge = link(7, "bond0", "bond"), link(8, "br0", "bridge")
    assert served_by(link(3, "eth1", master=7), [bond, bridge]) == "bond0"
    assert served_by(link(3, "eth1", master=8), [bond, bridge]) == ""
    assert served_by(link(3, "eth1"), [bond, bridge]) == ""


def test_link_local_addresses_are_no_droplets() -> None:
    texts = ("fe80::1", "2001:db8::1", "169.254.1.1", "10.0.0.1")
    found = read(link(2, "eth0"), addresses=[{"attrs": [("IFA_ADDRESS", text)]} for text in texts])
    assert [len(address) for address in found.addresses] == [16, 4]


def test_the_own_side_of_a_point_to_point_link_is_its_address() -> None:
    both = [{"attrs": [("IFA_ADDRESS", "10.0.0.2"), ("IFA_LOCAL", "10.0.0.1")]}]
    assert read(link(2, "eth0"), addresses=both).addresses == (bytes([10, 0, 0, 1]),)


@pytest.mark.parametrize(
    ("which", "others", "said"),
    [
        (vlan(5, "q", below=4, identity=7), (vlan(4, "s", below=2), link(2, "eth0")), "two tags"),
        (vlan(5, "q", below=2, protocol=0x88A8), (link(2, "eth0"),), "802.1ad"),
        (vlan(5, "q", below=2), (), "another network namespace"),
        (vlan(5, "q", below=2, link_netnsid=0), (link(2, "eth0"),), "another network namespace"),
    ],
)
def test_unsupported_interfaces_are_refused_by_name(which: Any, others: Any, said: str) -> None:
    with pytest.raises(OSError, match=said) as refused:
        read(which, *others)
    assert (refused.value.errno, refused.value.filename) == (errno.EINVAL, "q")


TENTATIVE, FAILED, PERMANENT = 0x40, 0x08, 0x80


def address(text: str, index: int = 2, event: str = "RTM_NEWADDR", flags: int = PERMANENT, wide: int | None = None):
    attrs = [("IFA_ADDRESS", text)] + ([] if wide is None else [("IFA_FLAGS", wide)])
    return {"event": event, "index": index, "flags": flags, "attrs": attrs}


@pytest.mark.parametrize(
    ("flags", "wide", "there"),
    [
        (PERMANENT, None, True),
        (PERMANENT, PERMANENT | 0x100, True),
        (TENTATIVE, TENTATIVE, True),
        (TENTATIVE | FAILED, None, False),
        (0, PERMANENT | TENTATIVE | FAILED, False),
    ],
)
def test_an_address_of_another_host_is_no_droplet(flags: int, wide: int | None, there: bool) -> None:
    message = address("2001:db8::1", flags=flags, wide=wide)
    assert bool(read(link(2, "eth0"), addresses=[message]).addresses) is there
    assert differs([read(link(2, "eth0"), addresses=[])], message) is there
    assert differs([read(link(2, "eth0"), addresses=[address("2001:db8::1")])], message) is not there


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (address("10.0.0.1"), False),
        (address("10.0.0.2"), True),
        (address("10.0.0.2", index=3), False),
        (address("169.254.1.1"), False),
        (address("fe80::1"), False),
        (address("10.0.0.1", event="RTM_DELADDR"), True),
        (address("10.0.0.1", index=3, event="RTM_DELADDR"), False),
        (address("10.0.0.2", event="RTM_DELADDR"), False),
        (address("fe80::1", event="RTM_DELADDR"), False),
    ],
)
def test_an_added_or_removed_address_changes_the_uplink(message: Any, expected: bool) -> None:
    assert differs([read(link(2, "eth0"))], message) is expected


def event(message: Any, event: str = "RTM_NEWLINK", family: int = 0) -> Any:
    return {**message, "event": event, "family": family}


def slave(index: int, master: int, kind: str = "bond") -> Any:
    found = link(index, f"eth{index}", master=master)
    found["attrs"].append(("IFLA_LINKINFO", {"attrs": [("IFLA_INFO_SLAVE_KIND", kind)]}))
    return found


PLAIN = read(link(2, "eth0"))
BOND = read(link(7, "bond0", "bond"), slave(3, 7), slave(4, 7))
UPON = read(vlan(9, "bond0.42", below=7), link(7, "bond0", "bond"), slave(3, 7), slave(4, 7))
EMPTY_BOND = read(link(7, "bond0", "bond"))
BRIDGE = read(link(8, "br0", "bridge"))


@pytest.mark.parametrize(
    ("uplink", "message", "expected"),
    [
        (PLAIN, event(link(2, "eth0")), False),
        (PLAIN, event(link(5, "eth0")), True),
        (PLAIN, event(link(5, "eth5")), False),
        (PLAIN, event(link(5, "eth5"), "RTM_DELLINK"), False),
        (replace(PLAIN, mtu=1400), event(link(2, "eth0")), True),
        (replace(PLAIN, mac=bytes(6)), event(link(2, "eth0")), True),
        (PLAIN, event(link(2, "eth0", master=8), family=7), False),
    ],
)
def test_a_replaced_interface_changes_the_uplink(uplink: Uplink, message: Any, expected: bool) -> None:
    assert differs([uplink], message) is expected


@pytest.mark.parametrize("uplink", [BOND, UPON])
@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (event(link(7, "bond0", "bond")), False),
        (event(slave(3, 7)), False),
        (event(slave(6, 7)), True),
        (event(slave(3, 8)), True),
        (event(link(4, "eth4")), True),
        (event(link(4, "eth4"), "RTM_DELLINK"), True),
        (event(slave(6, 7), "RTM_DELLINK"), False),
        (event(link(6, "eth6"), "RTM_DELLINK"), False),
        (event(slave(6, 8)), False),
    ],
)
def test_an_added_or_removed_member_changes_the_uplink(uplink: Uplink, message: Any, expected: bool) -> None:
    """The bond itself keeps its index, its Ethernet address and its MTU, and tells nothing."""
    assert differs([PLAIN, uplink], message) is expected


def test_the_first_member_changes_the_uplink_and_a_bridge_port_does_not() -> None:
    assert differs([EMPTY_BOND], event(slave(3, 7)))
    assert not differs([BRIDGE], event(slave(3, 8, "bridge")))
    assert not differs([BRIDGE], event(slave(3, 8, "bridge"), "RTM_DELLINK", family=7))


def gso_of(which: dict[str, Any], *others: dict[str, Any]) -> str:
    """Return why an interface hands over GSO packets, where veths do by themselves and cards do not."""
    return why_hands_over_gso(which, [which, *others], lambda one: "a veth" if "veth" in str(one["attrs"]) else "")


@pytest.mark.parametrize("kind", ["bond", "team"])
def test_a_bond_hands_over_gso_packets_if_one_of_its_members_does(kind: str) -> None:
    bond, card, strange = link(2, "bond0", kind), link(3, "eth1", master=2), link(5, "eth3", "veth", master=9)
    assert gso_of(bond, card, link(4, "eth2", "veth", master=2)) == "eth2: a veth"
    assert gso_of(bond, card, strange) == gso_of(bond) == ""


def test_a_vlan_hands_over_gso_packets_if_what_is_below_it_does() -> None:
    """Also below a bond, as bonds may have VLANs as members."""
    veth, card = link(4, "eth2", "veth"), link(3, "eth1")
    assert gso_of(vlan(5, "up", below=4), veth, card) == "eth2: a veth"
    assert gso_of(vlan(5, "up", below=3), veth, card) == ""
    assert gso_of(link(2, "bond0", "bond"), vlan(5, "up", below=4, master=2), veth) == "up: eth2: a veth"
    assert gso_of(vlan(5, "up", below=4, link_netnsid=1), veth) == ""


def test_devices_of_other_kinds_answer_for_themselves() -> None:
    member = link(4, "eth2", "veth", master=2)
    assert gso_of(link(2, "br0", "bridge"), member) == gso_of(link(2, "vrf0", "vrf"), member) == ""
