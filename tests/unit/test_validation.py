"""What a host refuses, and what it says of it."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest
from test_render import DOCUMENT, ETH0, HERE

from agent.core.config.desired_state import Desired
from agent.core.model.features import Features
from agent.core.model.resolved_state import HostState
from protocol import codec
from protocol.addresses import parse_address
from protocol.documents import Document, Droplet, Network, Vpc
from protocol.errors import ErrorCode, FieldError

ETH1 = replace(ETH0, name="eth1", ifindex=3, addresses=(bytes([10, 9, 0, 1]),), ingress=(3,), egress=3, carrier=3)


def refused(document: Document, host_state: HostState = HERE) -> list[FieldError]:
    desired = Desired(host_state)
    desired.documents.put("all", 1, codec.encode(document))
    desired.resolve()
    return list(desired.documents.status("all").errors)


def test_an_own_droplet_with_an_unknown_address_names_the_addresses_of_the_host() -> None:
    here = replace(HERE, uplinks=(ETH0, ETH1, replace(ETH1, name="eth2", addresses=())))
    (error,) = refused(Document(droplets=(Droplet("d1", "h1", "10.5.0.1"),)), here)
    assert (error.path, error.code) == ("droplets[0].address", ErrorCode.OUT_OF_RANGE)
    assert "eth0 has 10.0.0.1, 2001:db8::1; eth1 has 10.9.0.1; eth2 has none" in error.message


def test_a_host_with_two_interfaces_accepts_a_droplet_on_each() -> None:
    here = replace(HERE, uplinks=(ETH0, ETH1))
    droplets = (Droplet("d1", "h1", "10.0.0.1"), Droplet("d9", "h1", "10.9.0.1"))
    assert refused(Document(droplets=droplets), here) == []


@pytest.mark.parametrize(
    ("features", "document", "path", "setting"),
    [
        (Features(vxlan_port=0), "vxlan", "networks[0].encapsulation", "data_plane.vxlan_port"),
        (Features(families=frozenset({"ipv4"})), "both", "vpcs[0].cidrs[1]", "ipv6 to data_plane.families"),
        (Features(families=frozenset({"ipv6"})), "both", "vpcs[0].cidrs[0]", "ipv4 to data_plane.families"),
        (Features(underlay=frozenset({"ipv6"})), "both", "droplets[0].address", "ipv4 to data_plane.underlay"),
        (Features(underlay=frozenset({"ipv4"})), "far", "droplets[0].address", "ipv6 to data_plane.underlay"),
    ],
)
def test_a_disabled_feature_is_named_with_its_setting(features, document: str, path: str, setting: str) -> None:
    documents = {
        "both": DOCUMENT,
        "far": Document(droplets=(Droplet("d2", "h2", "2001:db8::2"),)),
        "vxlan": Document(
            vpcs=(Vpc("red", 7, ("10.0.0.0/8",)),),
            networks=(Network("front", "red", ("10.1.0.0/16",), encapsulation="vxlan"),),
        ),
    }
    errors = refused(documents[document], replace(HERE, features=features))
    assert (errors[0].path, errors[0].code) == (path, ErrorCode.DISABLED)
    assert setting in errors[0].message


@pytest.mark.parametrize(
    ("mtu", "addresses", "needed"),
    [
        (1341, ("192.168.1.5", "fd00::5"), "give the interface 1342 or more"),
        (1342, ("192.168.1.5", "fd00::5"), None),
        (637, ("192.168.1.5",), "give the interface 638 or more"),
        (638, ("192.168.1.5",), None),
    ],
)
def test_an_interface_with_a_too_small_mtu_for_an_endpoint_is_named_with_its_mtu(mtu, addresses, needed) -> None:
    endpoints = (msgspec.structs.replace(DOCUMENT.endpoints[0], addresses=addresses),)
    document = msgspec.structs.replace(DOCUMENT, endpoints=endpoints)
    errors = refused(document, replace(HERE, uplinks=(replace(ETH0, mtu=mtu),)))
    assert [error.path for error in errors] == (["endpoints[0].droplet"] if needed else [])
    assert needed is None or (f"eth0 has MTU {mtu}" in errors[0].message and needed in errors[0].message)


def test_over_ipv6_an_interface_needs_a_larger_mtu() -> None:
    droplets = (Droplet("d1", "h1", "2001:db8::1"), Droplet("d2", "h2", "2001:db8::2"))
    document = msgspec.structs.replace(DOCUMENT, droplets=droplets)
    (error,) = refused(document, replace(HERE, uplinks=(replace(ETH0, mtu=1280 + 93),)))
    assert "give the interface 1374 or more" in error.message


def test_the_seventeenth_droplet_is_refused_by_name_and_accepted_once_another_is_removed() -> None:
    addresses = tuple(parse_address(f"10.0.0.{n}") for n in range(1, 40))
    desired = Desired(replace(HERE, uplinks=(replace(ETH0, addresses=addresses),)))
    for n in range(1, 18):
        desired.documents.put(f"of-{n}", n, codec.encode(Document(droplets=(Droplet(f"d{n}", "h1", f"10.0.0.{n}"),))))
        desired.resolve()
    (error,) = desired.documents.status("of-17").errors
    assert (error.path, error.code) == ("droplets[0].id", ErrorCode.OUT_OF_RANGE)
    assert "'d17'" in error.message
    before = dict(desired.resolved.local_indexes)
    desired.documents.remove("of-5", 18)
    desired.resolve(removing=True)
    assert desired.resolve(removing=True).changed_documents == {"of-17"}
    assert desired.documents.status("of-17").errors == ()
    kept = before.items() & desired.resolved.local_indexes.items()
    assert len(kept) == 15
    assert desired.resolve(removing=True).affected == set()
