"""Users' functions on the real kernel: from a document's program to a slot, and back.

A bpf file system of its own, the agent's compiled programs and maps; nothing is attached.
"""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import struct
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from agent.core.functions.programs import UncheckedProgram, content_of, verdict_key
from agent.core.functions.stages import Point, index_of
from agent.core.model.desired_entries import Function
from agent.core.model.features import Features
from agent.core.model.hooks import Hook
from agent.core.model.map_layout import STAGE_ARRAYS, U32
from agent.datapath.attached_programs import OwnedObjects
from agent.datapath.bpf import syscall as bpf
from agent.datapath.bpf.maps import MapSizes
from agent.datapath.bpf.pins import Pins, ensure_bpffs
from agent.datapath.function_loading import FunctionConfig, functions_of
from agent.datapath.functions import install as installing
from agent.datapath.functions.functions import Functions
from agent.datapath.functions.record import folder_of
from agent.datapath.loading import Loaded, load_hooks
from protocol.documents import FunctionProgram
from protocol.rpc import FunctionMapEntry, FunctionMapsRequest
from tests.netns.conftest import run

ROOT = Path(__file__).parents[2]
POINT, SLOT = Point.FROM_ENDPOINT, 3
PASS = '#include "stage.h"\nint stage_function(struct stage *stage)\n{\n\treturn STAGE_GO_ON;\n}\n'
COUNT = """#include "stage.h"
BPF_TABLE("hash", __u32, __u64, seen, 100);
int stage_function(struct stage *stage)
{
	__u32 key = stage->protocol;
	__u64 one = 1, *count = seen.lookup(&key);

	if (count)
		__sync_fetch_and_add(count, 1);
	else
		seen.update(&key, &one);
	return STAGE_GO_ON;
}
"""


@dataclass(frozen=True, slots=True)
class Bench:
    """The functions of one agent, and what they stand on."""

    functions: Functions
    loaded: Loaded
    pins: Pins

    def program_ids(self, point: int = POINT, slot: int = SLOT) -> list[int]:
        key = U32.pack(index_of(point, slot))
        arrays = [self.loaded.maps[STAGE_ARRAYS[hook]] for hook in Hook]
        return [U32.unpack(one.lookup(key) or bytes(4))[0] for one in arrays]

    def pinned_map(self, name: str, id_: str = "f") -> int:
        (path,) = folder_of(self.pins.functions, id_, POINT).glob(f"*/maps/{name}")
        return bpf.open_pin(path)


@pytest.fixture(scope="module")
def _loaded(tmp_path_factory: pytest.TempPathFactory, lab_cache: Path) -> Iterator[tuple[Loaded, Pins]]:
    bpffs = tmp_path_factory.mktemp("functions") / "bpf"
    ensure_bpffs(bpffs)
    pins = Pins(bpffs, "functions")
    features, sizes = Features(functions=True), MapSizes(endpoints=100)
    owned = OwnedObjects({}, {})
    loaded = asyncio.run(load_hooks(tuple(Hook), features, lab_cache, pins, sizes, "functions", owned))
    yield loaded, pins
    loaded.close()
    run("umount", str(bpffs))


def checked_first(functions: Functions) -> Functions:
    """Have programs checked before they are installed, as documents have."""
    ensure = functions.ensure

    async def checked(function: Function) -> None:
        if not functions.map_bytes([function.content]):
            await functions.check([unchecked(function.program, Point(function.point))])
        await ensure(function)

    functions.ensure = checked  # type: ignore[method-assign]
    return functions


@pytest.fixture
def make(_loaded: tuple[Loaded, Pins], tmp_path: Path) -> Callable[..., Functions]:
    loaded, pins = _loaded

    def again(folder: Path | None = None, most: int = 32768) -> Functions:
        made = functions_of(loaded, pins, "functions", tmp_path / "cache", FunctionConfig(folder, most))
        assert made is not None
        return checked_first(made)

    return again


@pytest.fixture
async def bench(_loaded: tuple[Loaded, Pins], make: Callable[..., Functions]) -> AsyncIterator[Bench]:
    loaded, pins = _loaded
    yield Bench(make(), loaded, pins)
    for slot in range(8):
        for hook in Hook:
            loaded.maps[STAGE_ARRAYS[hook]].delete([U32.pack(index_of(POINT, slot))])
    shutil.rmtree(pins.functions, ignore_errors=True)


def function(source: str = PASS, *, id_: str = "f", slot: int = SLOT, configuration: bytes = b"") -> Function:
    program = FunctionProgram(source=source)
    return Function(id_, POINT, slot, content_of(program), program, configuration)


def unchecked(program: FunctionProgram, point: Point = POINT) -> UncheckedProgram:
    return UncheckedProgram(verdict_key(program, point.label), point, program, b"")


async def refusal(functions: Functions, source: str, point: Point = POINT) -> str:
    one = unchecked(FunctionProgram(source=source), point)
    return (await functions.check([one]))[one.key].refusal


async def assert_complete(bench: Bench, wanted: Function) -> None:
    seen = (await bench.functions.observe())[wanted.id, wanted.point]
    assert (seen.slot, seen.content, seen.configuration) == (wanted.slot, wanted.content, wanted.configuration)
    assert (seen.on_fault_closed, seen.complete) == (wanted.on_fault_closed, True)
    assert all(bench.program_ids(wanted.point, wanted.slot))


async def test_a_function_is_put_into_its_slot_at_both_hooks_and_taken_out_again(bench: Bench) -> None:
    wanted = function(COUNT, configuration=b"abc")
    assert not bench.functions.is_filled(POINT, SLOT)

    await bench.functions.ensure(wanted)
    await assert_complete(bench, wanted)
    assert bench.functions.is_filled(POINT, SLOT)

    await bench.functions.remove(wanted.id, POINT, SLOT)
    assert bench.program_ids() == [0, 0]
    assert await bench.functions.observe() == {}
    assert list(bench.pins.functions.rglob("*")) == [bench.pins.functions / str(int(POINT))]


async def test_a_program_that_is_neither_loaded_nor_kept_is_not_compiled_while_it_is_installed(
    tmp_path: Path, bench: Bench
) -> None:
    functions = functions_of(bench.loaded, bench.pins, "functions", tmp_path / "empty", FunctionConfig(None))
    assert functions is not None
    wanted = function(COUNT)
    with pytest.raises(OSError, match="compiled and checked again") as raised:
        await functions.ensure(wanted)
    assert (raised.value.errno, bench.program_ids()) == (errno.EINPROGRESS, [0, 0])
    await functions.check([unchecked(wanted.program)])
    await functions.ensure(wanted)
    await assert_complete(bench, wanted)
    broken = function(COUNT + "broken")
    await functions.check([unchecked(broken.program)])
    with pytest.raises(OSError, match="line ") as raised:
        await functions.ensure(broken)
    assert raised.value.errno == errno.EINVAL


async def test_the_verdict_of_a_program_says_what_its_maps_take_and_so_does_what_is_kept_of_it(bench: Bench) -> None:
    one = unchecked(FunctionProgram(source=COUNT))
    found = (await bench.functions.check([one]))[one.key]
    assert found.map_bytes == 100 * (8 + 64 + 8)
    assert bench.functions.map_bytes([found.content, "unknown"]) == {found.content: found.map_bytes}


async def test_an_id_with_dots_is_pinned_and_read_back(bench: Bench) -> None:
    await bench.functions.ensure(function(id_="a.b-c_d"))
    assert list(await bench.functions.observe()) == [("a.b-c_d", POINT)]


async def test_another_agent_of_the_instance_finds_what_is_in_the_slots(
    bench: Bench, make: Callable[..., Functions]
) -> None:
    wanted = function(COUNT)
    await bench.functions.ensure(wanted)
    before = bench.program_ids()
    later = replace(bench, functions=make())

    await assert_complete(later, wanted)
    await later.functions.ensure(wanted)
    assert bench.program_ids() == before


async def test_a_new_program_replaces_the_old_one_and_keeps_its_maps(bench: Bench) -> None:
    await bench.functions.ensure(function(COUNT))
    before, descriptor = bench.program_ids(), bench.pinned_map("seen")
    bpf.update(descriptor, U32.pack(17), (41).to_bytes(8, "little"))

    changed = function(COUNT.replace("count, 1", "count, 2"))
    await bench.functions.ensure(changed)
    await assert_complete(bench, changed)
    assert set(bench.program_ids()).isdisjoint(before)
    kept = bench.pinned_map("seen")
    assert bpf.map_info(kept).id == bpf.map_info(descriptor).id
    assert bpf.lookup(kept, U32.pack(17), 8) == (41).to_bytes(8, "little")


async def test_the_program_of_another_vpc_starts_with_empty_maps(bench: Bench) -> None:
    """An id may pass to another tenant, to whom what the maps hold is secret."""
    await bench.functions.ensure(replace(function(COUNT), vpc="red"))
    descriptor = bench.pinned_map("seen")
    bpf.update(descriptor, U32.pack(17), (41).to_bytes(8, "little"))
    wanted = replace(function(COUNT), vpc="blue")
    await bench.functions.ensure(wanted)
    await assert_complete(bench, wanted)
    assert not bpf.lookup(bench.pinned_map("seen"), U32.pack(17), 8)


async def test_a_retained_version_stays_loaded_and_goes_back_into_its_slot_with_its_maps(bench: Bench) -> None:
    before = function(COUNT, configuration=b"1")
    await bench.functions.ensure(before)
    first = bench.program_ids()
    after = replace(function(COUNT + "// newer\n", configuration=b"2"), retained=before.build)
    await bench.functions.ensure(after)
    assert bench.program_ids() != first
    await assert_complete(bench, after)
    ((_, seen),) = (await bench.functions.observe()).items()
    assert seen.older == {before.build}
    maps = [bpf.open_pin(path) for path in folder_of(bench.pins.functions, "f", POINT).glob("*/maps/seen")]
    assert len({bpf.map_info(one).id for one in maps}) == 1, "both count in one map"
    for one in maps:
        os.close(one)
    await bench.functions.ensure(before)
    assert bench.program_ids() == first
    await assert_complete(bench, before)
    ((_, seen),) = (await bench.functions.observe()).items()
    assert seen.older == frozenset()


async def test_maps_are_read_by_the_names_of_their_fields(bench: Bench) -> None:
    source = COUNT.replace("BPF_TABLE", "struct key { __u32 vni; __u16 port; __u8 mac[6]; };\nBPF_TABLE", 1)
    source = source.replace(
        "__u64, seen, 100);", '__u64, seen, 100);\nBPF_TABLE("percpu_hash", struct key, int, each, 4);'
    )
    wanted = function(source)
    await bench.functions.ensure(wanted)
    bpf.update(bench.pinned_map("seen"), U32.pack(17), (41).to_bytes(8, "little"))
    key = struct.pack("=IH6s", 7, 53, bytes(range(6)))
    value = (-3).to_bytes(4, "little", signed=True).ljust(8, b"\0") * bpf.possible_cpus()
    bpf.update(bench.pinned_map("each"), key, value)

    seen, each = [await entries(bench, wanted, name) for name in ("seen", "each")]
    assert seen == (FunctionMapEntry(17, (41,)),)
    mac = "000102030405"
    assert each == (FunctionMapEntry({"vni": 7, "port": 53, "mac": mac}, (-3,) * bpf.possible_cpus()),)
    listed = await bench.functions.reader.read_maps(wanted.id, wanted.point, FunctionMapsRequest(wanted.id))
    assert listed is not None
    assert {(one.name, one.type, one.max_entries, one.per_cpu) for one in listed.maps} == {
        ("seen", "hash", 100, False),
        ("each", "percpu_hash", 4, True),
    }


async def test_entries_come_in_pages_until_all_were_there(bench: Bench) -> None:
    wanted = function(COUNT)
    await bench.functions.ensure(wanted)
    for number in range(10):
        bpf.update(bench.pinned_map("seen"), U32.pack(number), (number + 1).to_bytes(8, "little"))
    pages, after = [], b""
    while not pages or after:
        request = FunctionMapsRequest(wanted.id, "seen", after, limit=4)
        page = await bench.functions.reader.read_maps(wanted.id, wanted.point, request)
        assert page is not None
        pages.append(page.entries)
        after = page.next
    assert [len(page) for page in pages] == [4, 4, 2]
    found = {str(one.key): one.values for page in pages for one in page}
    assert found == {str(number): (number + 1,) for number in range(10)}


async def entries(bench: Bench, wanted: Function, name: str) -> tuple[FunctionMapEntry, ...]:
    """Return the first entries of one of a function's maps."""
    page = await bench.functions.reader.read_maps(wanted.id, wanted.point, FunctionMapsRequest(wanted.id, name))
    assert page is not None
    assert page.next == b""
    return page.entries


async def test_a_map_whose_definition_changed_begins_empty(bench: Bench) -> None:
    await bench.functions.ensure(function(COUNT))
    bpf.update(bench.pinned_map("seen"), U32.pack(17), bytes(8))

    await bench.functions.ensure(function(COUNT.replace("seen, 100", "seen, 200")))
    assert list(bpf.entries(bench.pinned_map("seen"))) == []


async def test_a_configuration_is_changed_without_loading_the_program_again(bench: Bench) -> None:
    await bench.functions.ensure(function(configuration=b"before"))
    before = bench.program_ids()

    for text in (b"a longer one", b"short", b""):
        changed = function(configuration=text)
        await bench.functions.ensure(changed)
        await assert_complete(bench, changed)
    assert bench.program_ids() == before


async def test_a_function_that_moves_to_another_slot_is_in_both_until_the_old_one_is_removed(bench: Bench) -> None:
    await bench.functions.ensure(function(COUNT, slot=1))
    moved = function(COUNT, slot=2)
    await bench.functions.ensure(moved)
    assert all((*bench.program_ids(slot=1), *bench.program_ids(slot=2)))

    await bench.functions.remove("f", POINT, 1)
    assert bench.program_ids(slot=1) == [0, 0]
    await assert_complete(bench, moved)


async def test_removing_a_function_leaves_its_slot_to_the_one_that_has_it_now(bench: Bench) -> None:
    await bench.functions.ensure(function(id_="old"))
    newer = function(COUNT, id_="new")
    await bench.functions.ensure(newer)

    await bench.functions.remove("old", POINT, SLOT)
    await assert_complete(bench, newer)
    assert list(await bench.functions.observe()) == [("new", POINT)]


async def test_a_function_whose_slot_was_emptied_or_whose_pins_are_gone_is_repaired(bench: Bench) -> None:
    wanted = function(COUNT)
    await bench.functions.ensure(wanted)
    bench.loaded.maps[STAGE_ARRAYS[Hook.TC]].delete([U32.pack(index_of(POINT, SLOT))])
    assert not (await bench.functions.observe())["f", POINT].complete
    await bench.functions.ensure(wanted)
    await assert_complete(bench, wanted)

    for pin in ("maps/seen", "configuration", "programs/tc", "record"):
        (path,) = folder_of(bench.pins.functions, "f", POINT).glob(f"*/{pin}")
        path.unlink()
        seen = await bench.functions.observe()
        assert not seen or not seen["f", POINT].complete, pin
        await bench.functions.ensure(wanted)
        await assert_complete(bench, wanted)


class _KilledError(BaseException):
    """Stands for the end of the process at one system call."""


@pytest.mark.parametrize("changed", [False, True], ids=["first", "replaced"])
async def test_an_agent_killed_at_any_step_leaves_what_the_next_one_repairs(
    bench: Bench, make: Callable[..., Functions], monkeypatch: pytest.MonkeyPatch, *, changed: bool
) -> None:
    older, wanted = function(PASS), function(COUNT, configuration=b"new")
    for step in range(1, 60):
        if changed:
            await bench.functions.ensure(older)
        running = bench.program_ids()
        killed = await _killed_at(step, bench.functions, wanted, monkeypatch)
        now = bench.program_ids()
        assert all(now) or not changed, "a chain would meet an empty slot"

        later = replace(bench, functions=make())
        seen = (await later.functions.observe()).get(("f", POINT))
        if seen is not None and seen.complete and seen.content != wanted.content:
            assert now == running
        await later.functions.ensure(wanted)
        await assert_complete(later, wanted)
        await later.functions.remove("f", POINT, SLOT)
        assert bench.program_ids() == [0, 0]
        assert not await later.functions.observe()
        if not killed:
            assert step > 10
            return
    raise AssertionError("installing takes more steps than are tried")


async def _killed_at(step: int, functions: Functions, wanted: Function, patch: pytest.MonkeyPatch) -> bool:
    """Install, and raise before the numbered change of the kernel; return whether there were so many."""
    left = step

    def counted(call: Callable[..., object]) -> Callable[..., object]:
        def called(*arguments: object, **options: object) -> object:
            nonlocal left
            left -= 1
            if left == 0:
                raise _KilledError
            return call(*arguments, **options)

        return called

    with patch.context() as context:
        for name in ("pin", "update"):
            context.setattr(bpf, name, counted(getattr(bpf, name)))
        context.setattr(Path, "mkdir", counted(Path.mkdir))
        context.setattr(installing.shutil, "rmtree", counted(shutil.rmtree))
        try:
            await functions.ensure(wanted)
        except _KilledError:
            return True
    return False


async def test_a_program_is_taken_from_the_folder_by_name_while_only_root_may_write_it(
    tmp_path: Path, make: Callable[..., Functions]
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir(mode=0o755)
    (folder / "pass.c").write_text(PASS)
    program = FunctionProgram(file="pass.c")
    one, functions = unchecked(program), make(folder)

    verdict = (await functions.check([one]))[one.key]
    assert (verdict.content, verdict.refusal) == (content_of(FunctionProgram(source=PASS)), "")

    (folder / "pass.c").chmod(0o666)
    assert "others may change" in (await functions.check([one]))[one.key].refusal
    (folder / "pass.c").unlink()
    assert "No such file" in (await functions.check([one]))[one.key].refusal


async def test_a_file_that_changed_still_gives_the_program_that_was_checked(
    tmp_path: Path, bench: Bench, make: Callable[..., Functions]
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir(mode=0o755)
    (folder / "count.c").write_text(COUNT)
    program, functions = FunctionProgram(file="count.c"), make(folder)
    content = (await functions.check([one := unchecked(program)]))[one.key].content
    (folder / "count.c").write_text("this is no C")

    await functions.ensure(Function("f", POINT, SLOT, content, program))
    assert (await functions.observe())["f", POINT].complete
    assert "line 1" in (await functions.check([one]))[one.key].refusal
    assert "error" in functions.log_of(one.key)
    assert all(bench.program_ids())


async def test_an_object_file_runs_as_a_source_does(bench: Bench) -> None:
    program = FunctionProgram(object=(ROOT / "tests/unit/objects/closed_port.o").read_bytes())
    for point in Point:
        one = unchecked(program, point)
        assert (await bench.functions.check([one]))[one.key].refusal == ""
    wanted = Function("f", POINT, SLOT, content_of(program), program, b"\x50\0")
    await bench.functions.ensure(wanted)
    await assert_complete(bench, wanted)


async def test_a_program_that_costs_the_verifier_more_than_the_limit_is_refused(make: Callable[..., Functions]) -> None:
    assert "the limit of this host is 500" in await refusal(make(most=500), PASS)


async def test_every_point_takes_a_program_that_reads_packets_and_changes_them(make: Callable[..., Functions]) -> None:
    source = PASS.replace("\treturn", "\tif (!stage_replace(stage, 34, 1))\n\t\tstage_swap(stage);\n\treturn")
    for point in Point:
        assert await refusal(make(), source, point) == "", point
