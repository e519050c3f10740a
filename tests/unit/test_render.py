"""From documents in force to map entries and interfaces."""

from __future__ import annotations

from dataclasses import replace
from socket import htons
from typing import Any, Literal

import msgspec
import pytest

from agent.core.config.desired_state import Desired
from agent.core.kinds.droplets import host_number
from agent.core.model.desired_entries import DesiredEntries
from agent.core.model.endpoint_slots import IFINDEX_BASE, host_ifname
from agent.core.model.features import Features, FunctionRules
from agent.core.model.map_layout import (
    DROPLET,
    DROPLET_ZERO_CHECKSUM,
    ENDPOINT,
    ENDPOINT_LABELS,
    ENDPOINT_PINNED,
    ENDPOINT_VXLAN,
    INTERFACE,
    INTERFACE_LABELS,
    INTERFACE_PINNED,
    LOCAL_DROPLET,
    NETWORK,
    NETWORK_LABELS,
    NETWORK_LOCAL_BOUNCER,
    NETWORK_PINNED,
    OVERLAY_KEY,
    U32,
    MapName,
    mapped,
    network_key,
)
from agent.core.model.overhead import endpoint_mtu, uplink_mtu
from agent.core.model.resolved_state import HostState
from agent.core.model.uplinks import Uplink
from agent.core.nexthop.next_hops import Peer
from agent.core.nexthop.peers import peers
from agent.core.plan.actions import EnsureVeth
from agent.core.plan.planner import plan_change
from protocol import codec
from protocol.addresses import parse_address
from protocol.documents import (
    LARGEST_LABEL,
    Attachment,
    Document,
    Droplet,
    Endpoint,
    Function,
    FunctionProgram,
    Network,
    Vpc,
)

Checksum = Literal["full", "zero"]
MAC = bytes.fromhex("020000000101")
ETH0 = Uplink("eth0", 2, MAC, 1500, (bytes([10, 0, 0, 1]), parse_address("2001:db8::1")), (2,), 2, 2)
HERE = HostState(
    *("h1", "lab-h1", (ETH0,), Features(functions=True)),
    functions=FunctionRules(frozenset({"source", "object", "file"}), ("*",)),
)
DOCUMENT = Document(
    (Droplet("d1", "h1", "10.0.0.1"), Droplet("d2", "h2", "10.0.0.2")),
    (Vpc("red", 7, ("192.168.0.0/16", "fd00::/48")),),
    (Network("front", "red", ("192.168.1.0/24", "fd00::/64"), ("d1", "d2")),),
    (
        Endpoint("a", "front", "d1", ("192.168.1.5", "fd00::5"), "02:00:00:00:00:05", Attachment("a")),
        Endpoint("b", "front", "d2", ("192.168.1.6",), "02:00:00:00:00:06"),
    ),
    (Function("count", "forwarded", FunctionProgram(source="int stage_function();"), vpc="red"),),
)
ONE, TWO = (mapped(bytes([10, 0, 0, n])) for n in (1, 2))
LOCAL, REMOTE = (OVERLAY_KEY.pack(7, mapped(bytes([192, 168, 1, n]))) for n in (5, 6))


def rendered(document: Document, host_state: HostState = HERE) -> DesiredEntries:
    desired = Desired(host_state)
    desired.documents.put("all", 1, codec.encode(document))
    after = desired.resolve().after
    assert desired.documents.status("all").errors == ()
    return after


def test_one_document_becomes_entries_and_an_interface() -> None:
    after = rendered(DOCUMENT)
    mac = bytes.fromhex("020000000005")
    endpoints = after.entries[MapName.ENDPOINTS]
    assert ENDPOINT.unpack(endpoints[LOCAL]) == (ONE, IFINDEX_BASE, 0, 1438, mac)
    assert endpoints[OVERLAY_KEY.pack(7, parse_address("fd00::5"))] == endpoints[LOCAL]
    assert ENDPOINT.unpack(endpoints[REMOTE])[:4] == (TWO, 0, 0, 0)
    interface = after.entries[MapName.INTERFACES][U32.pack(0)]
    assert INTERFACE.unpack(interface) == (
        *(7, 0, parse_address("fd00::5"), bytes([192, 168, 1, 5])),
        *(mac, 0, 1438, 0, 0),
    )
    gateway, flags, count, broadcast, bouncers = NETWORK.unpack(
        after.entries[MapName.NETWORKS][network_key(7, bytes([192, 168, 1, 0]), 24)]
    )
    assert broadcast == bytes([192, 168, 1, 255])
    assert (gateway, flags, count, bouncers[:32]) == (mapped(bytes([192, 168, 1, 1])), 1, 2, ONE + TWO)
    assert after.entries[MapName.DROPLETS] == {TWO: DROPLET.pack(0, host_number("h2"))}
    assert after.entries[MapName.LOCAL_DROPLETS] == {U32.pack(0): LOCAL_DROPLET.pack(ONE, 2, 2, 2, MAC, 0, 0)}
    veth = after.veths["a"]
    assert (veth.addresses, veth.mtu) == (("192.168.1.5/24", "fd00::5/64"), 1438)
    assert veth.gateways == ("192.168.1.1", "fd00::1")
    assert after.transit == {2}


def test_a_droplet_on_a_bond_behind_a_tag_has_one_entry_for_each_member_its_own_first() -> None:
    bond = replace(ETH0, ifindex=9, ingress=(8, 3, 4), egress=8, carrier=8, vlan=301)
    entries = rendered(DOCUMENT, replace(HERE, uplinks=(bond,))).entries[MapName.LOCAL_DROPLETS]
    assert entries == {
        U32.pack(index): LOCAL_DROPLET.pack(ONE, 9, arrives, 8, MAC, htons(301), 0)
        for index, arrives in enumerate((8, 3, 4))
    }


def test_two_droplets_on_one_interface_give_each_endpoint_its_own_and_the_mtu_of_its_family() -> None:
    both = msgspec.structs.replace(
        DOCUMENT,
        droplets=(*DOCUMENT.droplets, Droplet("d1-6", "h1", "2001:db8::1")),
        endpoints=(
            *DOCUMENT.endpoints,
            Endpoint("c", "front", "d1-6", ("192.168.1.7",), "02:00:00:00:00:07", Attachment("c")),
        ),
    )
    after = rendered(both)
    assert {LOCAL_DROPLET.unpack(value)[0] for value in after.entries[MapName.LOCAL_DROPLETS].values()} == {
        ONE,
        parse_address("2001:db8::1"),
    }
    interfaces = [INTERFACE.unpack(value) for value in after.entries[MapName.INTERFACES].values()]
    assert sorted((one[1], one[6]) for one in interfaces) == [(0, 1438), (1, 1406)]
    assert after.veths["c"].mtu == 1406
    assert after.transit == {2}


@pytest.mark.parametrize(
    ("change", "endpoint", "interface"),
    [
        ({"encapsulation": "vxlan"}, ENDPOINT_VXLAN, 0),
        ({"routing": "divider"}, ENDPOINT_PINNED, INTERFACE_PINNED),
        ({"labels": True}, ENDPOINT_LABELS, INTERFACE_LABELS),
    ],
)
def test_a_network_of_vxlan_a_pinned_one_and_one_that_asks_mark_their_endpoints_everywhere_and_their_interfaces(
    change: dict[str, Any], endpoint: int, interface: int
) -> None:
    network = msgspec.structs.replace(DOCUMENT.networks[0], **change)
    after = rendered(msgspec.structs.replace(DOCUMENT, networks=(network,)))
    flags = [ENDPOINT.unpack(value)[2] for value in after.entries[MapName.ENDPOINTS].values()]
    assert flags == [endpoint] * 3
    assert INTERFACE.unpack(after.entries[MapName.INTERFACES][U32.pack(0)])[5] == interface


def test_an_endpoints_dscp_is_in_the_upper_six_bits() -> None:
    endpoints = tuple(msgspec.structs.replace(endpoint, dscp=46) for endpoint in DOCUMENT.endpoints)
    after = rendered(msgspec.structs.replace(DOCUMENT, endpoints=endpoints))
    assert INTERFACE.unpack(after.entries[MapName.INTERFACES][U32.pack(0)])[7] == 0xB8


def test_a_network_that_asks_for_labels_says_so_in_all_its_entries() -> None:
    network = msgspec.structs.replace(DOCUMENT.networks[0], labels=True, routing="divider")
    entries = rendered(msgspec.structs.replace(DOCUMENT, networks=(network,))).entries[MapName.NETWORKS]
    assert {NETWORK.unpack(value)[1] for value in entries.values()} == {
        NETWORK_LABELS | NETWORK_PINNED | NETWORK_LOCAL_BOUNCER
    }


@pytest.mark.parametrize("label", [1, LARGEST_LABEL])
def test_a_label_is_in_the_interface_and_its_option_leaves_the_endpoint_a_smaller_mtu(label: int) -> None:
    endpoints = tuple(msgspec.structs.replace(endpoint, label=label) for endpoint in DOCUMENT.endpoints)
    after = rendered(msgspec.structs.replace(DOCUMENT, endpoints=endpoints))
    interface = INTERFACE.unpack(after.entries[MapName.INTERFACES][U32.pack(0)])
    assert (interface[6], interface[8]) == (1430, label)
    assert ENDPOINT.unpack(after.entries[MapName.ENDPOINTS][LOCAL])[3] == after.veths["a"].mtu == 1430


@pytest.mark.parametrize(("label", "mtu"), [(0, 1341), (7, 1349)])
def test_an_uplink_has_to_leave_a_labelled_endpoint_the_least_mtu_of_ipv6(label: int, mtu: int) -> None:
    endpoints = tuple(msgspec.structs.replace(endpoint, label=label) for endpoint in DOCUMENT.endpoints)
    body = codec.encode(msgspec.structs.replace(DOCUMENT, endpoints=endpoints))
    for size, wrong in ((mtu, 1), (mtu + 1, 0)):
        desired = Desired(replace(HERE, uplinks=(replace(ETH0, mtu=size),)))
        desired.documents.put("all", 1, body)
        desired.resolve()
        errors = desired.documents.status("all").errors
        assert [error.path for error in errors] == ["endpoints[0].droplet"] * wrong


@pytest.mark.parametrize("other", ["full", "zero"])
@pytest.mark.parametrize("own", ["full", "zero"])
def test_each_droplets_zero_checksum_flag_is_in_its_own_entries(own: Checksum, other: Checksum) -> None:
    """The programs look at both of a pair: neither one's wish is put on another pair's."""
    near, far = Droplet("d1", "h1", "2001:db8::1", own), Droplet("far", "h2", "2001:db8::99", other)
    uplink = replace(ETH0, addresses=(parse_address(near.address),))
    desired = Desired(replace(HERE, uplinks=(uplink,)))
    desired.documents.put("all", 1, codec.encode(Document((near, far))))
    desired.resolve()
    realization = DesiredEntries()
    for _, held in desired.in_force():
        realization.add(desired.desired_entries(held))
    unsigned = {"full": 0, "zero": DROPLET_ZERO_CHECKSUM}
    address = parse_address(far.address)
    assert realization.entries[MapName.DROPLETS] == {address: DROPLET.pack(unsigned[other], host_number("h2"))}
    (value,) = realization.entries[MapName.LOCAL_DROPLETS].values()
    assert LOCAL_DROPLET.unpack(value)[-1] == unsigned[own]
    assert peers(desired.resolved) == {address: Peer(zero_checksum=other == "zero")}


def test_droplets_of_one_host_have_its_number_and_no_other() -> None:
    droplets = (*DOCUMENT.droplets, Droplet("d2-second", "h2", "10.0.0.22"), Droplet("d3", "h3", "10.0.0.3"))
    entries = rendered(msgspec.structs.replace(DOCUMENT, droplets=droplets)).entries[MapName.DROPLETS]
    hosts = [DROPLET.unpack(value)[1] for value in entries.values()]
    assert len(hosts) == 3
    assert len(set(hosts)) == 2


def test_the_mtu_reserves_the_overhead_of_the_tunnel_and_the_option() -> None:
    assert (endpoint_mtu(1500, "ipv4"), endpoint_mtu(1500, "ipv6"), endpoint_mtu(60, "ipv4")) == (1438, 1406, 0)
    assert (endpoint_mtu(1500, "ipv4", 7), endpoint_mtu(1500, "ipv6", 7), endpoint_mtu(65, "ipv4", 7)) == (
        1430,
        1398,
        0,
    )
    assert endpoint_mtu(uplink_mtu(1280, "ipv6", 7), "ipv6", 7) == 1280


def test_an_interfaces_name_fits_the_kernel_and_differs_by_instance() -> None:
    assert host_ifname("one", "a") != host_ifname("two", "a")
    assert len(host_ifname("one", "a" * 63)) == 14


@pytest.mark.parametrize("size", [1, 2, 3, 1000])
def test_a_document_realized_in_parts_asks_for_the_same(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr("agent.core.plan.render.PIECE", size)
    more = tuple(
        Endpoint(f"e{n}", "front", "d2", (f"192.168.1.{n}",), f"02:00:00:00:00:{n:02x}") for n in range(20, 25)
    )
    desired = Desired(HERE)
    desired.documents.put(
        "all", 1, codec.encode(msgspec.structs.replace(DOCUMENT, endpoints=(*DOCUMENT.endpoints, *more)))
    )
    desired.resolve()
    parts = list(desired.parts("all"))
    assert [sum(map(len, part.entries.values())) > 0 for part in parts] == [True] * -(-7 // size)
    whole, together = DesiredEntries(), DesiredEntries()
    for part in parts:
        together.add(part)
    for _, held in desired.in_force():
        whole.add(desired.desired_entries(held))
    assert together == whole
    assert list(desired.parts("unknown")) == []


def with_namespace(namespace: str) -> bytes:
    (first, *others) = DOCUMENT.endpoints
    there = msgspec.structs.replace(first, attachment=Attachment(namespace))
    return codec.encode(msgspec.structs.replace(DOCUMENT, endpoints=(there, *others)))


@pytest.mark.parametrize(("namespace", "again"), [("a", False), ("/run/netns/4", False), ("4711", True)])
def test_a_new_revision_binds_the_process_again_and_changes_nothing_else(namespace: str, again: bool) -> None:
    """Else a process id would stay bound to who had it when the first of many equal revisions came."""
    desired = Desired(HERE)
    desired.documents.put("all", 1, with_namespace(namespace))
    desired.resolve()
    desired.documents.confirm({"all"})
    desired.documents.put("all", 2, with_namespace(namespace))
    change = desired.resolve()
    actions = plan_change(change.before, change.after)
    assert actions == ([EnsureVeth(change.after.veths["a"])] if again else [])
    assert change.after.veths["a"].revision == (2 if again else 0)
    assert desired.veths["a"] == change.after.veths["a"]
