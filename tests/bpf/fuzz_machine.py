"""The compiled programs on maps that are this process's memory: a frame runs and its books are read in microseconds.

Two things differ from the agent's own maps and programs. Arrays, per-CPU ones too, are one array that is mapped into
memory. And the call of bpf_redirect() goes by a few instructions at the program's end that write down where it leads,
since a test run does not tell.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import struct
import subprocess
from dataclasses import dataclass
from random import Random

from fuzz_frames import Frame
from fuzz_model import SLOTS, UPLINKS, Model

from agent.core.model import map_layout
from agent.core.model.endpoint_slots import IFINDEX_BASE
from agent.core.model.map_layout import MapName
from agent.datapath.bpf import programs
from agent.datapath.bpf import syscall as bpf
from agent.datapath.bpf.compiler import CompiledObject, CompiledProgram, ticks_per_second
from agent.datapath.bpf.generations import Generations
from agent.datapath.bpf.outcomes import RECEIVED, Outcome

CLONE_NEWNET = 0x40000000
MMAPABLE = 1 << 10
REDIRECT, JIFFIES = 23, 118
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
    """What became of one frame. `leaves` is the interface of a redirection, 0 when there was none."""

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


class AccountingError(AssertionError):
    """A frame was counted wrong."""


def tapped(program: CompiledProgram, maps: dict[str, int], leaves: int) -> bytes:
    """Return the instructions with a detour at each bpf_redirect(): write its first argument down, then call it."""
    code = bytearray(programs.relocate(program, maps))
    detour = len(code) // 8
    for at in range(0, len(code), 8):
        if code[at] == 0x85 and not code[at + 1] >> 4 and code[at + 4] == REDIRECT and not any(code[at + 5 : at + 8]):
            code[at + 1] = 1 << 4
            code[at + 4 : at + 8] = struct.pack("<i", detour - at // 8 - 1)
    return (
        bytes(code) + _load_address(3, leaves) + bytes.fromhex("63130000 00000000 85000000 17000000 95000000 00000000")
    )


def _load_address(register: int, fd: int) -> bytes:
    return struct.pack("<BBhiBBhi", 0x18, 2 << 4 | register, 0, fd, 0, 0, 0, 0)


def garbage(rng: Random, size: int) -> bytes:
    """Return what a frame may find in `frame_states`: any bytes, or such as flags and small numbers have."""
    kinds = (b"\xff" * size, rng.randbytes(size), bytes(rng.choices(range(8), k=size)))
    return rng.choice(kinds)


class Machine:
    """Programs and maps of one host. Use it in the namespace that `enter_namespace` made."""

    def __init__(self, compiled: CompiledObject) -> None:
        self.garbage: Random | None = None
        """Makes what each frame finds in `frame_states`, where None leaves zeros."""
        self.memory: dict[str, mmap.mmap] = {}
        self.fds = {m.name: self._create(m.name, m.type, m.key_size, m.value_size, m.max_entries, m.flags)
                    for m in compiled.maps}  # fmt: skip
        self._generations = Generations(self.fds[MapName.GENERATIONS])
        self._leaves = self._create("leaves", bpf.MapType.ARRAY, 4, 8, 1, MMAPABLE)
        self.programs = {
            p.name: bpf.load_program(tapped(p, self.fds, self._leaves), name=p.name) for p in compiled.programs
        }
        clock = _load_address(6, self._leaves) + bytes.fromhex("85000000 76000000 7b060000 00000000 b7000000 02000000")
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
        fds = [*self.fds.values(), *self.programs.values(), self._leaves, self._clock]
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
        for slot, name in map_layout.CALLED_PROGRAMS.items():
            bpf.update(self.fds["programs"], map_layout.U32.pack(slot), map_layout.U32.pack(self.programs[name]))
        if not model.delivers:
            bpf.delete(self.fds["programs"], bytes(4))
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
        """Run one frame; `before` are the direct paths. BooksError when it is not counted once with all its bytes."""
        size = map_layout.FRAME_STATE.size
        self.memory["leaves"][:8] = bytes(8)
        state = bytes(size) if self.garbage is None else garbage(self.garbage, size)
        self.memory[MapName.FRAME_STATES][:size] = state
        program, arrival, frame, metadata = one
        data = bytes(metadata) + frame
        verdict, out, _ = bpf.run_program(self.programs[program], data, ifindex=arrival, metadata=metadata)
        outcome = self._account(program, len(frame))
        leaves = int.from_bytes(self.memory["leaves"][:4], "little")
        out = out[metadata:]
        return Step(program, arrival, frame, verdict, out, outcome, leaves, self._endpoints(), before, self.paths())

    def _account(self, program: str, length: int) -> Outcome:
        memory = self.memory[MapName.OUTCOMES]
        numbers = self._outcomes.unpack_from(memory)
        memory[: len(self._clean)] = self._clean
        moved = [(Outcome(i // 2), numbers[i], numbers[i + 1]) for i in range(0, len(numbers), 2) if numbers[i]]
        received = [Outcome.RECEIVED_FROM_UNDERLAY, Outcome.RECEIVED_FROM_ENDPOINT][program == "transit_agent"]
        if (
            len(moved) != 2
            or moved[0] != (received, 1, length)
            or moved[1][1:] != (1, length)
            or moved[1][0] in RECEIVED
        ):
            raise AccountingError(f"counted {moved}, but {length} bytes came in once")
        return moved[1][0]

    def _endpoints(self) -> dict[int, tuple[int, ...]]:
        memory = self.memory[MapName.ENDPOINT_COUNTERS]
        found = memory[: len(self._traffic)]
        if found == self._traffic:
            return {}
        memory[: len(self._traffic)] = self._traffic
        rows = enumerate(map_layout.ENDPOINT_TRAFFIC.iter_unpack(found))
        return {slot: row for slot, row in rows if any(row)}
