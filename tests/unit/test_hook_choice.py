"""The hook of endpoints and uplinks follows the settings, the kernel and the device."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.core.model.hooks import Hook
from agent.core.uplinks.hook_choice import HookSettings, endpoint_hook, needs_tc, uplink_hook, why_gso
from agent.datapath.check.hooks import drops_short_packets, impossible, missing_modules, module_lists

OLD, DEBIAN, NEW = (5, 15), (6, 1), (6, 18)
VETH, CARD = "the device is a veth, which hands over GSO packets", ""


@pytest.mark.parametrize(
    ("configured", "kernel", "hook"),
    [
        ("auto", NEW, Hook.TC),
        ("auto", DEBIAN, Hook.TC),
        ("auto", OLD, Hook.XDP),
        ("xdp", NEW, Hook.XDP),
        ("tc", NEW, Hook.TC),
    ],
)
def test_endpoints_run_at_tc_where_the_kernel_has_it(configured: str, kernel: tuple[int, int], hook: Hook) -> None:
    choice = endpoint_hook(HookSettings(configured), kernel)
    assert choice.hook is hook
    assert choice.reason


@pytest.mark.parametrize(
    ("settings", "kernel", "gso", "hook"),
    [
        (HookSettings(), NEW, VETH, Hook.TC),
        (HookSettings(), NEW, CARD, Hook.XDP),
        (HookSettings(), OLD, VETH, Hook.XDP),
        (HookSettings(), DEBIAN, VETH, Hook.XDP),
        (HookSettings(over_ipv6=False), DEBIAN, VETH, Hook.TC),
        (HookSettings(attach_mode="native"), NEW, VETH, Hook.XDP),
        (HookSettings(uplinks="tc", attach_mode="native"), NEW, CARD, Hook.TC),
        (HookSettings(uplinks="xdp"), NEW, VETH, Hook.XDP),
    ],
)
def test_an_uplinks_hook_follows_its_device(
    settings: HookSettings, kernel: tuple[int, int], gso: str, hook: Hook
) -> None:
    choice = uplink_hook(settings, kernel, gso)
    assert choice.hook is hook
    assert choice.reason


@pytest.mark.parametrize(
    ("settings", "kernel", "gso", "hook"),
    [
        (HookSettings(), NEW, [VETH], Hook.TC),
        (HookSettings(), NEW, [CARD], Hook.TC),
        (HookSettings(), DEBIAN, [CARD, VETH], Hook.XDP),
        (HookSettings(attach_mode="native"), NEW, [VETH], Hook.XDP),
        (HookSettings(uplinks="xdp"), NEW, [VETH], Hook.TC),
        (HookSettings("tc", attach_mode="native"), NEW, [VETH], Hook.TC),
    ],
)
def test_endpoints_complete_their_checksums_where_an_uplink_at_xdp_would_not(
    settings: HookSettings, kernel: tuple[int, int], gso: list[str], hook: Hook
) -> None:
    """Who sets uplink_hook to xdp for a veth has to see to its checksums: docs/operations.md says how."""
    assert endpoint_hook(settings, kernel, gso).hook is hook


def test_devices_that_hand_over_gso_packets_are_known_by_kind_or_by_driver_and_ability() -> None:
    assert all(
        why_gso(kind, "", False) for kind in ("veth", "bridge", "macvlan", "ipvlan", "tun", "netkit", "openvswitch")
    )
    assert why_gso("", "virtio_net", True)
    assert not any((why_gso("", "virtio_net", False), why_gso("", "ice", True), why_gso("bond", "", False)))


@pytest.mark.parametrize(
    ("settings", "kernel", "needed"),
    [
        (HookSettings(), NEW, True),
        (HookSettings("xdp", "xdp"), NEW, False),
        (HookSettings("xdp"), NEW, True),
        (HookSettings(), OLD, False),
    ],
)
def test_programs_of_tc_are_loaded_only_where_they_may_run(
    settings: HookSettings, kernel: tuple[int, int], needed: bool
) -> None:
    assert needs_tc(settings, kernel) is needed


def test_a_hook_that_the_kernel_does_not_have_is_an_error_that_names_the_setting() -> None:
    assert impossible(HookSettings("tc"), OLD) == "endpoint_hook is tc, which needs Linux 6.1 or newer"
    assert impossible(HookSettings("auto", "tc"), OLD).startswith("uplink_hook is tc")
    assert impossible(HookSettings("auto", "tc"), DEBIAN) == ""


DEBIAN_MODULES = """\
kernel/net/sched/cls_bpf.ko.xz:
kernel/net/sched/cls_flower.ko.xz: kernel/net/core/sch_ingress_not.ko
kernel/net/sched/sch_ingress.ko
"""


@pytest.mark.parametrize(
    ("lists", "missing"),
    [
        (DEBIAN_MODULES, []),
        (DEBIAN_MODULES.replace("cls_bpf", "cls_u32"), ["cls_bpf"]),
        ("cls_bpf 24576 0 - Live 0x0\nsch_ingress 16384 0 - Live 0x0\n", []),
        ("", ["sch_ingress", "cls_bpf"]),
        (None, []),
    ],
    ids=["modules", "one is missing", "loaded", "none", "not visible"],
)
def test_modules_that_clsact_needs_are_looked_for(lists: str | None, missing: list[str]) -> None:
    assert missing_modules(lists) == missing


@pytest.mark.parametrize("loads_modules", [True, False])
def test_lists_of_modules_are_read_also_of_a_kernel_that_loads_none(tmp_path: Path, loads_modules: bool) -> None:
    loaded = tmp_path / "loaded"
    assert module_lists(tmp_path / "release", loaded) is None
    (tmp_path / "modules.dep").write_text("kernel/net/sched/sch_ingress.ko:\n")
    (tmp_path / "modules.builtin").write_text("kernel/net/core/other.ko\n")
    if loads_modules:
        loaded.write_text("cls_bpf 24576 2 - Live 0x0\n")
    assert missing_modules(module_lists(tmp_path, loaded)) == ([] if loads_modules else ["cls_bpf"])


def test_the_check_warns_where_short_packets_are_lost() -> None:
    assert "ARP" in drops_short_packets(HookSettings(uplinks="tc"), DEBIAN)
    for settings, kernel in (
        (HookSettings(uplinks="tc"), NEW),
        (HookSettings(uplinks="auto"), DEBIAN),
        (HookSettings(uplinks="tc", over_ipv6=False), DEBIAN),
    ):
        assert drops_short_packets(settings, kernel) == ""
