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
"""In the underlay, by its family."""
FAMILIES = tuple(ADDRESSES)
UNKNOWN, UNKNOWN_CRITICAL = "0x0102:0x11:c0ffee00", "0x0102:0x91:c0ffee00"
"""Geneve options, as CLASS:TYPE:BODY: the type's highest bit is that of critical ones."""
KINDS = {PLAIN: "a device for one VNI and host", ROUTED: "a device with routes"}


def address(namespace: str, family: str) -> str:
    return ADDRESSES[family][namespace].partition("/")[0]


KNOWN = {
    PLAIN: Tenant("plain", 11, HERE, PLAIN, PLAIN, bouncer=HERE),
    ROUTED: Tenant("routed", 12, HERE, ROUTED, ROUTED, bouncer=HERE),
}
"""By kind of device: tenants whose other endpoint is in the agent's documents; their packets carry no option."""
BOUNCING = {
    PLAIN: Tenant("plain-bounces", 13, HERE, PLAIN, PLAIN, bouncer=PLAIN),
    ROUTED: Tenant("routed-bounces", 14, HERE, ROUTED, ROUTED, bouncer=ROUTED),
}
"""Tenants of whose other endpoint the agent knows a bouncer alone, to which packets carry an option."""
TENANTS = (*KNOWN.values(), *BOUNCING.values())


def join(namespace: str, family: str) -> None:
    """Put a host on the underlay."""
    port = namespace.removeprefix("g-")
    wire(FABRIC, namespace, port, "eth0")
    ip(FABRIC, f"link set {port} master br0")
    own = ADDRESSES[family][namespace]
    ip(namespace, f"address add {own} dev eth0 {no_detection(own)}")


def add_devices(family: str) -> None:
    """Give the endpoints elsewhere their devices. Those with routes share one, which encapsulates as routes say."""
    KNOWN[PLAIN].add_device(address(HERE, family), "udpcsum")
    BOUNCING[PLAIN].add_device(address(HERE, family), "noudpcsum")
    device = f"name geneve address {DEVICE_MAC} mtu {DEVICE_MTU}"
    ip(ROUTED, f"link add {device} type geneve external dstport {PORT}", "link set geneve up")
    for made in (KNOWN[ROUTED], BOUNCING[ROUTED]):
        for own in made.others:
            ip(ROUTED, f"address add {own} dev geneve {no_detection(own)}")
        send_with(made, family)
        # ARP requests go as the route says, neighbour solicitations do not: the kernel sends them without a route.
        ip(ROUTED, f"neighbour add {made.addresses[1]} lladdr {made.mac} dev geneve nud permanent")


def send_with(made: Tenant, family: str, *options: str, checksum: bool = True) -> None:
    """Have the packets from elsewhere to the endpoint here carry these Geneve options, and UDP's checksum or none."""
    words = [f"geneve_opts {','.join(options)}"] if options else []
    words += ["csum"] if checksum else []
    encapsulation = "ip6" if family == "ipv6" else "ip"
    tunnel = f"encap {encapsulation} id {made.vni} dst {address(HERE, family)} {' '.join(words)}"
    for own, target in zip(made.others, made.addresses, strict=True):
        ip(ROUTED, f"route replace {target} {tunnel} dev geneve src {own}")


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    """That of the underlay."""
    return str(request.param)


@pytest.fixture(scope="module", params=["xdp", "tc"])
def hook(request: pytest.FixtureRequest) -> str:
    """Where all programs run: at tc by a clsact qdisc, as this kernel has no tcx."""
    return str(request.param)


@pytest.fixture(scope="module")
def host(family: str, hook: str, tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Iterator[Host]:
    if (hook, family) == ("tc", "ipv6"):
        pytest.skip("tc over IPv6 needs Linux 6.3: docs/operations.md, Where programs run")
    here = {HERE: address(HERE, family)}
    elsewhere = {kind: address(kind, family) for kind in KINDS}
    with namespaces(FABRIC, HERE, *KINDS, *(made.inside for made in TENANTS)):
        ip(FABRIC, "link add name br0 type bridge forward_delay 0 mcast_snooping 0", "link set br0 up")
        for namespace in (HERE, *KINDS):
            join(namespace, family)
        add_devices(family)
        with running_host(HERE, ("eth0",), (family,), tmp_path_factory.mktemp("host"), cache, hook=hook) as host:
            host.publish(documents(here, elsewhere, TENANTS))
            BOUNCING[PLAIN].know_device(BOUNCING[PLAIN].others)
            # One with routes sends the option back with ARP's answers, not with those to solicitations.
            BOUNCING[ROUTED].know_device(BOUNCING[ROUTED].others[1:])
            status = host.status()
            where = "clsact" if hook == "tc" else hook
            assert (status.endpoint_hook, [one.hook for one in status.uplinks]) == (where, [where])
            for made in KNOWN.values():
                until(made.is_answered, f"the first answers of {made.name}")
            yield host


@pytest.mark.parametrize("kind", KINDS, ids=KINDS.get)
def test_a_device_that_is_known_by_documents_gets_and_sends_packets_without_options(host: Host, kind: str) -> None:
    before = host.counters()
    KNOWN[kind].talk()
    found = grown(before, host.counters())
    assert found["sent_direct"] > MANY
    assert found["delivered"] > MANY
    assert "sent_to_bouncer" not in found


@pytest.mark.parametrize("kind", KINDS, ids=KINDS.get)
def test_a_kernel_geneve_device_as_the_bouncer_accepts_the_return_to_sender_option(host: Host, kind: str) -> None:
    made, before = BOUNCING[kind], host.counters()
    until(made.is_answered, "the first answers")
    made.talk()
    found = grown(before, host.counters())
    assert found["sent_to_bouncer"] > 0, "the first packets carry the option"
    assert found["sent_direct"] > MANY, "those that follow an answer do not"
    assert found["delivered"] > MANY


@pytest.mark.parametrize("count", [1, 3])
def test_unknown_options_of_the_device_are_skipped(host: Host, family: str, count: int) -> None:
    made = KNOWN[ROUTED]
    send_with(made, family, *[UNKNOWN] * count)
    before = host.counters()
    made.talk()
    found = grown(before, host.counters())
    assert found["delivered"] > MANY
    assert "critical_option" not in found


def test_unknown_critical_options_of_the_device_are_dropped_and_counted(host: Host, family: str) -> None:
    made = KNOWN[ROUTED]
    send_with(made, family, UNKNOWN, UNKNOWN_CRITICAL)
    before = host.counters()
    assert made.is_silent()
    found = grown(before, host.counters())
    assert found["critical_option"] >= 6, "three echo requests by either family"
    assert "delivered" not in found
    send_with(made, family)
    until(made.is_answered, "the answers to packets without options")


def test_packets_of_the_device_without_checksum_are_accepted_only_over_ipv4(host: Host, family: str) -> None:
    """RFC 6936: over IPv6 only where the other droplet is configured for it, which this one is not."""
    made = KNOWN[ROUTED]
    send_with(made, family, checksum=False)
    before = host.counters()
    if family == "ipv4":
        assert made.is_answered()
    else:
        assert made.is_silent()
        found = grown(before, host.counters())
        assert found["no_checksum"] >= 6
        assert "delivered" not in found
    send_with(made, family)
    until(made.is_answered, "the answers to packets with a checksum")


def test_every_packet_is_counted_once(host: Host) -> None:
    until(host.is_balanced, "the balance")
