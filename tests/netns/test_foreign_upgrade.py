"""A program of another owner that works on the agent's maps keeps them through an upgrade to another layout."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager

import pytest
from lab.waiting import until

from agent.core.model.hooks import TRANSIT, Hook
from agent.core.model.map_layout import LAYOUT_VERSION, U32, MapName
from agent.datapath import attached_programs
from agent.datapath.bpf import marks, pins
from agent.datapath.bpf import syscall as bpf
from agent.datapath.kernel import KernelConfig
from tests.netns.conftest import Topo, ip
from tests.netns.foreign import stranger_on
from tests.netns.test_layout_upgrade import OLDER, renew
from tests.netns.test_lost_pins import LEARNT, attached_ids, opened, put_in_place


@contextmanager
def map_of(number: int) -> Iterator[int]:
    """Open a map by its id."""
    descriptor = bpf.map_by_id(number)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def content(number: int) -> dict[bytes, bytes]:
    with map_of(number) as descriptor:
        return dict(bpf.entries(descriptor))


def counted_by(number: int) -> list[bytes]:
    """Return the counters of a map for each CPU."""
    with map_of(number) as descriptor:
        info = bpf.map_info(descriptor)
        return [b"".join(bpf.lookup_percpu(descriptor, U32.pack(n), info.value_size)) for n in range(info.max_entries)]


def send_frame(interface: str) -> None:
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sender:
        sender.bind((interface, 0))
        sender.send(b"\xff" * 6 + bytes(6) + b"\x08\x00" + bytes(46))


def change(number: int, key: bytes, value: bytes) -> None:
    with map_of(number) as descriptor:
        bpf.update(descriptor, key, value)


def maps_of(program: int) -> tuple[int, ...]:
    descriptor = bpf.program_by_id(program)
    try:
        return bpf.program_info(descriptor).map_ids
    finally:
        os.close(descriptor)


def older_pins(config: KernelConfig) -> set[str]:
    """Return the names of all pins of another layout."""
    current = config.pins.root / f"v{LAYOUT_VERSION}"
    return {one.name for one in config.pins.paths() if one.is_file() and not one.is_relative_to(current)}


@pytest.mark.parametrize(("name", "like_ours"), [("theirs", False), (TRANSIT[Hook.XDP], True)])
async def test_a_strangers_program_keeps_the_maps_of_the_older_layout_and_goes_on_counting(
    config: KernelConfig, topo: Topo, monkeypatch: pytest.MonkeyPatch, name: str, like_ours: bool
) -> None:
    """Without the older maps' pins, one with our names would pass for a program from before there were marks."""
    ip("link", "add", "theirs0", "type", "veth", "peer", "name", "theirs1")
    for interface in ("theirs0", "theirs1"):
        ip("link", "set", interface, "up")
    async with AsyncExitStack() as strangers:
        with monkeypatch.context() as older:
            for module in (marks, attached_programs, pins):
                older.setattr(module, "LAYOUT_VERSION", OLDER)
            async with opened(config) as first:
                await put_in_place(first, topo)
                stranger = await strangers.enter_async_context(stranger_on(first, "theirs0", name, like_ours))
                maps = {name: one.info.id for name, one in first.maps.items()}
        kept = content(maps[MapName.ENDPOINTS])
        async with opened(config) as second:
            second.tend(await second.observe({}))
            await renew(second, topo)
            second.tend(await second.observe({}))
            assert older_pins(config) == {one.value for one, number in maps.items() if number in maps_of(stranger)}, (
                "those that the stranger's program uses, and no more"
            )
            assert attached_ids()["theirs0"] == stranger
            assert not attached_programs.is_ours(stranger, config.pins)
            assert content(maps[MapName.ENDPOINTS]) == kept != {}
            counted = counted_by(maps[MapName.OUTCOMES])
            send_frame("theirs1")
            until(lambda: counted_by(maps[MapName.OUTCOMES]) != counted, "a packet that the stranger's program counts")
            change(maps[MapName.DIRECT], LEARNT, bytes(len(content(maps[MapName.DIRECT])[LEARNT])))
            assert second.maps[MapName.DIRECT].dump() == {}, "the new maps are others"
            ip("link", "set", "dev", "theirs0", "xdp", "off")
            await strangers.aclose()
            observed = await second.observe({})
            until(lambda: second.tend(observed) or not older_pins(config), "the end of the older maps' pins")
            assert [path.name for path in config.pins.root.iterdir()] == [f"v{LAYOUT_VERSION}"]
