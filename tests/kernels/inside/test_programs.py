"""Every program passes the verifier of the second kernel."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from agent.datapath import bpf_syscall as bpf
from agent.datapath import programs
from agent.datapath.compiler import PROGRAMS, compile_programs


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_passes_the_verifier(name: str, cache: Path) -> None:
    """A refusal is VerifierError, which holds the verifier's log."""
    compiled = asyncio.run(compile_programs(cache))
    maps = {
        one.name: bpf.create_map(bpf.MapType(one.type), one.key_size, one.value_size, one.max_entries or 8, one.flags)
        for one in compiled.maps
    }
    try:
        loaded = programs.load(compiled.program(name), maps)
        assert loaded.map_ids
        os.close(loaded.fd)
    finally:
        for descriptor in maps.values():
            os.close(descriptor)
