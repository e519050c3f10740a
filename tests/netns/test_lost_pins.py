"""Pins that are lost while their programs run: what is this instance's is found, taken over, and pinned again."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from lab.echoes import answered, unbroken
from structlog.testing import capture_logs

from agent.core.model.hooks import TRANSIT, Hook
from agent.core.model.map_layout import DIRECT_PATH, OVERLAY_KEY, U32, MapName, mapped
from agent.core.plan.actions import AttachTransit
from agent.datapath.attach.xdp import AttachableProgram, AttachMode, attach, attached_program
from agent.datapath.bpf import marks, programs
from agent.datapath.bpf import syscall as bpf
from agent.datapath.bpf.compiler import compile_programs
from agent.datapath.bpf.maps import MapSizes, close_maps, open_maps
from agent.datapath.bpf.pin_places import pinned_elsewhere
from agent.datapath.bpf.pins import ensure_bpffs
from agent.datapath.check.host import check_host
from agent.datapath.kernel import Kernel, KernelConfig
from agent.datapath.net.netlink import Netlink
from agent.datapath.uninstall import remove
from tests.netns.conftest import Topo, ip, ip_json, run
from tests.netns.programs import NEWER_THAN_MARKS, loaded, owning, stand_ins
from tests.netns.tenants import VNI, endpoint_actions, endpoint_veth, host_actions

NOT_ATTACHED = {MapName.KERNEL_LAYOUTS, MapName.WATCHED, MapName.FAILURES, MapName.ICMP_RATELIMIT}
"""Maps of unattached programs, which only pins keep (transit_errors, tracepoints): they are recreated."""
LEARNT = OVERLAY_KEY.pack(VNI, mapped(bytes([10, 1, 0, 99])))


def unmounted(config: KernelConfig) -> None:
    run("umount", str(config.bpffs))


def gone(*names: str) -> Callable[[KernelConfig], None]:
    def unlink(config: KernelConfig) -> None:
        for name in names:
            for path in config.pins.root.glob(f"v*/{name}"):
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    return unlink


LOSSES = {
    "the bpf file system is unmounted": unmounted,
    "all pins": gone("maps", "programs"),
    "the maps' pins alone": gone("maps"),
    "the programs' pins alone": gone("programs"),
    "one map's pin": gone("maps/endpoints"),
    "the program array's pin": gone("maps/programs"),
    "transit XDP's pin": gone("programs/*/transit_xdp"),
    "the transit agent's pin": gone("programs/*/transit_agent"),
}


@asynccontextmanager
async def opened(config: KernelConfig) -> AsyncIterator[Kernel]:
    kernel = await Kernel.open(config)
    try:
        yield kernel
    finally:
        await kernel.close()


async def put_in_place(kernel: Kernel, topo: Topo) -> None:
    """Have the kernel hold two endpoints and a path that was learnt, as a whole agent would."""
    kernel.tend(await kernel.observe({}))
    actions = host_actions((await kernel.uplinks())[0])
    for slot in (10, 11):
        actions += endpoint_actions(
            endpoint_veth(kernel.config.instance, topo.endpoint_namespace(), f"e{slot - 10}", slot)
        )
    assert await kernel.executor.run(actions) == []
    bpf.update(kernel.maps[MapName.DIRECT].descriptor, LEARNT, DIRECT_PATH.pack(mapped(bytes(4)), 0, 0, 0))


def ids_of(kernel: Kernel) -> dict[MapName, int]:
    """Return the ids of the maps that the attached programs work on."""
    return {name: one.info.id for name, one in kernel.maps.items() if name not in NOT_ATTACHED}


def pins_of(config: KernelConfig) -> set[str]:
    """Return the names of all maps and XDP programs that are pinned."""
    return {path.name for path in (*config.pins.maps.iterdir(), *config.pins.root.glob("v*/programs/*/transit_*"))}


def attached_ids() -> dict[str, int]:
    return {link["ifname"]: link["xdp"]["prog"]["id"] for link in ip_json("link", "show") if "xdp" in link}


@pytest.mark.parametrize("lose", LOSSES.values(), ids=LOSSES.keys())
async def test_an_agent_that_starts_without_pins_takes_over_what_runs_and_what_it_holds(
    config: KernelConfig, topo: Topo, lose: Callable[[KernelConfig], None]
) -> None:
    """The very same maps and programs, so that nothing is switched, and nothing forgotten."""
    async with opened(config) as first:
        await put_in_place(first, topo)
        maps = ids_of(first)
        spaces = {f"e{n}": namespace for n, namespace in enumerate(topo.endpoints)}
        before, running = await first.observe(spaces), attached_ids()
        held = first.maps[MapName.DIRECT].dump()
        pinned = pins_of(config)
    lose(config)
    async with opened(config) as second:
        assert ids_of(second) == maps
        observed = await second.observe(spaces)
        assert observed == before
        second.tend(observed)
        assert second.maps[MapName.DIRECT].dump() == held
        assert LEARNT in held
        assert second.maps[MapName.PROGRAMS].lookup(U32.pack(0)) == U32.pack(running["eth0"])
        assert attached_ids() == running
        assert second.is_transit_attached(topo.ifindex("eth0"))
    assert pins_of(config) == pinned
    assert answered(topo.endpoints[0], "10.1.0.11", 2, 5) == 2


@pytest.mark.parametrize("lose", [unmounted, gone("maps", "programs")], ids=["unmounted", "removed"])
async def test_a_running_agent_pins_again_what_it_holds_under_traffic(
    config: KernelConfig, topo: Topo, lose: Callable[[KernelConfig], None]
) -> None:
    async with opened(config) as kernel:
        await put_in_place(kernel, topo)
        pinned = pins_of(config)
        with unbroken(topo.endpoints[0], "10.1.0.11"):
            lose(config)
            kernel.tend(await kernel.observe({}))
            assert pins_of(config) == pinned


async def test_programs_of_another_content_are_replaced_and_their_maps_kept(config: KernelConfig, topo: Topo) -> None:
    """As at an upgrade, which finds no pins: what runs is ours by its mark, not by its content."""
    async with opened(config) as first:
        await put_in_place(first, topo)
        maps, running = ids_of(first), attached_ids()
    unmounted(config)
    newer = replace(config, features=replace(config.features, geneve_port=16081, vxlan_port=8472))  # see VARIANTS
    async with opened(newer) as second:
        second.tend(await second.observe({}))
        with unbroken(topo.endpoints[0], "10.1.0.11"):
            assert ids_of(second) == maps
            assert not second.is_transit_attached(topo.ifindex("eth0"))
            assert second.transit.is_outdated(topo.ifindex("eth0"))
            assert await second.executor.run([AttachTransit(topo.ifindex("eth0"))]) == []
            for number, namespace in enumerate(topo.endpoints):
                veth = endpoint_veth(config.instance, namespace, f"e{number}", 10 + number)
                assert await second.executor.run(endpoint_actions(veth)) == []
            second.tend(await second.observe({}))
    assert set(attached_ids()) == set(running)
    assert not set(attached_ids().values()) & set(running.values())


async def test_a_program_of_an_agent_from_before_there_were_marks_is_taken_over(
    config: KernelConfig, topo: Topo
) -> None:
    ensure_bpffs(config.bpffs)
    compiled = await compile_programs(config.cache, features=config.features)
    new = {"detours", *NEWER_THAN_MARKS}
    maps = open_maps(config.bpffs / "old", [one for one in compiled.maps if one.name not in new], MapSizes())
    stand_in, newer = stand_ins(config.bpffs / "new", compiled)
    old_maps = {name.value: one.descriptor for name, one in maps.items()}
    code = compiled.program(TRANSIT[Hook.XDP])
    # What stands in for the old code, whose maps had none of the new names.
    old = programs.load(code, old_maps | {"detours": old_maps["direct"], **newer})
    async with Netlink() as netlink:
        await attach(
            netlink, topo.ifindex("eth0"), AttachableProgram(old.fd, old.id, old.name), owning(), AttachMode.NATIVE
        )
    os.close(old.fd)
    close_maps(maps)
    close_maps(stand_in)
    unmounted(config)
    async with opened(config) as kernel:
        assert await kernel.executor.run([AttachTransit(topo.ifindex("eth0"))]) == []
        assert kernel.is_transit_attached(topo.ifindex("eth0"))
    assert old.id not in attached_ids().values()


async def test_what_another_instance_runs_is_left_to_it_and_named(config: KernelConfig, topo: Topo) -> None:
    async with opened(replace(config, instance="theirs")) as theirs:
        assert await theirs.executor.run([AttachTransit(topo.ifindex("eth0"))]) == []
        running = attached_ids()
    unmounted(config)
    async with opened(config) as kernel:
        (failure,) = await kernel.executor.run([AttachTransit(topo.ifindex("eth0"))])
        assert "the droplet instance theirs's XDP program" in failure.message
        assert "--uninstall" in failure.message
        assert "ip link set" not in failure.message
        found = {one.name: one for one in await check_host(config)}["xdp"]
        assert not found.ok
        assert "theirs" in found.detail
    assert not (await remove(config, print)).transit
    assert attached_ids() == running


@pytest.mark.parametrize("name", ["transit_xdp", "transit_agent", "theirs"])
async def test_another_owners_program_stays_whatever_its_name(config: KernelConfig, topo: Topo, name: str) -> None:
    with loaded(name) as stranger:
        async with Netlink() as netlink:
            await attach(netlink, topo.ifindex("eth0"), stranger, owning(), AttachMode.NATIVE)
        async with opened(config) as kernel:
            (failure,) = await kernel.executor.run([AttachTransit(topo.ifindex("eth0"))])
            assert "another owner's XDP program" in failure.message
        assert not (await remove(config, print)).transit
        assert attached_ids() == {"eth0": stranger.program_id}


async def test_a_map_with_a_marks_name_and_another_content_marks_nothing(topo: Topo) -> None:
    with loaded("transit_xdp") as stranger:
        fake = bpf.create_map(bpf.MapType.ARRAY, 4, 144, 1, name=marks.MAP_NAME)
        bpf.bind_map(stranger.descriptor, fake)
        os.close(fake)
        info = bpf.program_info(stranger.descriptor)
        assert len(info.map_ids) == 1
        assert marks.read_mark(info) is None


async def test_a_mark_identifies_the_owner_of_a_program_and_is_immutable(topo: Topo) -> None:
    with loaded("transit_xdp") as program:
        marks.mark(program.descriptor, "here", "c0ffee")
        found = marks.read_mark(bpf.program_info(program.descriptor))
        assert found is not None
        assert (found[1].instance, found[1].content) == ("here", "c0ffee")
        descriptor = bpf.map_by_id(found[0])
        with pytest.raises(PermissionError):
            bpf.update(descriptor, bytes(4), bytes(144))
        os.close(descriptor)


async def test_without_pins_a_check_and_a_removal_know_the_agents_own_program(
    config: KernelConfig, topo: Topo, tmp_path: Path
) -> None:
    async with opened(config) as kernel:
        await put_in_place(kernel, topo)
    unmounted(config)
    found = {one.name: one for one in await check_host(config)}["xdp"]
    assert found.ok
    assert "this agent's program" in found.detail
    assert (await remove(config, print)).transit
    async with Netlink() as netlink:
        links = await netlink.links()
    assert [link for link in links if attached_program(link)] == []
    ip("link", "show", "eth0")


async def test_a_start_with_another_bpf_file_system_warns_of_the_pins_in_the_old_one(
    topo: Topo, config: KernelConfig, tmp_path: Path
) -> None:
    async with opened(config) as kernel:
        await put_in_place(kernel, topo)
    moved = replace(config, bpffs=tmp_path / "another")
    try:
        for left in ([str(config.pins.root)], None):
            async with opened(moved) as kernel:
                with capture_logs() as lines:
                    await kernel.start()
            assert [line["paths"] for line in lines if line["event"] == "pins_elsewhere"] == [left] * bool(left)
            shutil.rmtree(config.pins.root, ignore_errors=True)
    finally:
        run("umount", str(moved.bpffs), check=False)


async def test_pins_of_other_maps_in_another_bpf_file_system_are_no_old_ones(
    topo: Topo, config: KernelConfig, tmp_path: Path
) -> None:
    """An agent of the same instance in another network namespace has such maps."""
    other = replace(config, bpffs=tmp_path / "another")
    try:
        async with opened(config) as kernel, opened(other) as stranger:
            ids = {one.info.id for one in kernel.maps.values()}
            assert pinned_elsewhere(config.pins, ids) == []
            assert pinned_elsewhere(config.pins, {one.info.id for one in stranger.maps.values()}) == [other.pins.root]
    finally:
        run("umount", str(other.bpffs), check=False)
