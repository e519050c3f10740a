"""Nanoseconds a packet: live frames through contestants on one pinned core, counted where they arrive.

Owns how a contestant is set up and measured; what the numbers mean is `report.py`'s. Time is that of the thread: the
far end's part runs in it, as soft interrupts do; the kernel's waiting around a run (it waits for RCU) does not count,
nor does what other processes take from the core.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from agent.core import layout
from agent.core.layout import MapName
from agent.core.room import overhead
from agent.datapath import bpf_syscall as bpf
from bench import frames as f
from bench.contestants import Contestant, Loaded, compile_all
from bench.wires import SLOT, TAP, WIRE, Host, Received
from controller_sim.namespaces import call_in

OURS, EMPTY, REDIRECT, BARE, KERNEL = "ours", "empty", "redirect", "bare", "kernel VXLAN + bridge"
OURS_TO_STACK = "ours, far end's stack"
INGRESS, EGRESS = "ingress", "egress"
FRAMES = 400_000
SUBSTRATE_MTU = 1500
KERNEL_FRAMES = 60_000
"""Frames of one turn; fewer through the kernel, so that all turns take about the same time."""
PATIENCE = 5.0
"""Seconds for the last frame to arrive after the run has returned."""

BARE_ENDPOINT = struct.Struct("=I6s2x")
"""struct bare_endpoint { u32 ifindex; u8 mac[6]; pad[2] }, key struct bare_key { be32 vni; be32 address }."""
BARE_PATH = struct.Struct("=4s4sI6s6s")
"""struct bare_path { be32 local, remote; u32 ifindex; u8 source[6], destination[6] }."""


class LostFramesError(RuntimeError):
    """Fewer frames arrived than were sent: the time for a packet would be a fiction."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One contestant in one direction: a frame that is run through a program as if it came in on an interface.

    `arrived` counts at the far end, None for a program that drops; `before` prepares a turn.
    """

    name: str
    direction: str
    host: Host
    program: int
    frame: bytes
    ifindex: int
    arrived: Received | None
    frames: int
    before: Callable[[], None] = lambda: None

    def turn(self, core: int) -> float:
        """Run the frames on one core and return nanoseconds a packet; LostFramesError when some do not arrive."""
        return call_in(self.host.namespace, lambda: self._run(core))

    def _run(self, core: int) -> float:
        os.sched_setaffinity(0, {core})
        self.before()
        start = self.arrived.packets() if self.arrived else 0
        began = time.thread_time_ns()
        live = bpf.BPF_F_TEST_XDP_LIVE_FRAMES
        bpf.run_program(self.program, self.frame, repeat=self.frames, ifindex=self.ifindex, flags=live)
        took = time.thread_time_ns() - began
        if missing := self._missing(start):
            raise LostFramesError(f"{self.name}, {self.direction}: {missing} of {self.frames} frames did not arrive")
        return took / self.frames

    def _missing(self, start: int) -> int:
        if self.arrived is None:
            return 0
        deadline = time.monotonic() + PATIENCE
        while (missing := start + self.frames - self.arrived.packets()) > 0 and time.monotonic() < deadline:
            time.sleep(0)
        return max(0, missing)


def our_entries(host: Host) -> dict[str, dict[bytes, bytes]]:
    """Return what our maps hold in the steady state of one conversation, beside 10,000 endpoints that are silent."""
    own, peer = layout.mapped(f.packed(f.OWN)), layout.mapped(f.packed(f.PEER))
    here = layout.mapped(f.packed(f.HERE))
    wire, mtu = host.ifindex[WIRE], SUBSTRATE_MTU - overhead("ipv4")
    ipv4 = f.packed(f.HERE)
    network = layout.network_value(layout.mapped(f.packed("10.0.0.254")), 0, (peer,))
    others = {
        layout.OVERLAY_KEY.pack(f.VNI, layout.mapped(bytes([10, 1, *number.to_bytes(2, "big")]))): layout.ENDPOINT.pack(
            peer, 0, 0, 0, f.THERE_MAC
        )
        for number in range(10_000)
    }
    return {
        MapName.LOCAL_DROPLETS: {layout.U32.pack(0): layout.LOCAL_DROPLET.pack(own, wire, wire, wire, host.mac, 0)},
        MapName.DROPLETS: {peer: layout.DROPLET.pack(0)},
        MapName.NEXT_HOPS: {layout.NEXT_HOP_KEY.pack(peer, wire): layout.NEXT_HOP.pack(f.PEER_MAC, SUBSTRATE_MTU, 0)},
        MapName.VPCS: {layout.U32.pack(f.VNI): layout.vpc_value(0, (peer,))},
        MapName.NETWORKS: {layout.network_key(f.VNI, f.packed("10.0.0.0"), 24): network},
        MapName.ENDPOINTS: {
            **others,
            layout.OVERLAY_KEY.pack(f.VNI, here): layout.ENDPOINT.pack(own, host.ifindex[TAP], 0, mtu, f.HERE_MAC),
        },
        MapName.INTERFACES: {
            layout.U32.pack(SLOT): layout.INTERFACE.pack(f.VNI, 0, bytes(16), ipv4, f.HERE_MAC, 0, mtu, 0)
        },
    }


def bare_entries(host: Host) -> dict[str, dict[bytes, bytes]]:
    """Return the one entry of each of the bare programs' maps."""
    vni = struct.pack("!I", f.VNI << 8)
    path = BARE_PATH.pack(f.packed(f.OWN), f.packed(f.PEER), host.ifindex[WIRE], host.mac, f.PEER_MAC)
    return {
        "bare_endpoints": {vni + f.packed(f.HERE): BARE_ENDPOINT.pack(host.ifindex[TAP], f.HERE_MAC)},
        "bare_paths": {vni + f.packed(f.THERE): path},
    }


def learn_direct(host: Host, loaded: Loaded) -> None:
    """Let a packet from the other endpoint in, so that the direct path is as fresh as one in use is."""
    bpf.run_program(loaded.programs["transit_xdp"], f.in_geneve(host.mac), ifindex=host.ifindex[WIRE])


@dataclass(frozen=True, slots=True)
class Hosts:
    """Where contestants run: far ends that drop by XDP, far ends that receive as an endpoint does, kernel VXLAN."""

    xdp: Host
    stack: Host
    kernel: Host


class Track:
    """Both hosts and every contestant that was asked for, ready to run. `variants` are variants of our programs."""

    def __init__(self, hosts: Hosts, loaded: dict[str, Loaded], variants: list[Contestant]) -> None:
        self.entries: list[Entry] = []
        host = hosts.xdp
        for name in (OURS, *(variant.name for variant in variants)):
            self._ours(name, host, loaded[name])
        self._ours(OURS_TO_STACK, hosts.stack, loaded[OURS_TO_STACK])
        loaded[BARE].fill(bare_entries(host))
        self._pair(BARE, host, loaded[BARE])
        for slot, name in enumerate((TAP, WIRE)):
            loaded[REDIRECT].put("leave_by", layout.U32.pack(slot), layout.U32.pack(host.ifindex[name]))
        self._pair(REDIRECT, host, loaded[REDIRECT])
        self._pair(EMPTY, host, loaded[EMPTY])
        self._pair(KERNEL, hosts.kernel, loaded["pass"])

    def _ours(self, name: str, host: Host, loaded: Loaded) -> None:
        loaded.fill(our_entries(host))
        self._pair(name, host, loaded, lambda: learn_direct(host, loaded))

    def _pair(self, name: str, host: Host, loaded: Loaded, before: Callable[[], None] = lambda: None) -> None:
        kernel, drops = name == KERNEL, name == EMPTY
        count = KERNEL_FRAMES if kernel else FRAMES
        outer = f.in_vxlan(host.mac) if kernel else f.in_geneve(host.mac)
        self.entries += [
            Entry(
                *(name, INGRESS, host, loaded.programs["transit_xdp"], outer, host.ifindex[WIRE]),
                *(None if drops else host.delivered, count, before),
            ),
            Entry(
                *(name, EGRESS, host, loaded.programs["transit_agent"], f.sent_by_endpoint(), host.ifindex[TAP]),
                *(None if drops else host.sent, count, before),
            ),
        ]


@contextmanager
def track(folder: Path, variants: list[Contestant]) -> Iterator[Track]:
    """Build everything that the measurement needs, and take it down again."""
    contestants = [Contestant(OURS), *variants, *(Contestant(name, name) for name in (EMPTY, REDIRECT, BARE, "pass"))]
    compiled = compile_all(contestants, folder)
    compiled[OURS_TO_STACK] = compiled[OURS]
    with ExitStack() as stack:
        hosts = Hosts(*(stack.enter_context(Host(f"bench{os.getpid()}{letter}")) for letter in "xsk"))
        hosts.kernel.add_kernel_vxlan()
        hosts.stack.receive_at_far_ends()
        loaded = {}
        for name, one in compiled.items():
            loaded[name] = Loaded(one)
            stack.callback(loaded[name].close)
        hosts.xdp.drop_at_far_ends(loaded[EMPTY].programs["transit_xdp"])
        yield Track(hosts, loaded, variants)


Rounds = dict[str, dict[str, list[float]]]
"""Direction, contestant, nanoseconds a packet in each round."""


def run_rounds(entries: list[Entry], rounds: int, core: int, on_turn: Callable[[str], None] = lambda _: None) -> Rounds:
    """Let all contestants take turns; one unmeasured turn each comes first."""
    measured: Rounds = {}
    for number in range(rounds + 1):
        for entry in entries:
            on_turn(f"round {number}/{rounds}: {entry.name}, {entry.direction}")
            took = entry.turn(core)
            if number:
                measured.setdefault(entry.direction, {}).setdefault(entry.name, []).append(took)
    return measured
