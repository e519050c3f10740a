"""Compiling, caching, loading and pinning, on the real compiler, kernel and bpf file system."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from bpf_dut import XDP_ONLY, Dut

from agent.core.model.hooks import PROGRAMS, Hook
from agent.datapath.bpf import compiler, programs
from agent.datapath.bpf import syscall as bpf
from agent.datapath.bpf.compiler import CompiledObject, CompileError, compile_programs


@pytest.fixture
def bpffs(tmp_path: Path) -> Iterator[Path]:
    """A bpf file system of its own."""
    folder = tmp_path / "bpf"
    folder.mkdir()
    subprocess.run(["mount", "-t", "bpf", "bpf", str(folder)], check=True)
    yield folder / "programs"
    subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    return Path(shutil.copytree(compiler.SOURCES, tmp_path / "sources"))


@XDP_ONLY
@pytest.mark.parametrize("name", PROGRAMS[Hook.XDP])
def test_every_program_passes_the_verifier(compiled: CompiledObject, shared_dut: Dut, name: str) -> None:
    program = programs.load(compiled.program(name), shared_dut.fds)
    os.close(program.fd)


@XDP_ONLY
def test_a_program_uses_the_maps_that_it_was_given(compiled: CompiledObject, shared_dut: Dut) -> None:
    ids = {bpf.map_info(fd).id for fd in shared_dut.fds.values()}
    for program in shared_dut.programs.values():
        assert program.map_ids <= ids


def test_an_unchanged_text_is_not_compiled_again(
    lab_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = asyncio.run(compile_programs(lab_cache))
    shutil.copy(lab_cache / f"{first.hash}.object", tmp_path)
    monkeypatch.setattr(sys, "executable", "/bin/false")
    assert asyncio.run(compile_programs(tmp_path)) == first
    assert [path.name for path in tmp_path.iterdir()] == [f"{first.hash}.object"]


def test_a_damaged_object_is_compiled_again(tmp_path: Path) -> None:
    path = tmp_path / f"{compiler.content_hash()}.object"
    path.write_bytes(b"\xc1 noise")
    assert asyncio.run(compile_programs(tmp_path)).hash == compiler.content_hash()
    assert path.read_bytes() != b"\xc1 noise"


@pytest.mark.parametrize(
    "name", ["entry/from_endpoint.h", "outcomes.h", "hooks/xdp.h", "lib/arp.h", "shim/include/linux/log2.h"]
)
def test_a_changed_source_has_another_hash(sources: Path, name: str) -> None:
    before = compiler.content_hash(sources)
    path = sources / name
    path.write_text(path.read_text() + "/* changed */\n")
    assert compiler.content_hash(sources) != before


def test_the_compilers_message_names_file_and_line(sources: Path, tmp_path: Path) -> None:
    path = sources / "lib" / "arp.h"
    lines = path.read_text().splitlines()
    at = next(number for number, line in enumerate(lines) if "answer_arp" in line)
    lines.insert(at, "nonsense nonsense;")
    path.write_text("\n".join(lines))
    with pytest.raises(CompileError, match=rf"bpf/lib/arp\.h:{at + 1}:"):
        asyncio.run(compile_programs(tmp_path / "cache", sources))
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_program_that_the_verifier_refuses_comes_with_its_log() -> None:
    exit_alone = bytes([0x95, 0, 0, 0, 0, 0, 0, 0])
    with pytest.raises(bpf.VerifierError, match="R0 !read_ok") as caught:
        bpf.load_program(exit_alone, name="bad")
    assert "processed" in caught.value.log


@XDP_ONLY
def test_a_pinned_program_is_opened_and_not_loaded_again(
    compiled: CompiledObject, shared_dut: Dut, bpffs: Path
) -> None:
    first = programs.ensure_programs(compiled, shared_dut.fds, bpffs, "test")
    second = programs.ensure_programs(compiled, shared_dut.fds, bpffs, "test")
    assert {name: p.id for name, p in first.items()} == {name: p.id for name, p in second.items()}
    assert sorted(path.name for path in (bpffs / compiled.hash).iterdir()) == sorted(PROGRAMS[Hook.XDP])
    programs.close(first)
    programs.close(second)


@XDP_ONLY
def test_a_pinned_program_with_other_maps_is_replaced(compiled: CompiledObject, shared_dut: Dut, bpffs: Path) -> None:
    other = Dut(compiled)
    first = programs.ensure_programs(compiled, other.fds, bpffs, "test")
    second = programs.ensure_programs(compiled, shared_dut.fds, bpffs, "test")
    assert all(first[name].id != second[name].id for name in first)
    assert all(second[name].map_ids == shared_dut.programs[name].map_ids for name in second)
    programs.close(first)
    programs.close(second)
    other.close()
