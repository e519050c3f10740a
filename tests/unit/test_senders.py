"""Which droplets keep a host's endpoints from sending GSO packets, and what is examined again when that changes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agent.core.kinds import catalogue
from agent.core.model.features import Features
from agent.core.model.hooks import Hook
from agent.core.model.resolved_state import HostState, ResolvedState
from protocol.acknowledgements import Reference
from protocol.documents import Droplet, Network, Vpc

EMPTY = ResolvedState(HostState("h1", "test", (), Features(), endpoint_hook=Hook.TC))
OWN = Droplet("d1", "h1", "2001:db8::1", "zero")
BOUNCER = Droplet("d2", "h2", "2001:db8::2", "full")
DIVIDER = Droplet("d3", "h3", "2001:db8::3", "full")
OTHER = Droplet("d4", "h4", "2001:db8::4", "full")
VPC = Vpc("red", 1001, ("10.0.0.0/16",), ("d3",))
NETWORK = Network("web", "red", ("10.0.1.0/24",), ("d2",))


def state(network: Network, *droplets: Droplet, vpc: Vpc = VPC) -> ResolvedState:
    found = EMPTY
    for kind, objects in (("droplets", droplets), ("vpcs", [vpc]), ("networks", [network])):
        found = catalogue.KINDS.by_name[kind].replace(found, [], objects)
    return found


@pytest.mark.parametrize(
    ("more", "summed"),
    [
        ({}, []),
        ({"encapsulation": "vxlan"}, ["d2", "d3"]),
        ({"routing": "divider"}, ["d2", "d3"]),
    ],
    ids=["direct", "vxlan", "by dividers"],
)
def test_bouncers_and_dividers_count_where_packets_never_go_direct(more: dict[str, str], summed: list[str]) -> None:
    network = replace_network(more)
    found = state(network, OWN, BOUNCER, DIVIDER, OTHER)
    assert found.summed_droplets() == summed
    assert found.sending().gso is not bool(summed)
    without = [replace_droplet(one) for one in (BOUNCER, DIVIDER)]
    assert state(network, OWN, *without, OTHER).sending().gso


def replace_network(more: dict[str, str]) -> Network:
    return Network("web", "red", ("10.0.1.0/24",), ("d2",), **more)  # type: ignore[arg-type]


def replace_droplet(droplet: Droplet) -> Droplet:
    return Droplet(droplet.id, droplet.host, droplet.address, "zero")


def test_a_droplet_of_this_host_always_counts_and_one_of_ipv4_never() -> None:
    assert not state(NETWORK, Droplet("d1", "h1", "2001:db8::1")).sending().gso
    assert state(NETWORK, Droplet("d1", "h1", "192.0.2.1"), Droplet("d2", "h2", "192.0.2.2")).sending().gso


def test_a_droplet_that_is_gone_or_changed_counts_no_more() -> None:
    droplets = catalogue.KINDS.by_name["droplets"]
    found = droplets.replace(EMPTY, [], [BOUNCER, OTHER])
    assert found.summing == {"d2", "d4"}
    assert droplets.replace(found, [BOUNCER], [replace_droplet(BOUNCER)]).summing == {"d4"}
    assert droplets.replace(found, [BOUNCER, OTHER], []).summing == frozenset()


@pytest.mark.parametrize("kind", ["droplets", "networks", "vpcs"])
def test_a_change_of_any_of_them_has_this_hosts_endpoints_examined(kind: str) -> None:
    """An endpoint's document refers to its droplet."""
    changes = {
        "droplets": state(replace_network({"encapsulation": "vxlan"}), OWN, replace_droplet(BOUNCER)),
        "networks": state(NETWORK, OWN, BOUNCER),
        "vpcs": state(replace_network({"encapsulation": "vxlan"}), OWN, replace_droplet(BOUNCER)),
    }
    new = state(replace_network({"encapsulation": "vxlan"}), OWN, BOUNCER)
    found = list(
        catalogue.KINDS.by_name[kind].dependents(set(), (new, changes["droplets" if kind == "vpcs" else kind]))
    )
    assert Reference("droplets", "d1") in found
    assert Reference("droplets", "d1") not in catalogue.KINDS.by_name[kind].dependents(set(), (new, replace(new)))
