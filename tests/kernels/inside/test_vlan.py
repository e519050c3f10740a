"""Two VLANs on one interface, each a droplet: tunnel packets come and leave tagged, and stay in their VLAN."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernels.inside.host import Host, running_host
from tests.kernels.inside.talk import until
from tests.kernels.inside.tenants import MANY, Tenant, documents, grown
from tests.kernels.inside.wires import ip, namespaces, wire

HERE, THERE = "v-here", "v-there"
TENANTS = {
    vlan: Tenant(f"vlan{vlan}", number, f"here-{vlan}", f"there-{vlan}", THERE, bouncer=bouncer)
    for vlan, number, bouncer in ((100, 21, "here-100"), (200, 22, "there-200"))
}


def address(vlan: int, place: int) -> str:
    return f"172.18.{vlan}.{place}"


@pytest.fixture(scope="module", params=["xdp", "tc"])
def hook(request: pytest.FixtureRequest) -> str:
    """Where all programs run: at tc by a clsact qdisc, as this kernel has no tcx."""
    return str(request.param)


@pytest.fixture(scope="module")
def host(hook: str, tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Iterator[Host]:
    with namespaces(HERE, THERE, *(tenant.inside for tenant in TENANTS.values())):
        wire(THERE, HERE, "eth0", "eth0")
        for vlan, tenant in TENANTS.items():
            for place, namespace in enumerate((HERE, THERE), 1):
                ip(namespace, f"link add link eth0 name eth0.{vlan} type vlan id {vlan}", f"link set eth0.{vlan} up")
                ip(namespace, f"address add {address(vlan, place)}/24 dev eth0.{vlan}")
            tenant.add_device(address(vlan, 1))
        here = {tenant.here: address(vlan, 1) for vlan, tenant in TENANTS.items()}
        elsewhere = {tenant.there: address(vlan, 2) for vlan, tenant in TENANTS.items()}
        interfaces = tuple(f"eth0.{vlan}" for vlan in TENANTS)
        with running_host(HERE, interfaces, ("ipv4",), tmp_path_factory.mktemp("host"), cache, hook=hook) as host:
            host.publish(documents(here, elsewhere, TENANTS.values()))
            for tenant in TENANTS.values():
                if tenant.bouncer != tenant.here:
                    tenant.know_device(tenant.others)
            yield host


def received(vlan: int) -> int:
    """Return how many packets the other host's VLAN interface was handed, which gets those of its tag alone."""
    (link,) = json.loads(ip(THERE, f"-j -s link show eth0.{vlan}"))
    return int(link["stats64"]["rx"]["packets"])


@pytest.mark.parametrize("vlan", TENANTS)
def test_endpoints_converse_through_a_vlan(host: Host, vlan: int) -> None:
    other = next(number for number in TENANTS if number != vlan)
    counters, tagged, others = host.counters(), received(vlan), received(other)
    TENANTS[vlan].talk()
    found = grown(counters, host.counters())
    assert found["sent_direct"] > MANY
    assert found["delivered"] > MANY
    assert received(vlan) - tagged > MANY
    assert received(other) - others < MANY / 2, "neighbours, routers and probes alone"


def test_a_tunnel_packet_in_another_vlan_than_its_droplets_is_not_delivered(host: Host) -> None:
    tenant, target = TENANTS[100], address(100, 1)
    (link,) = json.loads(ip(HERE, "-j link show eth0"))
    ip(THERE, f"neighbour replace {target} lladdr {link['address']} dev eth0.200 nud permanent")
    ip(THERE, f"route add {target}/32 dev eth0.200 src {address(100, 2)}")
    try:
        before = host.counters()
        assert tenant.is_silent()
        assert "delivered" not in grown(before, host.counters())
    finally:
        ip(THERE, f"route delete {target}/32 dev eth0.200", f"neighbour delete {target} dev eth0.200")
    assert tenant.is_answered()


def test_every_packet_is_counted_once(host: Host) -> None:
    until(host.is_balanced, "the balance")
