"""Namespaces that appear are noticed without anybody asking for them again and again."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from lab.processes import living_in
from lab.waiting import PATIENCE

from agent.datapath.net.namespace_watch import NamespaceWatch
from tests.netns.conftest import ip, run

NAME = f"knw{os.getpid()}"


@pytest.fixture
def names() -> Iterator[list[str]]:
    """Names of namespaces, which are removed afterwards."""
    made = [f"{NAME}{number}" for number in range(3)]
    yield made
    for name in made:
        ip("netns", "del", name, check=False)


@pytest.fixture
async def used() -> set[str]:
    return set()


@pytest.fixture
async def watch(used: set[str]) -> AsyncIterator[NamespaceWatch]:
    made = NamespaceWatch(lambda: used)
    yield made
    made.close()


@pytest.fixture
async def later(watch: NamespaceWatch) -> AsyncIterator[NamespaceWatch]:
    """A second watch in the same event loop, which reads each event after `watch` did."""
    made = NamespaceWatch(set)
    yield made
    made.close()


async def appeared(watch: NamespaceWatch, wanted: set[str]) -> None:
    """Wait until the watch tells of some namespaces, and of no others."""
    found: set[str] = set()
    async with asyncio.timeout(PATIENCE):
        while found != wanted:
            found |= await watch.wait()
            assert found <= wanted


async def add(name: str) -> None:
    await asyncio.to_thread(ip, "netns", "add", name)


async def test_an_awaited_namespace_is_reported_when_it_is_ready(names: list[str], watch: NamespaceWatch) -> None:
    """Its file is there before the namespace is mounted on it."""
    first, second, other = names
    watch.set_waiting({first, f"/run/netns/{second}", f"/var/run/netns/{NAME}never"})
    await add(other)
    await add(first)
    await appeared(watch, {first})
    await add(second)
    await appeared(watch, {f"/run/netns/{second}"})


async def test_one_folder_may_have_several_paths(names: list[str], watch: NamespaceWatch, tmp_path: Path) -> None:
    """As /var/run/netns and /run/netns."""
    first, second, _ = names
    alias = tmp_path / "alias"
    alias.symlink_to("/run/netns")
    watch.set_waiting({first, f"{alias}/{second}"})
    await add(first)
    await appeared(watch, {first})
    watch.set_waiting({f"{alias}/{second}"})
    await add(second)
    await appeared(watch, {f"{alias}/{second}"})


async def test_a_namespace_that_appeared_before_it_was_awaited_is_reported(
    names: list[str], watch: NamespaceWatch
) -> None:
    await add(names[0])
    watch.set_waiting({names[0]})
    await appeared(watch, {names[0]})


async def test_a_recreated_namespace_is_reported_to_its_users(
    names: list[str], used: set[str], watch: NamespaceWatch
) -> None:
    await add(names[0])
    used.add(names[0])
    await asyncio.to_thread(ip, "netns", "del", names[0])
    await add(names[0])
    await appeared(watch, {names[0]})


async def test_a_folder_that_is_not_there_yet_is_waited_for(
    names: list[str], watch: NamespaceWatch, tmp_path: Path
) -> None:
    """As /run/netns is not before the first namespace of a host."""
    path = tmp_path / "not" / "yet" / "tenant"
    watch.set_waiting({str(path)})
    await add(names[0])
    await asyncio.to_thread(make_at, path, names[0])
    try:
        await appeared(watch, {str(path)})
        await asyncio.to_thread(remove_at, path)
        watch.set_waiting(set())
        watch.set_waiting({str(path)})
        await asyncio.to_thread(make_at, path, names[0])
        await appeared(watch, {str(path)})
    finally:
        run("umount", str(path), check=False)


def make_at(path: Path, name: str) -> None:
    path.parent.mkdir(parents=True)
    path.touch()
    run("mount", "--bind", f"/run/netns/{name}", str(path))


def remove_at(path: Path) -> None:
    run("umount", str(path))
    path.unlink()
    path.parent.rmdir()


async def test_a_process_is_looked_for_a_few_times_and_no_longer(names: list[str], watch: NamespaceWatch) -> None:
    """Its document may come before it has a namespace of its own."""
    await add(names[0])
    with living_in(names[0]) as pid:
        free = 4_194_303
        watch.set_waiting({str(pid), str(free), f"/proc/{free}/ns/net"})
        await appeared(watch, {str(pid)})
        await asyncio.to_thread(lambda: None)


async def test_irrelevant_changes_wake_no_waiter(
    names: list[str], watch: NamespaceWatch, later: NamespaceWatch
) -> None:
    awaited, *others = names
    watch.set_waiting({awaited})
    waiter = asyncio.create_task(watch.wait())
    for name in others:
        later.set_waiting({name})
        await add(name)
        await appeared(later, {name})
    assert not waiter.done(), "the kernel reported these changes to both watches"
    await add(awaited)
    async with asyncio.timeout(PATIENCE):
        assert await waiter == {awaited}
