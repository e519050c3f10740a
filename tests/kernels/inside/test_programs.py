"""Every program passes the verifier of the second kernel, with every set of features that a host can choose."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from agent.core.model.features import Features
from agent.core.model.hooks import Hook
from agent.datapath.bpf import programs
from agent.datapath.bpf import syscall as bpf
from agent.datapath.bpf.compiler import CompiledProgram, MapDefinition, compile_programs
from agent.datapath.functions.isolation import isolate
from agent.datapath.functions.linker import link, map_of
from agent.datapath.functions.load import BPF_F_RDONLY_PROG
from agent.datapath.functions.user_program import CONFIGURATION, CONFIGURATION_SIZE, UserProgram
from agent.datapath.loading import TYPES
from tests.kernels.programs import VARIANTS

INSTRUCTION_BUDGET = 700_000
"""Instructions that the verifier may look at in a program; it gives up after 1,000,000."""


def described(value: Features | Hook) -> str:
    return value if isinstance(value, Hook) else " ".join(flag.removeprefix("-D") for flag in value.flags()[1:])


def made(one: MapDefinition) -> int:
    """Make a map as it is declared; where the size is left to the settings, a small one."""
    return bpf.create_map(bpf.MapType(one.type), one.key_size, one.value_size, one.max_entries or 8, one.flags)


def around_a_function(shell: CompiledProgram, maps: dict[str, int]) -> CompiledProgram:
    """Link a function that lets all packets go on, with its configuration among the maps."""
    name = map_of(CONFIGURATION)
    if name not in maps:
        maps[name] = bpf.create_map(bpf.MapType.ARRAY, 4, CONFIGURATION_SIZE, 1, BPF_F_RDONLY_PROG, "configured")
    return link(shell, isolate(UserProgram(bytes.fromhex("b7000000010000009500000000000000"))), index=0, closed=True)


@pytest.mark.parametrize(("hook", "choice"), VARIANTS, ids=described)
def test_the_programs_pass_the_verifier(hook: Hook, choice: Features, cache: Path) -> None:
    """A refusal is VerifierError, which holds the verifier's log."""
    compiled = asyncio.run(compile_programs(cache, features=choice, hook=hook))
    maps = {one.name: made(one) for one in compiled.maps}
    try:
        for program in (*compiled.programs, *(around_a_function(shell, maps) for shell in compiled.shells)):
            loaded = programs.load(program, maps, TYPES[hook])
            assert loaded.map_ids
            assert bpf.verified_instructions(loaded.fd) < INSTRUCTION_BUDGET
            os.close(loaded.fd)
    finally:
        for descriptor in maps.values():
            os.close(descriptor)
