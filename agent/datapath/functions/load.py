"""Loads a user's program into the kernel with the agent's program around it, and runs it on sample frames.

Pins nothing and fills no slot: `install` does. Whatever the program's author has to mend is a FunctionError; every
other refusal of the kernel is an OSError.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from agent.datapath.bpf import programs
from agent.datapath.bpf import syscall as bpf
from agent.datapath.bpf.compiler import CompiledProgram
from agent.datapath.functions.frames import clear_frames, depth_of_entry, depths_of
from agent.datapath.functions.isolation import TARGET, isolate, isolate_in_one_frame
from agent.datapath.functions.linker import link, link_process, map_of
from agent.datapath.functions.pointer_flow import follow
from agent.datapath.functions.refusals import FunctionError
from agent.datapath.functions.sample_run import DESCRIPTION, SAMPLE, harness, is_verdict, samples
from agent.datapath.functions.user_program import CONFIGURATION, CONFIGURATION_SIZE, UserMap, UserProgram
from agent.datapath.functions.verifier_summary import bounded, summarize

BPF_F_RDONLY_PROG = 1 << 7
_ONLY = bytes(4)
_OURS = (errno.EPERM, errno.ENOMEM, errno.EAGAIN, errno.EINTR)
"""Refusals that say nothing of the program: a missing privilege, no memory."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a program runs: the hook's shell and type, its index in the jump table, and what faults do.

    `process` is the program in the place of a shell for a function in a process. `peer`: it may know droplets.
    """

    shell: CompiledProgram
    kind: bpf.ProgramType
    index: int
    closed: bool = False
    process: CompiledProgram | None = None
    peer: bool = True


def create_map(one: UserMap) -> int:
    """Create a map that a program declares; return its descriptor."""
    flags = one.flags | (bpf.BPF_F_NO_PREALLOC if one.type == bpf.MapType.LPM_TRIE else 0)
    try:
        return bpf.create_map(bpf.MapType(one.type), one.key_size, one.value_size, one.max_entries, flags, one.name)
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.E2BIG):
            raise FunctionError(f"the kernel does not create the map {one.name}: {error.strerror}") from error
        raise


def create_configuration(content: bytes) -> int:
    """Create the map with a function's configuration, which programs cannot write; return its descriptor."""
    made = bpf.create_map(bpf.MapType.ARRAY, 4, CONFIGURATION_SIZE, 1, BPF_F_RDONLY_PROG, "function_config")
    try:
        write_configuration(made, content)
    except BaseException:
        os.close(made)
        raise
    return made


def write_configuration(descriptor: int, content: bytes) -> None:
    """Replace the configuration; programs see the old or the new bytes, a mixture for a moment at most."""
    bpf.update(descriptor, _ONLY, content.ljust(CONFIGURATION_SIZE, b"\0"))


@contextlib.contextmanager
def temporary_maps(program: UserProgram, configuration: bytes) -> Iterator[dict[str, int]]:
    """Create all maps of a program; they are closed at the end. By the names that a linked program has for them."""
    with contextlib.ExitStack() as undo:
        opened = {map_of(CONFIGURATION): create_configuration(configuration)}
        undo.callback(os.close, opened[map_of(CONFIGURATION)])
        for one in program.maps:
            opened[map_of(one.name)] = descriptor = create_map(one)
            undo.callback(os.close, descriptor)
        yield opened


def load(program: UserProgram, place: Place, maps: Mapping[str, int], most: int) -> int:
    """Load a program for one hook; return its descriptor. `maps` are the agent's and the function's.

    Raises FunctionError if the verifier refuses it, or processed more than `most` instructions.
    """
    if not program.instructions:
        return _load_process(place, maps)

    def linked(one: UserProgram) -> tuple[CompiledProgram, int]:
        whole = link(place.shell, one, index=place.index, closed=place.closed)
        return whole, len(place.shell.instructions) // 8

    descriptor = _load_cleared(program, linked, maps, place.kind, peer=place.peer)
    checked = bpf.verified_instructions(descriptor)
    if checked > most:
        os.close(descriptor)
        raise FunctionError(
            f"the verifier had to process {checked} instructions, the limit of this host is {most}: do less for each "
            "packet, bound loops by smaller constants, or raise max_instructions in [functions] of the settings"
        )
    return descriptor


def _load_process(place: Place, maps: Mapping[str, int]) -> int:
    assert place.process is not None
    linked = link_process(place.process, index=place.index, closed=place.closed)
    return bpf.load_program(programs.relocate(linked, maps), place.kind, name=linked.name)


def run_on_samples(program: UserProgram, point: int, maps: Mapping[str, int]) -> None:
    """Run a program on sample frames; `maps` are only the function's, and should be temporary.

    Raises FunctionError if the verifier refuses it, or if it returns what is no verdict.
    """
    sample = bpf.create_map(bpf.MapType.ARRAY, 4, DESCRIPTION.size, 1, name="function_sample")
    try:
        descriptor = _load_cleared(program, harness, {**maps, SAMPLE: sample}, bpf.ProgramType.XDP)
        try:
            _run(descriptor, sample, point)
        finally:
            os.close(descriptor)
    finally:
        os.close(sample)


def _run(descriptor: int, sample: int, point: int) -> None:
    for name, frame, description in samples(point):
        bpf.update(sample, _ONLY, description)
        verdict, _, _ = bpf.run_program(descriptor, frame)
        if not is_verdict(verdict, point):
            raise FunctionError(
                f"it returns {_shown(verdict)} for {name}, which is no verdict at this stage point: return one of enum "
                "stage_verdict on every path"
            )


def _shown(verdict: int) -> str:
    """Return a verdict for people. A large one may be a part of an address in the kernel, which is not shown."""
    return str(verdict) if verdict < 1 << 16 else "a number above 65535"


Link = Callable[[UserProgram], tuple[CompiledProgram, int]]
"""Returns the program to load with an isolated one, and the number of the latter's first instruction in it."""


def _load_cleared(
    program: UserProgram, linked: Link, maps: Mapping[str, int], kind: bpf.ProgramType, *, peer: bool = True
) -> int:
    """Load a program that clears its stack before it uses it; return its descriptor.

    It is loaded twice: the verifier says how much stack it uses.
    """
    isolated = isolate(program, peer=peer)
    bare, depths = _load(isolated, linked, maps, kind)
    try:
        final = _final(program, depths, peer=peer)
        if final == isolated:
            return fcntl.fcntl(bare, fcntl.F_DUPFD_CLOEXEC, 3)
        return _load(final, linked, maps, kind)[0]
    finally:
        os.close(bare)


def _final(program: UserProgram, depths: Sequence[int], *, peer: bool) -> UserProgram:
    """Return the program with cleared frames, isolated in the cheapest way."""
    cleared, use, depth = clear_frames(program, depths), follow(program), depth_of_entry(program, depths)
    if depth is None or use.written.intersection(TARGET):
        return isolate(cleared, peer=peer)
    return isolate_in_one_frame(cleared, use, depth, peer=peer)


def _load(
    isolated: UserProgram, linked: Link, maps: Mapping[str, int], kind: bpf.ProgramType
) -> tuple[int, tuple[int, ...]]:
    """Return the descriptor, and the bytes of stack that each function of the linked program uses."""
    whole, start = linked(isolated)
    try:
        descriptor, log = bpf.load_with_statistics(programs.relocate(whole, maps), kind, name=whole.name)
    except bpf.VerifierError as error:
        if error.errno in _OURS and not error.log:
            raise
        raise FunctionError(summarize(error.log, isolated, start), bounded(error.log)) from error
    return descriptor, depths_of(log)
