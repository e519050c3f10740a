"""A bond of two interfaces as the droplet: traffic goes on when a member fails, comes back to it, or is replaced.

The agent compares with the kernel once an hour: all that it does here follows from netlink events.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernels.inside.host import Host, running_host
from tests.kernels.inside.talk import exchange_udp, unbroken_conversation, until
from tests.kernels.inside.tenants import MANY, Tenant, documents, grown
from tests.kernels.inside.wires import ip, namespaces, wire

HERE, THERE = "b-here", "b-there"
ADDRESS = {HERE: "172.18.0.1", THERE: "172.18.0.2"}
TENANT = Tenant("bonded", 31, HERE, THERE, THERE, bouncer=HERE)
MEMBERS = ("eth0", "eth1")
ANOTHER = "eth2"
SELDOM = 3600.0


def add_bond(namespace: str, mode: str) -> None:
    ip(namespace, f"link add name bond0 type bond {mode} miimon 100")
    for member in MEMBERS:
        ip(namespace, f"link set {member} down", f"link set {member} master bond0")
    ip(namespace, "link set bond0 up")


def add_switch(namespace: str) -> None:
    """Have a bridge as what is on the other side of a bond of which one member is in use."""
    ip(namespace, "link add name bond0 type bridge forward_delay 0", "link set bond0 up")
    for member in MEMBERS:
        ip(namespace, f"link set {member} master bond0")


@pytest.fixture(scope="module", params=["active-backup", "balance-xor"])
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module", params=["xdp", "tc"])
def hook(request: pytest.FixtureRequest) -> str:
    """Where all programs run: at tc by a clsact qdisc, as this kernel has no tcx."""
    return str(request.param)


@pytest.fixture(scope="module")
def host(mode: str, hook: str, tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Iterator[Host]:
    with namespaces(HERE, THERE, TENANT.inside):
        for member in MEMBERS:
            wire(THERE, HERE, member, member)
        if mode == "active-backup":
            add_bond(HERE, "mode active-backup")
            add_switch(THERE)
        else:
            add_bond(HERE, "mode balance-xor xmit_hash_policy layer3+4")
            add_bond(THERE, "mode balance-xor xmit_hash_policy layer3+4")
        for namespace, address in ADDRESS.items():
            ip(namespace, f"address add {address}/24 dev bond0")
        TENANT.add_device(ADDRESS[HERE])
        with running_host(HERE, ("bond0",), ("ipv4",), tmp_path_factory.mktemp("host"), cache, SELDOM, hook) as host:
            host.publish(documents({HERE: ADDRESS[HERE]}, {THERE: ADDRESS[THERE]}, [TENANT]))
            yield host


def join(namespace: str, member: str) -> None:
    """Make an interface a member of the bond or, where that is a bridge, a port of it; it is up afterwards."""
    ip(namespace, f"link set {member} down", f"link set {member} master bond0", f"link set {member} up")


def received(member: str) -> int:
    """Return how many packets the other host got by one of the cables."""
    (link,) = json.loads(ip(THERE, f"-j -s link show {member}"))
    return int(link["stats64"]["rx"]["packets"])


def test_losses_after_the_verdict_are_counted_on_a_bond(host: Host) -> None:
    """All that follows happens with the programs on XDP's tracepoints attached."""
    assert host.status().losses_unknown == ""


def test_endpoints_converse_through_a_bond(host: Host) -> None:
    before = host.counters()
    TENANT.talk()
    found = grown(before, host.counters())
    assert found["sent_direct"] > MANY
    assert found["delivered"] > MANY


def test_flows_are_spread_over_the_members_by_the_bonds_mode(host: Host, mode: str) -> None:
    before = {member: received(member) for member in MEMBERS}
    for _ in range(16):
        exchange_udp(TENANT.inside, TENANT.outside, TENANT.others[0], [100] * 4)
    used = [member for member in MEMBERS if received(member) - before[member] >= 4]
    assert len(used) == (1 if mode == "active-backup" else 2)


@pytest.mark.parametrize("member", MEMBERS)
def test_a_connection_lasts_when_a_member_fails_and_when_it_comes_back(host: Host, member: str) -> None:
    """The cable fails on the other side: this host sees its carrier go."""
    with unbroken_conversation(TENANT.inside, TENANT.outside, TENANT.others[0]) as conversation:
        conversation.wait_for_more()
        ip(THERE, f"link set {member} down")
        try:
            conversation.wait_for_more()
            until(TENANT.is_answered, "the answers by the other member")
            TENANT.talk()
        finally:
            ip(THERE, f"link set {member} up")
        conversation.wait_for_more()
    until(TENANT.is_answered, "the answers with both members")


@contextlib.contextmanager
def only(members: tuple[str, ...], *used: str) -> Iterator[None]:
    """Have some of the cables fail, on the other side, for the time of a block."""
    failing = [member for member in members if member not in used]
    ip(THERE, *(f"link set {member} down" for member in failing))
    try:
        yield
    finally:
        ip(THERE, *(f"link set {member} up" for member in failing))


def test_an_added_member_is_used_and_a_removed_one_loses_no_traffic(host: Host) -> None:
    wire(THERE, HERE, ANOTHER, ANOTHER)
    join(THERE, ANOTHER)
    join(HERE, ANOTHER)
    with only((*MEMBERS, ANOTHER), ANOTHER):
        until(TENANT.is_answered, "the answers by the new member")
        TENANT.talk()
    ip(HERE, f"link delete {ANOTHER}")
    until(TENANT.is_answered, "the answers by the members that stay")
    TENANT.talk()


def test_a_member_is_replaced_by_another_of_its_name(host: Host) -> None:
    ip(HERE, "link delete eth0")
    wire(THERE, HERE, "eth0", "eth0")
    join(THERE, "eth0")
    join(HERE, "eth0")
    with only(MEMBERS, "eth0"):
        until(TENANT.is_answered, "the answers by the member in the place of another")
        TENANT.talk()
    until(TENANT.is_answered, "the answers with both members")


def test_every_packet_is_counted_once(host: Host) -> None:
    until(host.is_balanced, "the balance")
