"""The kernel's own Geneve device as another host: known by documents or as bouncer, with options or without."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernels.inside.host import Host, running_host
from tests.kernels.inside.talk import ping, until
from tests.kernels.inside.tenants import DEVICE_MAC, DEVICE_MTU, MANY, PORT, Tenant, documents, grown
from tests.kernels.inside.wires import ip, namespaces, wire

FABRIC = "g-fabric"
HERE, PLAIN, OPTIONS = "g-here", "g-plain", "g-options"
"""The host with the agent, one with a Geneve device per VPC, and one whose device sends what routes say."""
ADDRESS = {HERE: "172.18.0.1", PLAIN: "172.18.0.2", OPTIONS: "172.18.0.3"}
UNKNOWN, UNKNOWN_CRITICAL = "0x0102:0x11:c0ffee00", "0x0102:0x91:c0ffee00"
"""Geneve options, as CLASS:TYPE:BODY: the type's highest bit is that of critical ones."""

KNOWN = Tenant("known", 11, HERE, PLAIN, PLAIN, bouncer=HERE)
BOUNCED = Tenant("bounced", 12, HERE, PLAIN, PLAIN, bouncer=PLAIN)
ROUTED = Tenant("routed", 13, HERE, OPTIONS, OPTIONS, bouncer=HERE)
ROUTED_BOUNCED = Tenant("both", 14, HERE, OPTIONS, OPTIONS, bouncer=OPTIONS)
TENANTS = (KNOWN, BOUNCED, ROUTED, ROUTED_BOUNCED)
KINDS = ["a device for one VNI and host", "a device with routes"]


def join(namespace: str) -> None:
    """Put a host on the substrate."""
    port = namespace.removeprefix("g-")
    wire(FABRIC, namespace, port, "eth0")
    ip(FABRIC, f"link set {port} master br0")
    ip(namespace, f"address add {ADDRESS[namespace]}/24 dev eth0")


def add_device_with_routes(*tenants: Tenant) -> None:
    """Give endpoints elsewhere one device, which encapsulates as routes say."""
    device = f"name geneve address {DEVICE_MAC} mtu {DEVICE_MTU}"
    ip(OPTIONS, f"link add {device} type geneve external dstport {PORT}", "link set geneve up")
    for tenant in tenants:
        ip(OPTIONS, f"address add {tenant.other}/32 dev geneve")
        send_with(tenant)


def send_with(tenant: Tenant, *options: str) -> None:
    """Have the packets from elsewhere to the endpoint here carry these Geneve options."""
    given = f"geneve_opts {','.join(options)}" if options else ""
    tunnel = f"encap ip id {tenant.vni} dst {ADDRESS[HERE]} {given}"
    ip(OPTIONS, f"route replace {tenant.address}/32 {tunnel} dev geneve src {tenant.other}")


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Iterator[Host]:
    elsewhere = {name: ADDRESS[name] for name in (PLAIN, OPTIONS)}
    with namespaces(FABRIC, *ADDRESS, *(tenant.inside for tenant in TENANTS)):
        ip(FABRIC, "link add name br0 type bridge forward_delay 0", "link set br0 up")
        for namespace in ADDRESS:
            join(namespace)
        KNOWN.add_device(ADDRESS[HERE], "udpcsum")
        BOUNCED.add_device(ADDRESS[HERE], "noudpcsum")
        add_device_with_routes(ROUTED, ROUTED_BOUNCED)
        with running_host(HERE, ("eth0",), tmp_path_factory.mktemp("host"), cache) as host:
            host.publish(documents({HERE: ADDRESS[HERE]}, elsewhere, TENANTS))
            yield host


@pytest.mark.parametrize("tenant", [KNOWN, ROUTED], ids=KINDS)
def test_a_device_that_is_known_by_documents_gets_and_sends_packets_without_options(host: Host, tenant: Tenant) -> None:
    before = host.counters()
    tenant.talk()
    found = grown(before, host.counters())
    assert found["sent_direct"] > MANY
    assert found["delivered"] > MANY
    assert "sent_to_bouncer" not in found


@pytest.mark.parametrize("tenant", [BOUNCED, ROUTED_BOUNCED], ids=KINDS)
def test_a_device_that_is_the_bouncer_takes_the_return_to_sender_option(host: Host, tenant: Tenant) -> None:
    before = host.counters()
    tenant.talk()
    found = grown(before, host.counters())
    assert found["sent_to_bouncer"] > 0, "the first packets carry the option"
    assert found["sent_direct"] > MANY, "those that follow an answer do not"
    assert found["delivered"] > MANY


@pytest.mark.parametrize("count", [1, 3])
def test_unknown_options_of_the_device_are_skipped(host: Host, count: int) -> None:
    send_with(ROUTED, *[UNKNOWN] * count)
    before = host.counters()
    ROUTED.talk()
    found = grown(before, host.counters())
    assert found["delivered"] > MANY
    assert "critical_option" not in found


def test_unknown_critical_options_of_the_device_are_dropped_and_counted(host: Host) -> None:
    send_with(ROUTED, UNKNOWN, UNKNOWN_CRITICAL)
    before = host.counters()
    assert ping(OPTIONS, ROUTED.address) == 0
    found = grown(before, host.counters())
    assert found["critical_option"] >= 3
    assert "delivered" not in found
    send_with(ROUTED)
    assert ping(OPTIONS, ROUTED.address) == 3


def test_every_packet_is_counted_once(host: Host) -> None:
    until(host.is_balanced, "the balance")
