"""What a host is asked before an agent runs on it, on the real kernel."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from agent.core.model.features import Family, Features
from agent.core.model.uplinks import Uplink
from agent.core.plan.actions import AttachTransit
from agent.core.uplinks.hook_choice import HookSettings
from agent.datapath import foreign_programs
from agent.datapath.attach import xdp_features
from agent.datapath.attach.xdp import AttachMode, attach, detach
from agent.datapath.bpf.pins import ensure_bpffs
from agent.datapath.check import interfaces, machine
from agent.datapath.check.host import check_host
from agent.datapath.check.interfaces import min_uplink_mtu, takes_native
from agent.datapath.check.machine import neighbour_capacity
from agent.datapath.check.result import CheckResult
from agent.datapath.kernel import KernelConfig
from agent.datapath.net.netlink import Netlink
from tests.netns.conftest import Topo, ip, run
from tests.netns.programs import loaded, owning
from tests.netns.test_tc_attach import opened


async def answers(config: KernelConfig) -> dict[str, CheckResult]:
    return {one.name: one for one in await check_host(config)}


def bpf_mounts(config: KernelConfig) -> list[str]:
    """Return what the agent itself could mount; mounts and network namespaces of other tests come and go."""
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    return [point for _, point, kind, *_ in mounts if kind == "bpf" and point == str(config.bpffs)]


async def test_a_good_host_passes_and_nothing_is_changed(topo: Topo, config: KernelConfig, tmp_path: Path) -> None:
    before = ip("-d", "link", "show"), bpf_mounts(config)
    found = await answers(config)
    assert [one for one in found.values() if not one.ok] == []
    assert (ip("-d", "link", "show"), bpf_mounts(config)) == before
    assert run("ls", "-A", str(tmp_path)) == ""


async def test_a_missing_interface_is_named(topo: Topo, config: KernelConfig) -> None:
    ip("link", "del", "eth0")
    found = await answers(config)
    assert not found["interface"].ok
    assert "eth0 does not exist" in found["interface"].detail
    assert found["interface"].remedy
    assert not found["xdp"].ok


async def test_an_interface_without_an_address_is_named(topo: Topo, config: KernelConfig) -> None:
    ip("addr", "flush", "dev", "eth0")
    assert "no address" in (await answers(config))["interface"].detail


async def test_an_interface_with_a_small_mtu_is_named(topo: Topo, config: KernelConfig) -> None:
    ip("link", "set", "eth0", "mtu", "1300")
    found = (await answers(config))["interface"]
    assert not found.ok
    assert "1300" in found.detail


@pytest.mark.parametrize(
    ("addresses", "families", "least"),
    [
        ((bytes(4),), {"ipv4", "ipv6"}, 1342),
        ((bytes(16),), {"ipv4", "ipv6"}, 1374),
        ((bytes(16), bytes(4)), {"ipv4", "ipv6"}, 1342),
        ((bytes(4),), {"ipv4"}, 638),
    ],
)
def test_the_least_mtu_leaves_endpoints_what_their_families_need(
    addresses: tuple[bytes, ...], families: set[Family], least: int
) -> None:
    uplink = Uplink("eth0", 2, bytes(6), 1500, addresses, (2,), 2, 2)
    assert min_uplink_mtu(uplink, Features(families=frozenset(families))) == least


async def test_another_owners_program_is_named(topo: Topo, config: KernelConfig) -> None:
    with loaded("stranger") as stranger:
        async with Netlink() as netlink:
            await attach(netlink, topo.ifindex("eth0"), stranger, owning(stranger), AttachMode.NATIVE)
        found = (await answers(config))["xdp"]
    assert not found.ok
    assert found.detail == f"another owner's XDP program stranger (id {stranger.program_id}) is attached to eth0"


async def test_another_instances_program_at_tc_is_named(topo: Topo, config: KernelConfig) -> None:
    at_tc = replace(config, hooks=HookSettings("tc", "tc"))
    async with opened(at_tc) as kernel:
        await kernel.executor.run([AttachTransit(topo.ifindex("eth0"))])
        assert (await answers(at_tc))["xdp"].ok, "it is ours"
    for hooks in (at_tc.hooks, HookSettings("xdp", "xdp")):
        found = (await answers(replace(config, instance="second", hooks=hooks)))["xdp"]
        assert not found.ok
        assert found.detail.startswith(f"the droplet instance {config.instance}'s tcx program tc_transit")


async def test_a_read_only_bpf_file_system_is_named(topo: Topo, config: KernelConfig) -> None:
    ensure_bpffs(config.bpffs)
    run("mount", "-o", "remount,ro", str(config.bpffs))
    found = (await answers(config))["bpf file system"]
    assert not found.ok
    run(*found.remedy.split())
    assert (await answers(config))["bpf file system"].ok


async def test_a_cache_that_cannot_be_written_is_named(topo: Topo, config: KernelConfig, tmp_path: Path) -> None:
    taken = tmp_path / "file"
    taken.touch()
    found = await answers(replace(config, cache=taken / "cache"))
    assert not found["cache"].ok


async def test_a_cache_that_others_can_write_is_named(topo: Topo, config: KernelConfig, tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    folder.mkdir()
    folder.chmod(0o777)
    found = await answers(replace(config, cache=folder))
    assert not found["cache"].ok
    assert "others may write" in found["cache"].detail


async def test_each_interface_is_checked_and_unsuitable_ones_are_named(topo: Topo, config: KernelConfig) -> None:
    ip("link", "add", "eth1", "mtu", "1300", "type", "veth", "peer", "name", "eth2")
    both = replace(config, interfaces=("eth0", "eth1", "eth7"))
    found = (await answers(both))["interface"]
    assert not found.ok
    assert found.detail == "eth1 has no address; eth7 does not exist"
    ip("addr", "add", "10.78.0.1/24", "dev", "eth1")
    ip("link", "set", "eth1", "mtu", "1500", "up")
    found = (await answers(replace(config, interfaces=("eth0", "eth1"))))["interface"]
    assert found.ok
    assert found.detail == "eth0: 1 address, MTU 1500; eth1: 1 address, MTU 1500"


async def test_a_nic_without_offload_support_is_reported_by_the_check(topo: Topo, config: KernelConfig) -> None:
    found = (await answers(replace(config, attach_mode=AttachMode.OFFLOAD)))["xdp"]
    assert not found.ok
    assert found.detail.startswith("eth0: driver veth refuses offload XDP")
    assert "native or auto" in found.remedy


async def test_the_check_reports_whether_native_xdp_will_work(topo: Topo, config: KernelConfig) -> None:
    ip("link", "add", "name", "br9", "type", "bridge")
    ip("link", "add", "link", "eth0", "name", "mac9", "type", "macvlan")
    ip("link", "add", "few9", "numrxqueues", "1", "type", "veth", "peer", "name", "many9", "numtxqueues", "4")
    run("ethtool", "-L", "many9", "tx", "4")
    for name, driver in (("br9", "bridge"), ("mac9", "macvlan"), ("few9", "veth"), ("eth0", "veth")):
        asked = replace(config, interfaces=(name,), attach_mode=AttachMode.NATIVE)
        found = (await answers(asked))["xdp"]
        with loaded("ours") as program:
            async with Netlink() as netlink:
                assert (await netlink.link(ifname=name) or {}).get("index"), "the check attached nothing"
                try:
                    attached = await attach(netlink, topo.ifindex(name), program, owning(program), AttachMode.NATIVE)
                    await detach(netlink, topo.ifindex(name), owning(program))
                except OSError:
                    attached = None
        assert found.ok == (attached is not None), found
        assert f"driver {driver} supports {'' if found.ok else 'no '}native XDP" in found.detail
        assert found.ok or "attach_mode to auto" in found.remedy
        automatic = (await answers(replace(asked, attach_mode=AttachMode.AUTO)))["xdp"]
        assert automatic.ok
        assert found.ok or "generic" in automatic.detail


async def test_a_program_of_ours_in_the_stack_is_no_proof_of_native_xdp(
    topo: Topo, config: KernelConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    ip("link", "add", "name", "br9", "type", "bridge")
    asked = replace(config, interfaces=("br9",), attach_mode=AttachMode.NATIVE)
    with loaded("ours") as program:
        for module in (interfaces, foreign_programs):
            monkeypatch.setattr(module, "is_ours", lambda number, pins: number == program.program_id)
        async with Netlink() as netlink:
            await attach(netlink, topo.ifindex("br9"), program, owning(program), AttachMode.GENERIC)
        assert not (await answers(asked))["xdp"].ok
        automatic = (await answers(replace(asked, attach_mode=AttachMode.AUTO)))["xdp"]
    assert automatic.detail == f"br9 carries this agent's program {program.program_id}, generic"


async def test_the_check_promises_nothing_for_kernels_that_report_no_features(
    topo: Topo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(xdp_features, "FAMILY", "nosuchfamily")
    assert await xdp_features.xdp_features(topo.ifindex("eth0")) is None
    async with Netlink() as netlink:
        link = await netlink.link(ifname="eth0")
    assert link is not None
    found = takes_native("eth0 is free", link, None, AttachMode.NATIVE)
    assert found.ok
    assert found.detail == "eth0 is free; whether its driver supports native XDP is known only when the agent attaches"


async def test_an_mtu_that_drivers_may_refuse_is_left_open(topo: Topo, config: KernelConfig) -> None:
    ip("link", "set", "eth0", "mtu", "9000")
    found = (await answers(replace(config, attach_mode=AttachMode.NATIVE)))["xdp"]
    assert "whether also with an MTU of 9000 is known only when the agent attaches" in found.detail


@pytest.mark.parametrize(
    ("limits", "detail", "named"),
    [
        ({}, "not visible", []),
        ({"ipv4": 1024, "ipv6": 65536}, "at most 1,024 of ipv4, at most 65,536 of ipv6", ["ipv4"]),
        ({"ipv4": 1024, "ipv6": 1024}, "1,024", ["ipv4", "ipv6"]),
        ({"ipv4": 65536, "ipv6": 65536}, "65,536", []),
    ],
)
def test_a_small_neighbour_table_is_only_a_hint(limits, detail: str, named: list[str]) -> None:
    found = neighbour_capacity(limits, 65536)
    assert found.ok
    assert detail in found.detail
    assert [one for one in ("ipv4", "ipv6") if f"net.{one}.neigh.default.gc_thresh3" in found.remedy] == named


async def test_the_check_reports_the_attach_mode_and_its_reason(topo: Topo, config: KernelConfig) -> None:
    ip("link", "add", "link", "eth0", "name", "mac9", "type", "macvlan")
    ip("link", "add", "name", "br9", "type", "bridge")
    found = (await answers(config))["redirects"]
    assert (found.ok, found.detail) == (True, "the uplinks take redirected frames: programs will run natively")
    for name, driver in (("mac9", "macvlan"), ("br9", "bridge")):
        automatic = (await answers(replace(config, interfaces=("eth0", name))))["redirects"]
        assert automatic.ok
        assert f"generic mode, which is slower: {name}: driver {driver} takes no redirected" in automatic.detail
    run("ip", "netns", "exec", topo.underlay, "ethtool", "-K", "sub0", "gro", "off")
    automatic = (await answers(config))["redirects"]
    assert automatic.ok
    assert "eth0: the other end of this veth has neither GRO nor XDP" in automatic.detail
    forced = (await answers(replace(config, attach_mode=AttachMode.NATIVE)))["redirects"]
    assert not forced.ok
    assert "ethtool -K <peer> gro on" in forced.remedy
    asked = (await answers(replace(config, attach_mode=AttachMode.GENERIC)))["redirects"]
    assert asked.detail == "programs will run in generic mode, which is slower: attach_mode is generic"


async def test_the_check_reports_whether_losses_can_be_counted_and_does_not_fail(
    topo: Topo, config: KernelConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = (await answers(config))["losses"]
    assert found.detail.endswith("after the verdict of a program at XDP are counted, at tc they are not")
    monkeypatch.setattr(machine, "why_not_counted", lambda: "the kernel has no BTF")
    found = (await answers(config))["losses"]
    assert found.ok
    assert found.detail.endswith("will not be counted: the kernel has no BTF")
