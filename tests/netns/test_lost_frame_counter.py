"""What the kernel drops after a verdict is counted: which tracepoint tells what, and of whose programs.

Frames go through programs by live test runs, as if they had come in on `in0`, and are redirected to another interface.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from agent.core.faults.lost_frames import FrameLoss, loss_reason_of
from agent.core.model.map_layout import FAILURE_COUNT, FAILURE_EXCEPTION, FAILURE_KEY, MapName
from agent.datapath.attach.xdp import AttachableProgram, AttachMode, attach, detach
from agent.datapath.bpf import lost_frame_counter
from agent.datapath.bpf import syscall as bpf
from agent.datapath.bpf.lost_frame_counter import why_not_counted
from agent.datapath.kernel import Kernel, KernelConfig
from agent.datapath.net.device_statistics import statistics, unsent_frames
from agent.datapath.net.netlink import Netlink
from tests.netns.conftest import Topo, enter, ip, ip_json, run
from tests.netns.programs import owning

FRAME = bytes.fromhex("0200000000010200000000020800") + bytes(86)
FRAMES = 8
REDIRECT = 23
"""bpf_redirect() in enum bpf_func_id."""


@contextmanager
def redirecting(to: int) -> Iterator[tuple[int, int]]:
    """Load a program that redirects each frame to an interface; yield its descriptor and its id."""
    code = struct.pack("=BBhi", 0xB7, 1, 0, to) + struct.pack("=BBhi", 0xB7, 2, 0, 0)
    code += struct.pack("=BBhi", 0x85, 0, 0, REDIRECT) + struct.pack("=BBhi", 0x95, 0, 0, 0)
    descriptor = bpf.load_program(code, name="redirecting")
    try:
        yield descriptor, bpf.program_info(descriptor).id
    finally:
        os.close(descriptor)


def send(program: int, arrival: int, size: int = len(FRAME), frames: int = FRAMES) -> None:
    frame = FRAME + bytes(size - len(FRAME))
    bpf.run_program(program, frame, repeat=frames, ifindex=arrival, flags=bpf.BPF_F_TEST_XDP_LIVE_FRAMES)


def by_reason(counts: dict[FrameLoss, int]) -> dict[tuple[str, int], int]:
    return {(loss_reason_of(failure).reason, failure.ifindex): frames for failure, frames in counts.items()}


@pytest.fixture
def arrival(topo: Topo) -> int:
    """An interface with its XDP program's memory, which live frames need to come in on."""
    ip("link", "add", "in0", "type", "veth", "peer", "name", "in1")
    ip("link", "set", "in0", "up")
    ip("link", "set", "in1", "up")
    return topo.ifindex("in0")


def no_driver(topo: Topo) -> int:
    ip("link", "add", "link", "eth0", "name", "mac0", "type", "macvlan", "mode", "bridge")
    ip("link", "set", "mac0", "up")
    return topo.ifindex("mac0")


def no_gro(topo: Topo) -> int:
    run("ip", "netns", "exec", topo.underlay, "ethtool", "-K", "sub0", "gro", "off")
    return topo.ifindex("eth0")


def peer_down(topo: Topo) -> int:
    ip("link", "set", "sub0", "down", namespace=topo.underlay)
    return topo.ifindex("eth0")


def down(topo: Topo) -> int:
    ip("link", "set", "eth0", "down")
    return topo.ifindex("eth0")


def narrow(topo: Topo) -> int:
    ip("link", "set", "eth0", "mtu", "600")
    return topo.ifindex("eth0")


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (no_driver, "no_redirects"),
        (no_gro, "no_redirects"),
        (peer_down, "no_receiver"),
        (down, "interface_down"),
        (narrow, "too_long"),
        (lambda topo: 4711, "no_interface"),
    ],
    ids=["no driver", "no GRO", "peer down", "down", "too long", "gone"],
)
async def test_every_frame_that_the_kernel_drops_is_counted_by_reason_and_interface(
    topo: Topo, kernel: Kernel, arrival: int, broken, reason: str
) -> None:
    to = broken(topo)
    with redirecting(to) as (program, number):
        kernel.failures.tend([number], [arrival])
        assert kernel.failures.unavailable == ""
        send(program, arrival, size=1000)
    assert by_reason(kernel.failures.read()) == {(reason, to): FRAMES}


async def test_frames_that_leave_are_not_counted(topo: Topo, kernel: Kernel, arrival: int) -> None:
    with redirecting(topo.ifindex("eth0")) as (program, number):
        kernel.failures.tend([number], [arrival])
        send(program, arrival)
    assert kernel.failures.read() == {}


async def test_a_full_queue_is_reported_by_the_device_without_an_error(
    topo: Topo, kernel: Kernel, arrival: int
) -> None:
    """A veth's queue holds 256 frames; a thread of its own reads them here, more slowly than they come."""
    command = "echo 1 > /sys/class/net/sub0/threaded"
    run("ip", "netns", "exec", topo.underlay, "sh", "-c", command)
    with redirecting(topo.ifindex("eth0")) as (program, number):
        kernel.failures.tend([number], [arrival])
        send(program, arrival, frames=200_000)
    found = by_reason(kernel.failures.read())
    assert set(found) == {("queue_full", topo.ifindex("eth0"))}


def pair(name: str, peer: str, namespace: str, *options: str) -> int:
    """Make a veth whose other end would receive redirected frames, and is down; return its number."""
    ip("link", "add", "name", name, *options, "type", "veth", "peer", "name", peer, namespace=namespace)
    for one in (name, peer):
        ip("link", "set", one, "up", namespace=namespace)
    run("ip", "netns", "exec", namespace, "ethtool", "-K", peer, "gro", "on")
    ip("link", "set", peer, "down", namespace=namespace)
    return int(ip_json("link", "show", name, namespace=namespace)[0]["ifindex"])


async def test_failures_of_other_owners_programs_are_not_counted(topo: Topo, kernel: Kernel, arrival: int) -> None:
    """Another owner's program, another interface, and an interface of the same number in another namespace."""
    kernel.failures.tend([1 << 30], [arrival])
    with redirecting(no_driver(topo)) as (program, _):
        send(program, arrival)
    with redirecting(pair("x0", "x1", topo.droplet)) as (program, _):
        send(program, topo.ifindex("eth0"))
    assert pair("y0", "y1", topo.underlay, "index", str(arrival)) == arrival
    with redirecting(pair("y2", "y3", topo.underlay)) as (program, _):
        enter(topo.underlay)
        try:
            send(program, arrival)
        finally:
            enter(topo.droplet)
    assert kernel.failures.read() == {}


async def test_counting_goes_on_while_no_agent_runs_and_over_its_next_start(
    topo: Topo, config: KernelConfig, arrival: int
) -> None:
    to = no_driver(topo)
    with redirecting(to) as (program, number):
        first = await Kernel.open(config)
        first.failures.tend([number], [arrival])
        send(program, arrival)
        await first.close()
        send(program, arrival)
        second = await Kernel.open(config)
        try:
            assert by_reason(second.failures.read()) == {("no_redirects", to): 2 * FRAMES}
            second.failures.tend([number], [arrival])
            send(program, arrival)
            assert by_reason(second.failures.read()) == {("no_redirects", to): 3 * FRAMES}
        finally:
            await second.close()


async def test_an_agent_without_count_lost_frames_detaches_earlier_programs(
    topo: Topo, config: KernelConfig, arrival: int
) -> None:
    with redirecting(no_driver(topo)) as (program, number):
        first = await Kernel.open(config)
        first.failures.tend([number], [arrival])
        await first.close()
        second = await Kernel.open(replace(config, count_lost_frames=False))
        try:
            second.failures.tend([number], [arrival])
            assert second.failures.unavailable == "the setting count_lost_frames is false"
            assert not list(config.pins.links.iterdir()), "links without a pin are closed by the kernel"
            send(program, arrival)
            assert second.failures.read() == {}
        finally:
            await second.close()


async def test_failures_beyond_the_size_of_the_map_are_counted_together(
    topo: Topo, kernel: Kernel, arrival: int
) -> None:
    failures = kernel.maps[MapName.FAILURES]
    nothing = bytes(bpf.percpu_stride(FAILURE_COUNT.size) * bpf.possible_cpus())
    with redirecting(no_driver(topo)) as (program, number):
        kernel.failures.tend([number], [arrival])
        for index in range(failures.info.max_entries - 1):  # one exists already: the overflow entry
            bpf.update(failures.descriptor, FAILURE_KEY.pack(FAILURE_EXCEPTION, 0, index), nothing)
        send(program, arrival)
    assert by_reason(kernel.failures.read()) == {("other", 0): FRAMES}


async def test_a_kernel_without_btf_is_reported_and_does_not_stop_the_agent(
    topo: Topo, kernel: Kernel, monkeypatch: pytest.MonkeyPatch, tmp_path
) -> None:
    assert why_not_counted() == ""
    read = lost_frame_counter.field_offsets
    monkeypatch.setattr(lost_frame_counter, "VMLINUX", tmp_path / "none")
    monkeypatch.setattr(lost_frame_counter, "field_offsets", lambda wanted: read(wanted, tmp_path / "none"))
    lacking = "the kernel has no type information (CONFIG_DEBUG_INFO_BTF)"
    assert why_not_counted() == lacking
    kernel.failures._layout = None
    kernel.failures.tend([], [])
    assert kernel.failures.unavailable == lacking
    assert kernel.failures.read() == {}


async def test_without_tracepoints_there_is_what_the_uplinks_driver_did_not_send(
    topo: Topo, kernel: Kernel, arrival: int
) -> None:
    """Of a veth what did not fit into the queue; what it refused altogether is among its dropped packets alone."""
    await kernel.follow_modes(await kernel.uplinks())
    assert kernel.read_device_losses() == {}
    run("ip", "netns", "exec", topo.underlay, "sh", "-c", "echo 1 > /sys/class/net/sub0/threaded")
    with redirecting(topo.ifindex("eth0")) as (program, number):
        kernel.failures.tend([number], [arrival])
        send(program, arrival, frames=200_000)
    lost = by_reason(kernel.failures.read())["queue_full", topo.ifindex("eth0")]
    assert kernel.read_device_losses() == {"eth0": lost}, "both count the same"
    assert tx_dropped("eth0") == lost
    assert unsent_frames("lo") == 0, "it has no such statistics"
    assert unsent_frames("gone0") == 0, "it is not there"
    for name, number in (("lo", errno.EOPNOTSUPP), ("gone0", errno.ENODEV)):
        with pytest.raises(OSError) as raised:
            statistics(name)
        assert raised.value.errno == number


async def test_a_kernel_that_refuses_programs_on_tracepoints_is_reported(
    topo: Topo, kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lost_frame_counter, "TRACERS", dict.fromkeys(lost_frame_counter.TRACERS, "no_such_tracepoint"))
    assert why_not_counted() == "the kernel has no XDP tracepoints (CONFIG_TRACEPOINTS)"


async def test_in_generic_mode_what_a_device_drops_is_in_its_own_statistics_alone(
    topo: Topo, kernel: Kernel, arrival: int
) -> None:
    """The stack's transmission says that it took the frame: no tracepoint of XDP hears of it."""
    to = peer_down(topo)
    with redirecting(to) as (program, number):
        kernel.failures.tend([number], [arrival])
        loaded = AttachableProgram(program, number, "redirecting")
        async with Netlink() as netlink:
            await attach(netlink, arrival, loaded, owning(loaded), AttachMode.GENERIC)
            before = tx_dropped("eth0")
            with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sender:
                sender.bind(("in1", 0))
                for _ in range(FRAMES):
                    sender.send(FRAME)
            assert tx_dropped("eth0") - before >= FRAMES
            await detach(netlink, arrival, owning(loaded))
    assert kernel.failures.read() == {}


def tx_dropped(interface: str) -> int:
    (link,) = ip_json("-s", "link", "show", interface)
    return int(link["stats64"]["tx"]["dropped"])
