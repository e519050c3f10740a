"""What is read back from the real kernel, and what an agent finds when it starts again."""

from __future__ import annotations

import errno
import os
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from agent.core.model.hooks import Hook
from agent.core.model.map_layout import U32, MapName, called_programs
from agent.core.nexthop.next_hops import Peer
from agent.core.plan.actions import AttachTransit, EnsureVeth
from agent.core.plan.diff import Suspects, is_right
from agent.core.plan.observed import ObservationError
from agent.datapath import loading
from agent.datapath.attach.xdp import AttachMode, attach
from agent.datapath.bpf import syscall as bpf
from agent.datapath.bpf.compiler import SOURCES, compile_programs, content_hash
from agent.datapath.kernel import Kernel, KernelConfig
from agent.datapath.net import interface_query
from agent.datapath.net.netlink import Netlink
from agent.datapath.uninstall import remove
from tests.netns.conftest import Topo, ip, ip_json, run
from tests.netns.hops import set_peers
from tests.netns.programs import loaded, owning
from tests.netns.tenants import GATEWAY, HERE, VNI, endpoint_actions, endpoint_veth, host_actions


async def realized(kernel: Kernel, topo: Topo, endpoint: str = "e0", slot: int = 10):
    veth = endpoint_veth(kernel.config.instance, topo.endpoint_namespace(), endpoint, slot)
    actions = [*host_actions((await kernel.uplinks())[0]), *endpoint_actions(veth)]
    assert await kernel.executor.run(actions) == []
    return veth


async def test_all_that_was_made_is_seen(kernel: Kernel, topo: Topo) -> None:
    veth = await realized(kernel, topo)
    observed = await kernel.observe({"e0": veth.namespace})
    assert observed.uplinks[0].name == "eth0"
    assert observed.uplinks[0].addresses == (bytes([10, 77, 0, 1]),)
    assert observed.uplinks[0].transit
    seen = observed.veths["e0"]
    assert (seen.ifname, seen.ifindex) == (veth.ifname, veth.ifindex)
    assert seen.peer is not None
    assert seen.mtu == seen.peer.longest > veth.mtu
    assert (seen.complete, seen.up, seen.transit_agent) == (True, True, True)
    assert (seen.peer.name, seen.peer.mac, seen.peer.mtu, seen.peer.up) == ("eth0", veth.peer_mac, veth.mtu, True)
    assert (seen.peer.addresses, seen.peer.gateways) == (veth.addresses, veth.gateways)
    assert {name: len(entries) for name, entries in observed.maps.items()} == {
        MapName.LOCAL_DROPLETS: 1,
        MapName.DROPLETS: 1,
        MapName.VPCS: 1,
        MapName.NETWORKS: 1,
        MapName.ENDPOINTS: 1,
        MapName.INTERFACES: 1,
    }


async def test_an_unfinished_pair_is_seen_as_such(kernel: Kernel, topo: Topo) -> None:
    veth = endpoint_veth(kernel.config.instance, topo.endpoint_namespace(), "e0", 10)
    pair = ["add", veth.ifname, "index", str(veth.ifindex), "type", "veth", "peer", "name", "eth0"]
    ip("link", *pair, "netns", veth.namespace)
    known = (await kernel.observe({"e0": veth.namespace})).veths["e0"]
    assert (known.complete, known.up, known.transit_agent) == (False, False, False)
    assert known.peer is not None


async def test_an_unfinished_pair_of_an_unknown_endpoint_is_left_alone(kernel: Kernel, topo: Topo) -> None:
    """It may be one that another instance is making at this moment: the name does not tell the instance."""
    theirs = endpoint_veth("another", topo.endpoint_namespace(), "e0", 10)
    pair = ["add", theirs.ifname, "index", str(theirs.ifindex), "type", "veth", "peer", "name", "eth0"]
    ip("link", *pair, "netns", theirs.namespace)
    assert (await kernel.observe({"e0": theirs.namespace})).veths == {}
    await remove(kernel.config, print)
    assert theirs.ifname in ip("link", "show")


async def test_interfaces_of_others_are_not_seen(kernel: Kernel) -> None:
    ip("link", "add", "theirs", "type", "veth", "peer", "name", "dp0123")
    ip("link", "add", "theirs2", "type", "veth", "peer", "name", "theirs3")
    ip("link", "set", "theirs2", "alias", "droplet/another/e0")
    assert (await kernel.observe({})).veths == {}


async def test_a_peer_is_looked_for_where_it_belongs(kernel: Kernel, topo: Topo) -> None:
    veth = await realized(kernel, topo)
    other = topo.endpoint_namespace()
    for namespaces in ({}, {"e0": other}, {"e0": "no-such-namespace"}):
        seen = (await kernel.observe(namespaces)).veths["e0"]
        assert (seen.complete, seen.peer) == (True, None)
    ip("link", "set", "eth0", "netns", other, namespace=veth.namespace)
    assert (await kernel.observe({"e0": veth.namespace})).veths["e0"].peer is None
    moved = (await kernel.observe({"e0": other})).veths["e0"].peer
    assert moved is not None
    assert not moved.up


async def test_a_namespace_that_cannot_be_read_leaves_its_peer_unknown_and_the_rest_seen(
    kernel: Kernel, topo: Topo, tmp_path: Path
) -> None:
    good, bad = await realized(kernel, topo), await realized(kernel, topo, "e1", 11)
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    veths = (await kernel.observe({"e0": good.namespace, "e1": str(loop)})).veths
    assert (veths["e0"].peer_known, veths["e1"].peer_known) == (True, False)
    assert (veths["e0"].peer is not None, veths["e1"].peer) == (True, None)
    assert is_right(veths["e1"], bad)
    missing = (await kernel.observe({"e1": "no-such-namespace"})).veths["e1"]
    assert missing.peer_known
    assert not is_right(missing, bad)


async def test_a_namespace_that_takes_too_long_is_not_known(
    kernel: Kernel, topo: Topo, monkeypatch, tmp_path: Path
) -> None:
    veth = await realized(kernel, topo)
    batch = tmp_path / "batch"
    batch.write_text("\n".join(f"addr add 172.16.{n // 250}.{1 + n % 250}/32 dev eth0" for n in range(1000)))
    ip("-batch", str(batch), namespace=veth.namespace)
    monkeypatch.setattr(interface_query, "SECONDS", 0)
    seen = (await kernel.observe({"e0": veth.namespace})).veths["e0"]
    assert not seen.peer_known
    assert is_right(seen, veth)
    (failure,) = await kernel.executor.run([EnsureVeth(veth)])
    assert failure.errno == errno.ETIMEDOUT
    assert "more addresses or routes" in failure.message


async def test_what_a_tenant_has_on_other_interfaces_is_not_even_read(
    kernel: Kernel, topo: Topo, monkeypatch, tmp_path: Path
) -> None:
    veth = await realized(kernel, topo)
    batch = tmp_path / "batch"
    numbers = [f"{n // 250}.{1 + n % 250}" for n in range(3000)]
    lines = [f"addr add 172.16.{n}/32 dev lo" for n in numbers]
    lines += [f"route add 172.20.{n}/32 dev lo" for n in numbers]
    batch.write_text("\n".join(lines))
    ip("-batch", str(batch), namespace=veth.namespace)
    read, messages = [], interface_query.messages

    def counted(chunk: bytes):
        found = list(messages(chunk))
        read.extend(found)
        return found

    monkeypatch.setattr(interface_query, "messages", counted)
    peer = (await kernel.observe({"e0": veth.namespace})).veths["e0"].peer
    assert peer is not None
    assert (peer.addresses, peer.gateways) == (veth.addresses, veth.gateways)
    assert 3 < len(read) < 20


async def test_the_main_tables_default_routes_are_found_among_many(kernel: Kernel, topo: Topo, tmp_path) -> None:
    veth = await realized(kernel, topo)
    batch = tmp_path / "batch"
    lines = [f"route add 172.20.{n // 250}.{1 + n % 250}/32 dev eth0" for n in range(3000)]
    lines += ["route add default via 10.1.0.2 dev eth0 metric 7", "route add default via 10.1.0.3 dev eth0 table 99"]
    lines += ["addr add fd00::5/64 dev eth0 nodad", "route add default via fd00::1 dev eth0"]
    lines.append("addr add 10.9.0.1 peer 10.9.0.2/32 dev eth0")
    batch.write_text("\n".join(lines))
    ip("-batch", str(batch), namespace=veth.namespace)
    peer = (await kernel.observe({"e0": veth.namespace})).veths["e0"].peer
    assert peer is not None
    assert peer.gateways == ("10.1.0.1", "10.1.0.2", "fd00::1")
    assert peer.addresses == ("10.1.0.10/24", "10.9.0.1/32", "fd00::5/64")


@pytest.mark.parametrize("mode", ["native", "generic"])
async def test_how_transit_xdp_runs_is_read_from_the_interface(config: KernelConfig, topo: Topo, mode: str) -> None:
    kernel = await Kernel.open(replace(config, attach_mode=AttachMode(mode)))
    try:
        assert kernel.transit_modes() == {"eth0": "none"}
        assert await kernel.executor.run([AttachTransit(topo.ifindex("eth0"))]) == []
        assert kernel.transit_modes() == {"eth0": mode}
        ip("link", "set", "eth0", "xdp" if mode == "native" else "xdpgeneric", "off")
        with loaded("stranger") as stranger:
            async with Netlink() as netlink:
                await attach(netlink, topo.ifindex("eth0"), stranger, owning(stranger), AttachMode.NATIVE)
            assert kernel.transit_modes() == {"eth0": "none"}
        ip("link", "del", "eth0")
        assert kernel.transit_modes() == {"eth0": "none"}
    finally:
        await kernel.close()


async def test_what_an_older_agent_pinned_goes_once_nothing_of_it_runs(
    config: KernelConfig, topo: Topo, tmp_path: Path, monkeypatch
) -> None:
    sources = Path(shutil.copytree(SOURCES, tmp_path / "sources"))
    program = sources / "xdp.c"
    program.write_text(program.read_text() + "/* another release */\n")
    with monkeypatch.context() as patch:
        patch.setattr(loading, "compile_programs", partial(compile_programs, sources=sources))
        old = await Kernel.open(config)
    veth = await realized(old, topo)
    older = config.pins.root / "v0" / "maps"
    older.mkdir(parents=True)
    bpf.pin(old.maps[MapName.VPCS].descriptor, older / "vpcs")
    old.tend(await old.observe({}))
    assert not older.exists()
    (old_home,) = config.pins.programs.iterdir()
    await old.close()
    new = await Kernel.open(config)
    try:
        new.tend(await new.observe({}))
        assert old_home.exists(), "its programs are attached"
        assert await new.executor.run([AttachTransit(topo.ifindex("eth0"))]) == []
        new.tend(await new.observe({}))
        assert old_home.exists(), "one of its programs is attached"
        assert await new.executor.run([EnsureVeth(veth)]) == []
        new.tend(await new.observe({}))
        assert [path.name for path in config.pins.programs.iterdir()] == [content_hash()]
        assert content_hash() != old_home.name
    finally:
        await new.close()


async def test_a_detached_or_foreign_program_is_not_ours(kernel: Kernel, topo: Topo) -> None:
    veth = await realized(kernel, topo)
    ip("link", "set", veth.ifname, "xdp", "off")
    ip("link", "set", "eth0", "xdp", "off")
    observed = await kernel.observe({})
    assert not observed.uplinks[0].transit
    assert not observed.veths["e0"].transit_agent
    with loaded("stranger") as stranger:
        async with Netlink() as netlink:
            await attach(netlink, topo.ifindex("eth0"), stranger, owning(stranger), AttachMode.NATIVE)
        assert not (await kernel.observe({})).uplinks[0].transit


async def test_a_missing_interface_is_an_error_and_not_a_smaller_answer(kernel: Kernel) -> None:
    ip("link", "del", "eth0")
    with pytest.raises(ObservationError, match="no such interface"):
        await kernel.observe({})


async def test_a_map_that_cannot_be_read_is_an_error(kernel: Kernel) -> None:
    one = kernel.maps[MapName.NETWORKS]
    good, one.descriptor = one.descriptor, os.open("/dev/null", os.O_RDONLY)
    try:
        with pytest.raises(ObservationError):
            await kernel.observe({})
    finally:
        os.close(one.descriptor)
        one.descriptor = good


async def test_an_agent_that_starts_again_finds_everything_and_changes_nothing(
    config: KernelConfig, topo: Topo
) -> None:
    first = await Kernel.open(config)
    veth = await realized(first, topo)
    before = await first.observe({"e0": veth.namespace})
    links = ip_json("link", "show", veth.ifname), ip_json("link", "show", "eth0")
    await first.close()
    second = await Kernel.open(config)
    try:
        assert await second.observe({"e0": veth.namespace}) == before
        assert (ip_json("link", "show", veth.ifname), ip_json("link", "show", "eth0")) == links
    finally:
        await second.close()


async def test_removed_pins_are_restored(config: KernelConfig, kernel: Kernel, topo: Topo) -> None:
    veth = await realized(kernel, topo)
    before = await kernel.observe({"e0": veth.namespace})
    config.pins.remove()
    kernel.tend(await kernel.observe({}))
    again = await Kernel.open(config)
    try:
        assert await again.observe({"e0": veth.namespace}) == before
    finally:
        await again.close()


async def test_an_observation_changes_nothing(config: KernelConfig, kernel: Kernel, topo: Topo, monkeypatch) -> None:
    """Questions and dry runs look, too."""
    await realized(kernel, topo)
    array, slots = kernel.maps[MapName.PROGRAMS], [U32.pack(slot) for slot in called_programs(Hook.XDP)]
    config.pins.remove()
    for slot in slots:
        bpf.delete(array.descriptor, slot)
    looks: list[None] = []
    monkeypatch.setattr(kernel.neighbours, "rescan", lambda: looks.append(None))
    observed = await kernel.observe({})
    await kernel.observe_some(Suspects({MapName.VPCS: {U32.pack(VNI)}}, {"e0"}), {})
    assert [array.lookup(slot) for slot in slots] == [None] * len(slots)
    assert (config.pins.paths(), looks) == (frozenset(), [])
    kernel.tend(observed)
    assert None not in [array.lookup(slot) for slot in slots]
    assert (config.pins.maps / "programs").exists()
    assert looks


async def test_opening_leaves_the_tail_call_to_the_program_that_runs(config: KernelConfig, kernel: Kernel) -> None:
    """A dry run of another release opens the maps that the running one uses."""
    bpf.delete(kernel.maps[MapName.PROGRAMS].descriptor, U32.pack(0))
    await (await Kernel.open(config)).close()
    assert kernel.maps[MapName.PROGRAMS].lookup(U32.pack(0)) is None


async def test_some_entries_and_pairs_are_looked_up_again(kernel: Kernel, topo: Topo) -> None:
    one, other = await realized(kernel, topo), await realized(kernel, topo, "e1", 11)
    namespaces = {"e0": one.namespace, "e1": other.namespace}
    whole = await kernel.observe(namespaces)
    key = next(iter(whole.maps[MapName.ENDPOINTS]))
    suspects = Suspects({MapName.ENDPOINTS: {key}, MapName.VPCS: {U32.pack(VNI + 1)}}, {"e1", "gone"})
    found = await kernel.observe_some(suspects, namespaces)
    assert (found.uplinks, found.veths) == (whole.uplinks, {"e1": whole.veths["e1"]})
    assert found.maps == {MapName.ENDPOINTS: {key: whole.maps[MapName.ENDPOINTS][key]}, MapName.VPCS: {}}
    ip("link", "del", "eth0")
    with pytest.raises(ObservationError, match="no such interface"):
        await kernel.observe_some(suspects, namespaces)


async def test_lookups_answer_for_one_path(kernel: Kernel, topo: Topo) -> None:
    veth = await realized(kernel, topo)
    address = bytes([10, 1, 0, 10])
    found = kernel.queries.lookup_endpoint(VNI, address)
    assert found is not None
    assert (found.host, found.ifindex, found.mac) == (HERE, veth.ifindex, veth.peer_mac)
    network = kernel.queries.lookup_network(VNI, address)
    assert network is not None
    assert (network.gateway, network.bouncers.members) == (GATEWAY, (HERE,))
    assert kernel.queries.lookup_vpc(VNI) == (0, ())
    assert kernel.queries.lookup_direct(VNI, address) is None
    assert kernel.queries.lookup_endpoint(VNI + 1, address) is None
    assert kernel.queries.lookup_network(VNI, bytes([10, 2, 0, 1])) is None
    assert kernel.queries.lookup_vpc(VNI + 1) is None


async def test_removing_leaves_nothing_of_ours_and_all_of_others(config: KernelConfig, topo: Topo) -> None:
    kernel = await Kernel.open(config)
    await realized(kernel, topo)
    await kernel.neighbours.start()
    set_peers(kernel.neighbours, {bytes([10, 77, 0, 2]): Peer()})
    await kernel.neighbours.caught_up()
    await kernel.close()
    ip("link", "add", "theirs", "type", "veth", "peer", "name", "theirs2")
    await remove(config, print)
    await remove(config, print)
    shown = {link["ifname"]: link for link in ip_json("link", "show")}
    assert set(shown) == {"lo", "eth0", "theirs", "theirs2"}
    assert "xdp" not in shown["eth0"]
    assert "managed" not in ip("neigh", "show")
    assert "droplet" not in run("ls", str(config.bpffs)).split()
