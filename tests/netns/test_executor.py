"""Plans carried out on the real kernel: what is done, what is refused, and that one refusal stops nothing else."""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import socket
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from lab.echoes import answered
from lab.waiting import many_turns

from agent.core.model.map_layout import (
    DIRECT_PATH,
    ENDPOINT,
    GENERATION,
    GENERATION_OF,
    OVERLAY_KEY,
    U32,
    MapName,
    mapped,
    network_key,
)
from agent.core.plan.actions import (
    AttachTransit,
    DeleteEntries,
    DeleteVeth,
    DetachTransit,
    EnsureVeth,
    PutEntries,
)
from agent.datapath.attach.xdp import AttachMode, attach
from agent.datapath.bpf.generations import Generations
from agent.datapath.executor import AT_ONCE
from agent.datapath.kernel import Kernel
from agent.datapath.net.namespaces import in_namespace, opened_namespace
from agent.datapath.net.netlink import Netlink
from tests.netns.capabilities import CAP_NET_ADMIN, without_capability
from tests.netns.conftest import Topo, ip, ip_json, run
from tests.netns.programs import loaded, owning
from tests.netns.tenants import endpoint_actions, endpoint_veth, host_actions


def socket_in(namespace: str) -> socket.socket:
    with opened_namespace(namespace) as descriptor:
        made = in_namespace(descriptor, lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM))
    made.setblocking(False)
    return made


async def transfer(sender: str, receiver: str, address: str, data: bytes) -> bytes:
    """Send the data over TCP from one namespace to another and return what arrived."""
    loop = asyncio.get_running_loop()
    with socket_in(receiver) as listening, socket_in(sender) as sending:
        listening.bind((address, 7000))
        listening.listen()
        await loop.sock_connect(sending, (address, 7000))
        accepted, _ = await loop.sock_accept(listening)
        with accepted:
            writing = asyncio.create_task(loop.sock_sendall(sending, data))
            arrived = bytearray()
            while len(arrived) < len(data):
                arrived += await loop.sock_recv(accepted, 1 << 18)
            await writing
    return bytes(arrived)


async def two_endpoints(kernel: Kernel, topo: Topo) -> tuple[str, str]:
    spaces = topo.endpoint_namespace(), topo.endpoint_namespace()
    actions = host_actions((await kernel.uplinks())[0])
    for number, namespace in enumerate(spaces):
        veth = endpoint_veth(kernel.config.instance, namespace, f"e{number}", 10 + number)
        actions += endpoint_actions(veth)
    assert await kernel.executor.run(actions) == []
    return spaces


async def test_two_endpoints_of_one_droplet_reach_one_another_and_their_gateway(kernel: Kernel, topo: Topo) -> None:
    left, right = await two_endpoints(kernel, topo)
    for namespace, target in ((left, "10.1.0.11"), (right, "10.1.0.10"), (left, "10.1.0.1")):
        assert answered(namespace, target, 2, 5) == 2
    outcomes = kernel.queries.read_outcomes()
    assert outcomes["delivered_same_host"].packets >= 8
    counters = kernel.queries.read_endpoint_counters([10, 11])
    assert counters[10].delivered.packets >= 4
    assert counters[11].sent.packets >= 4
    kernel.clear_endpoint_counters(10)
    assert kernel.queries.read_endpoint_counters([10])[10].delivered.packets == 0


async def test_a_tcp_transfer_between_them_arrives_whole(kernel: Kernel, topo: Topo) -> None:
    left, right = await two_endpoints(kernel, topo)
    data = os.urandom(5_000_000)
    async with asyncio.timeout(30):
        assert await transfer(left, right, "10.1.0.11", data) == data
        assert await transfer(right, left, "10.1.0.10", data) == data


async def test_a_refused_endpoint_does_not_affect_others_and_has_a_remedy(kernel: Kernel, topo: Topo) -> None:
    good = endpoint_veth(kernel.config.instance, topo.endpoint_namespace(), "good", 10)
    bad = endpoint_veth(kernel.config.instance, "no-such-namespace", "bad", 11)
    actions = [*host_actions((await kernel.uplinks())[0]), *endpoint_actions(bad), *endpoint_actions(good)]
    (failure,) = await kernel.executor.run(actions)
    assert failure.action == EnsureVeth(bad)
    assert failure.errno == errno.ENOENT
    assert failure.object == "interface eth0 of endpoint bad in namespace no-such-namespace"
    assert "create it" in failure.message
    observed = await kernel.observe({"good": good.namespace})
    assert observed.veths["good"].complete
    assert len(observed.maps[MapName.ENDPOINTS]) == 2


async def test_a_full_map_refuses_by_key_and_accepts_the_rest(kernel: Kernel) -> None:
    value = ENDPOINT.pack(bytes(16), 0, 0, 0, bytes(6))
    entries = tuple((OVERLAY_KEY.pack(1, n.to_bytes(16, "big")), value) for n in range(1200))
    (failure,) = await kernel.executor.run([PutEntries(MapName.ENDPOINTS, entries)])
    assert failure.errno == errno.E2BIG
    assert failure.object == "map endpoints"
    assert "raise its size" in failure.message
    held = kernel.maps[MapName.ENDPOINTS].dump()
    assert set(failure.keys) == {key for key, _ in entries} - held.keys()
    assert len(held) == 1000


async def test_removing_a_droplet_deletes_the_paths_to_it(kernel: Kernel) -> None:
    gone, stays = (mapped(bytes([10, 77, 0, n])) for n in (8, 9))
    paths = {
        OVERLAY_KEY.pack(1, bytes([n] * 16)): DIRECT_PATH.pack(host, 0, 1, 1) for n, host in ((1, gone), (2, stays))
    }
    assert await kernel.executor.run([PutEntries(MapName.DIRECT, tuple(paths.items()))]) == []
    assert await kernel.executor.run([DeleteEntries(MapName.DROPLETS, (gone,))]) == []
    assert list(kernel.maps[MapName.DIRECT].dump()) == [OVERLAY_KEY.pack(1, bytes([2] * 16))]


async def test_every_change_of_a_copied_map_starts_its_generation_and_no_other(kernel: Kernel) -> None:
    """Programs hold copies of its entries, also after an agent was killed between a change and its generation."""

    def generations() -> dict[MapName, int]:
        found = kernel.maps[MapName.GENERATIONS]
        values = {name: found.lookup(U32.pack(index)) for name, index in GENERATION_OF.items()}
        return {name: GENERATION.unpack(value or b"")[0] for name, value in values.items()}

    opened = generations()
    assert all(opened.values()), "opening the maps starts generations"
    for name in GENERATION_OF:
        one = kernel.maps[name]
        key, value = bytes(one.info.key_size), bytes(one.info.value_size)
        for change in (lambda m=one, e=(key, value): m.put([e]), lambda m=one, k=key: m.delete([k])):
            before = generations()
            assert change() == []
            after = generations()
            assert after[name] > before.pop(name)
            assert {other: after[other] for other in before} == before


@pytest.mark.parametrize("entries", [1, 100], ids=["singly", "by batch"])
async def test_a_generation_starts_after_the_change(kernel: Kernel, entries: int) -> None:
    """Else a program could copy the old entry into the new generation."""
    one = kernel.maps[MapName.ENDPOINTS]
    keys = [OVERLAY_KEY.pack(1, number.to_bytes(16, "big")) for number in range(entries)]
    found: list[set[bytes]] = []
    started = one.changed

    def changed() -> None:
        found.append(set(one.dump()))
        started()

    one.changed = changed
    assert one.put([(key, bytes(ENDPOINT.size)) for key in keys]) == []
    assert one.delete(keys) == []
    assert found == [set(keys), set()]


async def test_a_generation_is_new_where_the_clock_is_coarse(kernel: Kernel) -> None:
    generations, key = kernel.maps[MapName.GENERATIONS], U32.pack(0)
    coarse = Generations(generations.descriptor, clock=lambda: 1)
    values = []
    for _ in range(3):
        coarse.start(0)
        values.append(GENERATION.unpack(generations.lookup(key) or b"")[0])
    assert values == sorted(set(values))


async def test_deleting_what_is_not_there_is_no_failure(kernel: Kernel) -> None:
    actions = [
        DeleteEntries(MapName.ENDPOINTS, (bytes(20),)),
        DeleteEntries(MapName.INTERFACES, tuple(U32.pack(n) for n in range(50))),
        DeleteVeth("web", 0x40000999),
        DetachTransit((await kernel.uplinks())[0].carrier),
        DetachTransit(0x40000999),
    ]
    assert await kernel.executor.run(actions) == []


async def test_removals_leave_nothing(kernel: Kernel, topo: Topo) -> None:
    left, _ = await two_endpoints(kernel, topo)
    (uplink,) = await kernel.uplinks()
    before = await kernel.observe({})
    actions = [DeleteEntries(name, tuple(before.maps[name])) for name in (MapName.ENDPOINTS, MapName.INTERFACES)]
    actions += [DeleteVeth(one.endpoint, one.ifindex) for one in before.veths.values()]
    actions.append(DetachTransit(uplink.carrier))
    assert await kernel.executor.run(actions) == []
    after = await kernel.observe({})
    assert after.veths == {}
    assert not after.uplinks[0].transit
    assert after.maps[MapName.ENDPOINTS] == after.maps[MapName.INTERFACES] == {}
    assert [link["ifname"] for link in ip_json("link", "show", namespace=left)] == ["lo"]


async def test_another_owners_program_on_the_interface_is_a_failure_and_stays(kernel: Kernel, topo: Topo) -> None:
    index = topo.ifindex("eth0")
    with loaded("stranger") as stranger:
        async with Netlink() as netlink:
            await attach(netlink, index, stranger, owning(stranger), AttachMode.NATIVE)
        (failure,) = await kernel.executor.run([AttachTransit(index)])
        (kept,) = await kernel.executor.run([DetachTransit(index)])
        assert failure.errno == kept.errno == errno.EEXIST
        expected = (
            f"another owner's XDP program {stranger.name} (id {stranger.program_id}) is attached to eth0: detach it "
        )
        expected += "(ip link set dev eth0 xdpdrv off) if nothing needs it, or use another interface"
        assert failure.message == kept.message == expected
        assert ip_json("link", "show", "eth0")[0]["xdp"]["prog"]["name"] == "stranger"


async def test_the_hosts_own_namespace_is_refused_with_a_complete_message(kernel: Kernel) -> None:
    veth = endpoint_veth(kernel.config.instance, "/proc/self/ns/net", "own", 10)
    (failure,) = await kernel.executor.run([EnsureVeth(veth)])
    assert failure.errno == errno.EPERM
    assert failure.message == (
        "this is the host's own network namespace: an endpoint needs one of its tenant's: /proc/self/ns/net"
    )


async def test_a_missing_interface_is_a_failure(kernel: Kernel) -> None:
    ip("link", "del", "eth0")
    (failure,) = await kernel.executor.run([AttachTransit(0x40000999)])
    assert failure.errno == errno.ENODEV


async def test_an_invalid_name_is_a_failure(kernel: Kernel, topo: Topo) -> None:
    veth = endpoint_veth(kernel.config.instance, topo.endpoint_namespace(), "e0", 10)
    for bad in (replace(veth, peer_name="no/slash"), replace(veth, mtu=20), replace(veth, namespace="../x")):
        (failure,) = await kernel.executor.run([EnsureVeth(bad)])
        assert failure.errno in (errno.EINVAL, errno.ENODEV, errno.ERANGE)
    assert await kernel.executor.run([EnsureVeth(veth)]) == []


async def test_a_cancelled_change_of_many_entries_ends_before_its_caller(kernel: Kernel, monkeypatch) -> None:
    """A thread that went on would write through descriptors that `close` has given back."""
    table, going, may_end = kernel.maps[MapName.ENDPOINTS], threading.Event(), threading.Event()

    def slow(entries: object) -> list:
        going.set()
        may_end.wait()
        return []

    monkeypatch.setattr(table, "put", slow)
    action = PutEntries(MapName.ENDPOINTS, ((b"", b""),) * (AT_ONCE + 1))
    running = asyncio.create_task(kernel.executor.run([action]))
    try:
        await asyncio.to_thread(going.wait)
        for _ in range(2):
            running.cancel()
            await many_turns()
            assert not running.done()
    finally:
        may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await running


def sysctl(namespace: str, *settings: str) -> None:
    run("nsenter", f"--net=/run/netns/{namespace}", "sysctl", "-qw", *settings)


def dual(topo: Topo, kernel: Kernel, slot: int = 10):
    veth = endpoint_veth(kernel.config.instance, topo.endpoint_namespace(), f"e{slot}", slot)
    return replace(veth, addresses=(*veth.addresses, f"fd00::{slot}/64"), gateways=("10.1.0.1", "fd00::1"))


async def refusal(kernel: Kernel, veth) -> tuple[str, str]:
    """Return the errno's name and the text of the one failure, which is never the kernel's words alone."""
    (failure,) = await kernel.executor.run([EnsureVeth(veth)])
    name = errno.errorcode[failure.errno]
    assert failure.message != os.strerror(failure.errno)
    assert failure.message.count(f"({name})") <= 1
    return name, failure.message


async def test_a_namespace_without_ipv6_says_how_to_enable_it(kernel: Kernel, topo: Topo) -> None:
    """Before the pair is made, and while it is in use. What the text says to do helps."""
    veth = dual(topo, kernel)
    off, on = ([f"net.ipv6.conf.{scope}.disable_ipv6={n}" for scope in ("all", "default")] for n in (1, 0))
    for _ in range(2):
        sysctl(veth.namespace, *off)
        name, message = await refusal(kernel, veth)
        assert name == "EACCES"
        assert f" (EACCES) while adding address fd00::10/64 to eth0 in namespace {veth.namespace}: IPv6 is " in message
        assert "disabled for the interface in its namespace: enable it there" in message
        assert " ".join(on) in message
        sysctl(veth.namespace, *on)
        assert await kernel.executor.run([EnsureVeth(veth)]) == []


async def test_an_mtu_too_small_for_ipv6_is_reported(kernel: Kernel, topo: Topo) -> None:
    name, message = await refusal(kernel, replace(dual(topo, kernel), mtu=1000))
    assert name == "EINVAL"
    assert "while adding address fd00::10/64" in message
    assert "MTU below 1280" in message


async def test_an_interface_in_a_bond_or_bridge_is_reported_with_a_remedy(kernel: Kernel, topo: Topo) -> None:
    """Another owner's pair has the endpoint's name or its ifindex."""
    veth = dual(topo, kernel)
    ip("link", "add", "eth0", "type", "bridge", namespace=veth.namespace)
    name, message = await refusal(kernel, veth)
    assert (name, "rename that interface" in message) == ("EEXIST", True)
    ip("link", "add", "theirs", "index", str(veth.ifindex), "type", "veth", "peer", "name", "theirs2")
    name, message = await refusal(kernel, veth)
    assert (name, "held by theirs" in message and "remove that interface" in message) == ("EEXIST", True)


async def test_an_ethernet_address_that_the_kernel_refuses_is_reported(kernel: Kernel, topo: Topo) -> None:
    name, message = await refusal(kernel, replace(dual(topo, kernel), peer_mac=bytes.fromhex("010000000001")))
    assert name in ("EADDRNOTAVAIL", "EINVAL")
    assert "Ethernet address" in message
    assert "the document" in message


async def test_an_invalid_gateway_is_reported(kernel: Kernel, topo: Topo) -> None:
    """The namespace's own address: the kernel calls that an invalid gateway."""
    veth = dual(topo, kernel)
    name, message = await refusal(kernel, replace(veth, gateways=("10.1.0.10",)))
    assert name in ("EINVAL", "ENETUNREACH", "EHOSTUNREACH")
    assert f"while adding the default route by 10.1.0.10 in namespace {veth.namespace}: " in message
    assert "gateway" in message


async def test_a_missing_process_is_reported(kernel: Kernel, topo: Topo) -> None:
    name, message = await refusal(kernel, replace(dual(topo, kernel), namespace="4194303"))
    assert (name, "there is no such namespace" in message) == ("ENOENT", True)


async def test_a_full_prefix_map_is_reported_with_the_setting_to_enlarge_it(kernel: Kernel) -> None:
    size = kernel.maps[MapName.NETWORKS].info.max_entries
    value = bytes(kernel.maps[MapName.NETWORKS].info.value_size)
    entries = tuple((network_key(n, bytes(4), 0), value) for n in range(size + 1))
    (failure,) = await kernel.executor.run([PutEntries(MapName.NETWORKS, entries)])
    assert failure.errno == errno.ENOSPC
    assert "while writing to map networks: the map is full: raise its size" in failure.message


async def test_without_privileges_the_text_names_them(kernel: Kernel, topo: Topo) -> None:
    """The kernel's own EPERM: the thread gives up what it may do with networks."""
    veth = dual(topo, kernel)
    with without_capability(CAP_NET_ADMIN):
        name, message = await refusal(kernel, veth)
    assert name == "EPERM"
    assert "CAP_NET_ADMIN" in message
    assert await kernel.executor.run([EnsureVeth(veth)]) == []


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_a_host_without_descriptors_says_which_limit(kernel: Kernel, topo: Topo) -> None:
    veth = dual(topo, kernel)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (open_descriptors() - 1, hard))
    try:
        name, message = await refusal(kernel, veth)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert (name, "LimitNOFILE" in message) == ("EMFILE", True)
