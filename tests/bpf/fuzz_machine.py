"""The compiled programs on maps that are this process's memory: a frame runs and its books are read in microseconds.

Two things differ from the agent's own maps and programs. Arrays, per-CPU ones too, are one array that is mapped into
memory. And calls of some helpers write down what they are given, see fuzz_taps.py.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import struct
import subprocess
from dataclasses import dataclass
from random import Random

from bpf_dut import TC_VERDICTS, names_in_xdp
from fuzz_frames import SINGLE, Frame, Marks, split_tag
from fuzz_functions import install
from fuzz_model import SLOTS, UPLINKS, Model
from fuzz_parse import VLAN
from fuzz_taps import NOTES, load_address, tapped

from agent.core.model import map_layout
from agent.core.model.endpoint_slots import IFINDEX_BASE
from agent.core.model.hooks import Hook
from agent.core.model.map_layout import MapName
from agent.datapath.bpf import syscall as bpf
from agent.datapath.bpf.compiler import CompiledObject
from agent.datapath.bpf.generations import Generations
from agent.datapath.bpf.outcomes import RECEIVED, Outcome
from agent.datapath.bpf.ticks import ticks_per_second

CLONE_NEWNET = 0x40000000
MMAPABLE = 1 << 10
ARRAYS = (MapName.OUTCOMES, MapName.ENDPOINT_COUNTERS, MapName.INTERFACES, MapName.LOCAL_DROPLETS,
          MapName.ICMP_RATELIMIT, MapName.FRAME_STATES)  # fmt: skip
SIZES = {
    MapName.ENDPOINT_COUNTERS: SLOTS,
    MapName.INTERFACES: SLOTS,
    MapName.DIRECT: 2048,
    MapName.FRAGMENTS: 512,
    MapName.DETOURS: 512,
    MapName.PATH_CACHES: 1,
    MapName.HOP_CACHES: 1,
    MapName.SLOT_CACHES: 1,
}
CONFIGURED = (MapName.LOCAL_DROPLETS, MapName.DROPLETS, MapName.VPCS, MapName.NETWORKS, MapName.ENDPOINTS,
              MapName.INTERFACES, MapName.NEXT_HOPS)  # fmt: skip
_libc = ctypes.CDLL(None, use_errno=True)


def enter_namespace() -> None:
    """Move this thread into a nameless network namespace that has every interface frames arrive on."""
    if _libc.unshare(CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "unshare: network namespaces need root")
    numbers = [*UPLINKS, *(IFINDEX_BASE + slot for slot in range(SLOTS))]
    lines = [
        f"link add a{one} index {one} type veth peer name a{other} index {other}"
        for one, other in zip(numbers[::2], [*numbers[1::2], 14], strict=False)
    ]
    subprocess.run(["ip", "-batch", "-"], input="\n".join(lines), text=True, check=True)


@dataclass(frozen=True)
class Step:
    """What became of one frame. `leaves` is the interface of a redirection, 0 when there was none.

    `frame` and `out` have their VLAN tags in them, as on a wire, at tc too.
    """

    program: str
    arrival: int
    frame: bytes
    verdict: int
    out: bytes
    outcome: Outcome
    leaves: int
    traffic: dict[int, tuple[int, ...]]
    """Slot -> packets and bytes sent, direct, delivered, dropped."""
    before: dict[bytes, bytes]
    after: dict[bytes, bytes]
    """Direct paths."""
    hook: Hook = Hook.XDP
    packets: int = 1
    """How many packets the frame was counted as."""
    length: int = 0
    """Bytes that the frame was counted with."""
    marks: Marks = SINGLE


class AccountingError(AssertionError):
    """A frame was counted wrong."""


def garbage(rng: Random, size: int) -> bytes:
    """Return what a frame may find in `frame_states`: any bytes, or such as flags and small numbers have."""
    kinds = (b"\xff" * size, rng.randbytes(size), bytes(rng.choices(range(8), k=size)))
    return rng.choice(kinds)


class Machine:
    """Programs and maps of one host. Use it in the namespace that `enter_namespace` made."""

    def __init__(self, compiled: CompiledObject, hook: Hook = Hook.XDP) -> None:
        self.hook = hook
        self.jump_table = map_layout.PROGRAM_ARRAYS[hook]
        self.garbage: Random | None = None
        """Makes what each frame finds in `frame_states`, where None leaves zeros."""
        self.memory: dict[str, mmap.mmap] = {}
        self.fds = {m.name: self._create(m.name, m.type, m.key_size, m.value_size, m.max_entries, m.flags)
                    for m in compiled.maps}  # fmt: skip
        self._generations = Generations(self.fds[MapName.GENERATIONS])
        self._leaves = self._create("leaves", bpf.MapType.ARRAY, 4, NOTES.size, 1, MMAPABLE)
        self._kind = bpf.ProgramType.XDP if hook is Hook.XDP else bpf.ProgramType.SCHED_CLS
        self.programs = {
            name: bpf.load_program(tapped(p, self.fds, self._leaves), self._kind, name=p.name)
            for name, p in zip(names_in_xdp(compiled), compiled.programs, strict=True)
        }
        """By their names in XDP."""
        self._functions = install(compiled, hook, self.fds, self._leaves) if compiled.shells else []
        clock = load_address(6, self._leaves) + bytes.fromhex("85000000 76000000 7b060000 00000000 b7000000 02000000")
        self._clock = bpf.load_program(clock + bytes.fromhex("95000000 00000000"), name="clock")
        self._outcomes = struct.Struct(f"={2 * len(Outcome)}Q")
        self._clean = bytes(self._outcomes.size)
        self._traffic = bytes(SLOTS * map_layout.ENDPOINT_TRAFFIC.size)

    def _create(self, name: str, kind: int, key_size: int, value_size: int, entries: int, flags: int) -> int:
        if name in ARRAYS:
            kind, flags = bpf.MapType.ARRAY, flags | MMAPABLE
        if name in set(MapName):
            entries = SIZES.get(MapName(name), entries if entries > 1 else 512)
        fd = bpf.create_map(bpf.MapType(kind), key_size, value_size, entries, flags)
        if flags & MMAPABLE:
            self.memory[name] = mmap.mmap(fd, entries * ((value_size + 7) & ~7))
        return fd

    def close(self) -> None:
        for memory in self.memory.values():
            memory.close()
        fds = [*self.fds.values(), *self.programs.values(), *self._functions, self._leaves, self._clock]
        for fd in fds:
            os.close(fd)

    def tick(self) -> int:
        """Return the kernel's tick, by which paths age."""
        bpf.run_program(self._clock, bytes(64))
        return int.from_bytes(self.memory["leaves"][:8], "little")

    def fill(self, model: Model) -> None:
        """Make the maps say what the model says, and nothing else."""
        for name in (MapName.FRAGMENTS, MapName.DETOURS, MapName.DIRECT, *CONFIGURED):
            if name in ARRAYS:
                self.memory[name][:] = bytes(len(self.memory[name]))
            else:
                bpf.delete_batch(self.fds[name], list(self._dump(name)))
        self.reset_icmp_ratelimit()
        for name, entries in model.entries(self.tick(), ticks_per_second()).items():
            for key, value in entries.items():
                bpf.update(self.fds[name], key, value)
        for index in map_layout.GENERATION_OF.values():
            self._generations.start(index)
        for slot, name in map_layout.called_programs(Hook.XDP, functions=bool(self._functions)).items():
            bpf.update(self.fds[self.jump_table], map_layout.U32.pack(slot), map_layout.U32.pack(self.programs[name]))
        if not model.delivers:
            bpf.delete(self.fds[self.jump_table], bytes(4))
        self.memory[MapName.ENDPOINT_COUNTERS][: len(self._traffic)] = self._traffic
        self.memory[MapName.OUTCOMES][: len(self._clean)] = self._clean

    def reset_icmp_ratelimit(self) -> None:
        """Fill all token buckets of ICMP errors, so that the limit does not depend on the time between frames."""
        self.memory[MapName.ICMP_RATELIMIT][:] = bytes(len(self.memory[MapName.ICMP_RATELIMIT]))

    def _dump(self, name: str) -> dict[bytes, bytes]:
        return dict(bpf.entries(self.fds[name]))

    def configured(self) -> dict[MapName, dict[bytes, bytes]]:
        """Return what stands in the maps that no program may write; in arrays, what is not empty."""
        return {
            name: {k: v for k, v in self._dump(name).items() if any(v) or name not in ARRAYS} for name in CONFIGURED
        }

    def fragment_slots(self) -> set[int]:
        """Return the slots whose fragments are remembered."""
        return {map_layout.FRAGMENT_KEY.unpack(key)[0] for key in self._dump(MapName.FRAGMENTS)}

    def paths(self) -> dict[bytes, bytes]:
        return self._dump(MapName.DIRECT)

    def run(self, one: Frame, before: dict[bytes, bytes]) -> Step:
        """Run one frame; `before` are the direct paths. AccountingError when it is not counted once with all bytes."""
        size = map_layout.FRAME_STATE.size
        self.memory["leaves"][: NOTES.size] = bytes(NOTES.size)
        state = bytes(size) if self.garbage is None else garbage(self.garbage, size)
        self.memory[MapName.FRAME_STATES][:size] = state
        verdict, out, length = self._run_xdp(one) if self.hook is Hook.XDP else self._run_tc(one)
        outcome, packets = self._account(one.program, length)
        leaves, *_ = NOTES.unpack_from(self.memory["leaves"])
        return Step(
            one.program, one.arrival, one.data, verdict, out, outcome, leaves, self._endpoints(), before, self.paths(),
            self.hook, packets, length, one.marks,
        )  # fmt: skip

    def _run_xdp(self, one: Frame) -> tuple[int, bytes, int]:
        """Return the verdict, the frame behind its metadata and the length that came in."""
        data = bytes(one.metadata) + one.data
        verdict, out, _ = bpf.run_program(self.programs[one.program], data, ifindex=one.arrival, metadata=one.metadata)
        return verdict, out[one.metadata :], len(one.data)

    def _run_tc(self, one: Frame) -> tuple[int, bytes, int]:
        """Do likewise with the tag beside the frame, where the kernel puts it before tc and takes it from behind it."""
        tag, data = split_tag(one.data)
        marks = one.marks
        verdict, out, _ = bpf.run_program(
            self.programs[one.program], data, ifindex=one.arrival, kind=self._kind, segments=marks.segments,
            segment=marks.segment if marks.by_kernel else 0,
            notes=(marks.segment, bool(tag), int.from_bytes(tag[2:], "big"), int.from_bytes(tag[:2], "little"),
                   marks.in_tunnel),
        )  # fmt: skip
        _, control, pushed, popped = NOTES.unpack_from(self.memory["leaves"])
        if pushed and tag and not popped:
            raise AccountingError("a second VLAN tag was put on a frame")
        if pushed:
            tag = VLAN.to_bytes(2, "big") + control.to_bytes(2, "big")
        elif popped:
            tag = b""
        return TC_VERDICTS[verdict], out[:12] + tag + out[12:], len(data)

    def _account(self, program: str, length: int) -> tuple[Outcome, int]:
        """Return the outcome that counted the frame, and how many packets it was counted as."""
        memory = self.memory[MapName.OUTCOMES]
        numbers = self._outcomes.unpack_from(memory)
        memory[: len(self._clean)] = self._clean
        moved = [(Outcome(i // 2), numbers[i], numbers[i + 1]) for i in range(0, len(numbers), 2) if numbers[i]]
        received = [Outcome.RECEIVED_FROM_UNDERLAY, Outcome.RECEIVED_FROM_ENDPOINT][program == "transit_agent"]
        wrong = len(moved) != 2 or moved[0][0] != received or moved[0][1:] != moved[1][1:] or moved[1][2] != length
        if wrong or moved[1][0] in RECEIVED:
            raise AccountingError(f"counted {moved}, but {length} bytes came in once")
        return moved[1][0], moved[1][1]

    def _endpoints(self) -> dict[int, tuple[int, ...]]:
        memory = self.memory[MapName.ENDPOINT_COUNTERS]
        found = memory[: len(self._traffic)]
        if found == self._traffic:
            return {}
        memory[: len(self._traffic)] = self._traffic
        rows = enumerate(map_layout.ENDPOINT_TRAFFIC.iter_unpack(found))
        return {slot: row for slot, row in rows if any(row)}
