"""The kernel's own Geneve device as another host: known by documents or as bouncer, with options or without."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernels.inside.host import Host, running_host
from tests.kernels.inside.talk import until
from tests.kernels.inside.tenants import (
    DEVICE_MAC,
    DEVICE_MTU,
    MANY,
    PORT,
    Tenant,
    documents,
    grown,
    no_detection,
)
from tests.kernels.inside.wires import ip, namespaces, wire

FABRIC = "g-fabric"
HERE, PLAIN, ROUTED = "g-here", "g-plain", "g-routed"
"""The host with the agent, one with a Geneve device per VPC, and one whose device sends what routes say."""
ADDRESSES = {
    "ipv4": {HERE: "172.18.0.1/24", PLAIN: "172.18.0.2/24", ROUTED: "172.18.0.3/24"},
    "ipv6": {HERE: "fd18::1/64", PLAIN: "fd18::2/64", ROUTED: "fd18::3/64"},
}
"""In the substrate, where each host is a droplet for either family."""
FAMILIES = tuple(ADDRESSES)
UNKNOWN, UNKNOWN_CRITICAL = "0x0102:0x11:c0ffee00", "0x0102:0x91:c0ffee00"
"""Geneve options, as CLASS:TYPE:BODY: the type's highest bit is that of critical ones."""
KINDS = {PLAIN: "a device for one VNI and host", ROUTED: "a device with routes"}


def droplet(namespace: str, family: str) -> str:
    return f"{namespace}-{family}"


def address(namespace: str, family: str) -> str:
    return ADDRESSES[family][namespace].partition("/")[0]


def tenant(family: str, kind: str, bouncer: str) -> Tenant:
    """Return a tenant whose tunnels are of a family, with a kind of device elsewhere, and the host that bounces."""
    vni = 11 + FAMILIES.index(family) * 4 + (kind == ROUTED) * 2 + (bouncer != HERE)
    here, there = droplet(HERE, family), droplet(kind, family)
    return Tenant(f"{kind}-{family}-{vni}", vni, here, there, kind, droplet(bouncer, family))


KNOWN = {(family, kind): tenant(family, kind, HERE) for family in FAMILIES for kind in KINDS}
BOUNCING = {(family, kind): tenant(family, kind, kind) for family in FAMILIES for kind in KINDS}
TENANTS = (*KNOWN.values(), *BOUNCING.values())


def join(namespace: str) -> None:
    """Put a host on the substrate."""
    port = namespace.removeprefix("g-")
    wire(FABRIC, namespace, port, "eth0")
    ip(FABRIC, f"link set {port} master br0")
    for by_host in ADDRESSES.values():
        ip(namespace, f"address add {by_host[namespace]} dev eth0 {no_detection(by_host[namespace])}")


def add_devices() -> None:
    """Give the endpoints elsewhere their devices. Those with routes share one, which encapsulates as routes say."""
    for by_kind in (KNOWN, BOUNCING):
        for family in FAMILIES:
            by_kind[family, PLAIN].add_device(address(HERE, family), "udpcsum" if by_kind is KNOWN else "noudpcsum")
    device = f"name geneve address {DEVICE_MAC} mtu {DEVICE_MTU}"
    ip(ROUTED, f"link add {device} type geneve external dstport {PORT}", "link set geneve up")
    for (family, kind), made in (*KNOWN.items(), *BOUNCING.items()):
        if kind == ROUTED:
            for own in made.others:
                ip(ROUTED, f"address add {own} dev geneve {no_detection(own)}")
            send_with(made, family)


def send_with(made: Tenant, family: str, *options: str, checksum: bool = True) -> None:
    """Have the packets from elsewhere to the endpoint here carry these Geneve options, and UDP's checksum or none."""
    words = [f"geneve_opts {','.join(options)}"] if options else []
    words += ["csum"] if checksum else []
    encapsulation = "ip6" if family == "ipv6" else "ip"
    tunnel = f"encap {encapsulation} id {made.vni} dst {address(HERE, family)} {' '.join(words)}"
    for own, target in zip(made.others, made.addresses, strict=True):
        ip(ROUTED, f"route replace {target} {tunnel} dev geneve src {own}")


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Iterator[Host]:
    here = {droplet(HERE, family): address(HERE, family) for family in FAMILIES}
    elsewhere = {droplet(kind, family): address(kind, family) for family in FAMILIES for kind in KINDS}
    with namespaces(FABRIC, HERE, *KINDS, *(made.inside for made in TENANTS)):
        ip(FABRIC, "link add name br0 type bridge forward_delay 0 mcast_snooping 0", "link set br0 up")
        for namespace in (HERE, *KINDS):
            join(namespace)
        add_devices()
        with running_host(HERE, ("eth0",), tmp_path_factory.mktemp("host"), cache) as host:
            host.publish(documents(here, elsewhere, TENANTS))
            for made in KNOWN.values():
                until(made.is_answered, f"the first answers of {made.name}")
            yield host


@pytest.mark.parametrize("kind", KINDS, ids=KINDS.get)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_device_that_is_known_by_documents_gets_and_sends_packets_without_options(
    host: Host, family: str, kind: str
) -> None:
    before = host.counters()
    KNOWN[family, kind].talk()
    found = grown(before, host.counters())
    assert found["sent_direct"] > MANY
    assert found["delivered"] > MANY
    assert "sent_to_bouncer" not in found


@pytest.mark.parametrize("kind", KINDS, ids=KINDS.get)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_device_that_is_the_bouncer_takes_the_return_to_sender_option(host: Host, family: str, kind: str) -> None:
    made, before = BOUNCING[family, kind], host.counters()
    until(made.is_answered, "the first answers")
    made.talk()
    found = grown(before, host.counters())
    assert found["sent_to_bouncer"] > 0, "the first packets carry the option"
    assert found["sent_direct"] > MANY, "those that follow an answer do not"
    assert found["delivered"] > MANY


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("family", FAMILIES)
def test_unknown_options_of_the_device_are_skipped(host: Host, family: str, count: int) -> None:
    made = KNOWN[family, ROUTED]
    send_with(made, family, *[UNKNOWN] * count)
    before = host.counters()
    made.talk()
    found = grown(before, host.counters())
    assert found["delivered"] > MANY
    assert "critical_option" not in found


@pytest.mark.parametrize("family", FAMILIES)
def test_unknown_critical_options_of_the_device_are_dropped_and_counted(host: Host, family: str) -> None:
    made = KNOWN[family, ROUTED]
    send_with(made, family, UNKNOWN, UNKNOWN_CRITICAL)
    before = host.counters()
    assert made.is_silent()
    found = grown(before, host.counters())
    assert found["critical_option"] >= 6, "three echo requests by either family"
    assert "delivered" not in found
    send_with(made, family)
    until(made.is_answered, "the answers to packets without options")


def test_a_device_that_leaves_the_checksum_out_over_ipv6_is_not_heard(host: Host) -> None:
    """RFC 6936: only where the other droplet is configured for it, which this one is not."""
    made = KNOWN["ipv6", ROUTED]
    send_with(made, "ipv6", checksum=False)
    before = host.counters()
    assert made.is_silent()
    found = grown(before, host.counters())
    assert found["no_checksum"] >= 6
    assert "delivered" not in found
    send_with(made, "ipv6")
    until(made.is_answered, "the answers to packets with a checksum")


def test_every_packet_is_counted_once(host: Host) -> None:
    until(host.is_balanced, "the balance")
