"""The cache of compiled programs: whoever can write it decides what runs in the kernel."""

from __future__ import annotations

import asyncio
import fcntl
import os
import stat
from pathlib import Path

import msgspec
import pytest
from lab.waiting import PATIENCE

from agent.core.model.features import Features
from agent.core.model.hooks import Hook
from agent.datapath.bpf import compiler
from agent.datapath.bpf.compiler import CompiledObject, compile_programs, content_hash, refuse_foreign


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> CompiledObject:
    """What the compiler's child leaves behind, without a compiler."""
    made = CompiledObject(content_hash(), (), ())

    async def leave(output: Path, sources: Path, features: Features, hook: Hook) -> None:
        del sources, features
        await asyncio.to_thread(output.write_bytes, msgspec.msgpack.encode(made))

    monkeypatch.setattr(compiler, "_run_child", leave)
    return made


def test_folder_and_object_are_the_agents_alone(compiled: CompiledObject, tmp_path: Path) -> None:
    umask = os.umask(0)
    try:
        assert asyncio.run(compile_programs(tmp_path / "cache")) == compiled
    finally:
        os.umask(umask)
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "cache", *(tmp_path / "cache").iterdir())]
    assert modes == [0o700, 0o600]
    assert asyncio.run(compile_programs(tmp_path / "cache")) == compiled


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o1777])
def test_a_folder_that_others_can_write_is_refused(compiled: CompiledObject, tmp_path: Path, mode: int) -> None:
    tmp_path.chmod(mode)
    with pytest.raises(PermissionError, match="others may write"):
        asyncio.run(compile_programs(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_an_object_that_others_can_write_is_refused(compiled: CompiledObject, tmp_path: Path) -> None:
    asyncio.run(compile_programs(tmp_path))
    (kept,) = tmp_path.iterdir()
    kept.chmod(0o666)
    with pytest.raises(PermissionError, match="others may write"):
        asyncio.run(compile_programs(tmp_path))


def test_files_of_another_user_are_refused_except_roots(tmp_path: Path) -> None:
    def owned_by(user: int) -> os.stat_result:
        return os.stat_result((stat.S_IFDIR | 0o700, 0, 0, 1, user, 0, 0, 0, 0, 0))

    refuse_foreign(tmp_path, owned_by(0))
    refuse_foreign(tmp_path, owned_by(os.geteuid()))
    with pytest.raises(PermissionError, match="belongs to user 4711"):
        refuse_foreign(tmp_path, owned_by(4711))


def test_each_set_of_features_has_an_object_of_its_own() -> None:
    chosen = (Features(), Features(geneve_port=7000), Features(vxlan_port=0), Features(vlan_tags=True))
    chosen += (Features(families=frozenset({"ipv4"})), Features(underlay=frozenset({"ipv4"})))
    assert len({content_hash(features=features) for features in chosen}) == len(chosen)
    assert content_hash(features=Features()) == content_hash()


def test_agents_that_start_together_compile_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made, runs = CompiledObject(content_hash(), (), ()), []
    lock, refused, all_refused = compiler._lock, set[int](), asyncio.Event()

    def noticed(descriptor: int) -> bool:
        if lock(descriptor):
            return True
        refused.add(descriptor)
        if len(refused) == 2:
            all_refused.set()
        return False

    async def leave(output: Path, sources: Path, features: Features, hook: Hook) -> None:
        runs.append(output)
        async with asyncio.timeout(PATIENCE):
            await all_refused.wait()
        await asyncio.to_thread(output.write_bytes, msgspec.msgpack.encode(made))

    async def start_three() -> list[CompiledObject]:
        return await asyncio.gather(*(compile_programs(tmp_path) for _ in range(3)))

    monkeypatch.setattr(compiler, "_lock", noticed)
    monkeypatch.setattr(compiler, "_run_child", leave)
    assert asyncio.run(start_three()) == [made] * 3
    assert len(runs) == 1
    assert [one.suffix for one in tmp_path.iterdir()] == [".object"]


def test_other_objects_are_compiled_meanwhile(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An agent compiles for both hooks at once."""
    begun: set[Hook] = set()
    both = asyncio.Event()

    async def leave(output: Path, sources: Path, features: Features, hook: Hook) -> None:
        begun.add(hook)
        if len(begun) == len(Hook):
            both.set()
        async with asyncio.timeout(PATIENCE):
            await both.wait()
        made = CompiledObject(content_hash(hook=hook), (), ())
        await asyncio.to_thread(output.write_bytes, msgspec.msgpack.encode(made))

    async def start_both() -> None:
        await asyncio.gather(*(compile_programs(tmp_path, hook=hook) for hook in Hook))

    monkeypatch.setattr(compiler, "_run_child", leave)
    asyncio.run(start_both())


def test_a_cached_object_does_not_wait_for_a_compilation(compiled: CompiledObject, tmp_path: Path) -> None:
    asyncio.run(compile_programs(tmp_path))
    descriptor = os.open(tmp_path / f"{content_hash()}.lock", os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)  # as another agent does that compiles the same
        assert asyncio.run(asyncio.wait_for(compile_programs(tmp_path), 60)) == compiled
    finally:
        os.close(descriptor)


def test_a_compilation_that_fails_lets_the_next_one_try(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    async def fail(output: Path, sources: Path, features: Features, hook: Hook) -> None:
        raise compiler.CompileError("no room")

    monkeypatch.setattr(compiler, "_run_child", fail)
    for _ in range(2):
        with pytest.raises(compiler.CompileError, match="no room"):
            asyncio.run(compile_programs(tmp_path))
