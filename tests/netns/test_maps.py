"""Pinned maps on the real kernel: made, opened again, refused, filled, emptied."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent.core.model.map_layout import NETWORK, OVERLAY_KEY, U32, MapName, network_key
from agent.datapath.bpf import maps
from agent.datapath.bpf import syscall as bpf
from agent.datapath.bpf.compiler import MapDefinition
from agent.datapath.bpf.maps import LayoutMismatchError, Map, MapSizes, close_maps, open_maps
from agent.datapath.bpf.pins import Pins, ensure_bpffs, is_bpffs

_libc = ctypes.CDLL(None, use_errno=True)


@pytest.fixture
def bpffs(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "bpf"
    assert ensure_bpffs(path)
    yield path
    assert _libc.umount2(os.fsencode(path), 2) == 0


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Map]]:
    made: list[Map] = []

    def make(name: MapName, kind: bpf.MapType, key: int, value: int, size: int, flags: int = 0) -> Map:
        made.append(Map(name, bpf.create_map(kind, key, value, size, flags)))
        return made[-1]

    yield make
    for one in made:
        one.close()


def overlay(number: int) -> bytes:
    return OVERLAY_KEY.pack(7, number.to_bytes(16, "big"))


ENDPOINTS = MapDefinition("endpoints", bpf.MapType.HASH, 20, 32, 1, bpf.BPF_F_NO_PREALLOC)
VPCS = MapDefinition("vpcs", bpf.MapType.HASH, 4, 264, 1, bpf.BPF_F_NO_PREALLOC)


def test_a_bpf_file_system_is_mounted_once(bpffs: Path) -> None:
    assert is_bpffs(bpffs / "anything")
    assert not ensure_bpffs(bpffs)
    assert not is_bpffs(bpffs.parent)


def test_maps_are_opened_again_with_what_they_hold(bpffs: Path) -> None:
    pins = Pins(bpffs, "knmaps")
    first = open_maps(pins.maps, [ENDPOINTS, VPCS], MapSizes(endpoints=100))
    first[MapName.ENDPOINTS].put([(overlay(1), bytes(32))])
    ids = {name: one.info.id for name, one in first.items()}
    close_maps(first)
    second = open_maps(pins.maps, [ENDPOINTS, VPCS], MapSizes(endpoints=100))
    assert {name: one.info.id for name, one in second.items()} == ids
    assert second[MapName.ENDPOINTS].dump() == {overlay(1): bytes(32)}
    assert second[MapName.ENDPOINTS].info.max_entries == 100
    close_maps(second)


def test_another_size_in_the_settings_keeps_the_map_and_its_entries(bpffs: Path) -> None:
    pins = Pins(bpffs, "knmaps")
    close_maps(open_maps(pins.maps, [ENDPOINTS], MapSizes(endpoints=100)))
    again = open_maps(pins.maps, [ENDPOINTS], MapSizes(endpoints=200))
    assert again[MapName.ENDPOINTS].info.max_entries == 100
    close_maps(again)


@pytest.mark.parametrize(
    "other",
    [
        MapDefinition("endpoints", bpf.MapType.HASH, 20, 40, 1, bpf.BPF_F_NO_PREALLOC),
        MapDefinition("endpoints", bpf.MapType.HASH, 24, 32, 1, bpf.BPF_F_NO_PREALLOC),
        MapDefinition("endpoints", bpf.MapType.HASH, 20, 32, 1, 0),
        MapDefinition("endpoints", bpf.MapType.LRU_HASH, 20, 32, 1, 0),
    ],
)
def test_a_pin_of_another_layout_is_refused_and_kept(bpffs: Path, other: MapDefinition) -> None:
    pins = Pins(bpffs, "knmaps")
    close_maps(open_maps(pins.maps, [ENDPOINTS], MapSizes(endpoints=100)))
    with pytest.raises(LayoutMismatchError, match="remove its pins"):
        open_maps(pins.maps, [other], MapSizes(endpoints=100))
    assert (pins.maps / "endpoints").exists()


def test_removing_pins_leaves_other_instances_alone(bpffs: Path) -> None:
    mine, other = Pins(bpffs, "knmine"), Pins(bpffs, "knother")
    for pins in (mine, other):
        close_maps(open_maps(pins.maps, [ENDPOINTS], MapSizes(endpoints=10)))
    mine.remove()
    mine.remove()
    assert [path.name for path in (bpffs / "droplet").iterdir()] == ["knother"]
    other.remove()
    assert not (bpffs / "droplet").exists()


@pytest.mark.parametrize("count", [3, 30000])
def test_entries_are_put_and_deleted_few_or_many(make, count: int) -> None:
    one = make(MapName.ENDPOINTS, bpf.MapType.HASH, 20, 32, 50000, bpf.BPF_F_NO_PREALLOC)
    entries = [(overlay(n), n.to_bytes(32, "big")) for n in range(count)]
    assert one.put(entries) == []
    assert one.dump() == dict(entries)
    assert one.delete([*(key for key, _ in entries[1:]), overlay(10**9)]) == []
    assert one.dump() == dict(entries[:1])


@pytest.mark.parametrize("capacity", [5, 20])
@pytest.mark.parametrize("count", [8, 40])
def test_a_full_map_refuses_exactly_what_does_not_fit(make, capacity: int, count: int) -> None:
    one = make(MapName.ENDPOINTS, bpf.MapType.HASH, 20, 32, capacity, bpf.BPF_F_NO_PREALLOC)
    entries = [(overlay(n), bytes(32)) for n in range(count)]
    refused = one.put(entries)
    held = one.dump()
    assert [key for answer in refused for key in answer.keys] == [key for key, _ in entries if key not in held]
    assert {answer.errno for answer in refused} <= {errno.E2BIG}
    assert len(held) == min(capacity, count)


def test_a_full_map_still_replaces_the_entries_that_it_holds(make) -> None:
    one = make(MapName.ENDPOINTS, bpf.MapType.HASH, 20, 32, 20, bpf.BPF_F_NO_PREALLOC)
    one.put([(overlay(n), bytes(32)) for n in range(20)])
    changed = [(overlay(n), b"\1" * 32) for n in range(19, 60)] + [(overlay(0), b"\2" * 32)]
    refused = one.put(changed)
    assert [key for answer in refused for key in answer.keys] == [overlay(n) for n in range(20, 60)]
    assert one.lookup(overlay(19)) == b"\1" * 32
    assert one.lookup(overlay(0)) == b"\2" * 32


def test_a_trie_is_put_dumped_and_deleted_like_the_rest(make) -> None:
    one = make(MapName.NETWORKS, bpf.MapType.LPM_TRIE, 24, NETWORK.size, 1000, bpf.BPF_F_NO_PREALLOC)
    keys = [network_key(7, bytes([10, n // 256, n % 256, 0]), 24) for n in range(300)]
    keys.append(network_key(7, bytes([10, 0, 0, 0]), 8))
    assert one.put([(key, bytes(NETWORK.size)) for key in keys]) == []
    assert set(one.dump()) == set(keys)
    assert one.lookup(network_key(7, bytes([10, 200, 0, 1]), 32)) is not None
    assert one.lookup(network_key(8, bytes([10, 200, 0, 1]), 32)) is None
    assert one.delete(keys) == []
    assert one.dump() == {}


def test_a_full_trie_refuses_exactly_what_does_not_fit(make) -> None:
    one = make(MapName.NETWORKS, bpf.MapType.LPM_TRIE, 24, NETWORK.size, 10, bpf.BPF_F_NO_PREALLOC)
    entries = [(network_key(7, bytes([10, 0, n, 0]), 24), bytes(NETWORK.size)) for n in range(12)]
    (refused,) = one.put(entries)
    assert refused == (errno.ENOSPC, tuple(key for key, _ in entries[10:]))


@pytest.mark.parametrize("count", [3, 30])
def test_zeros_in_an_array_are_absence(make, count: int) -> None:
    one = make(MapName.INTERFACES, bpf.MapType.ARRAY, 4, 28, 64)
    assert one.dump() == {}
    entries = {U32.pack(n): (n + 1).to_bytes(28, "big") for n in range(count)}
    assert one.put(list(entries.items())) == []
    assert one.dump() == entries
    gone = [U32.pack(n) for n in (*range(1, count), 50, 64, 10**6)]
    assert one.delete(gone) == []
    assert one.dump() == {U32.pack(0): entries[U32.pack(0)]}
    assert one.delete([U32.pack(0)]) == []
    assert one.dump() == {}


def test_an_array_refuses_what_is_beyond_its_end(make) -> None:
    one = make(MapName.INTERFACES, bpf.MapType.ARRAY, 4, 28, 4)
    (refused,) = one.put([(U32.pack(n), b"\1" * 28) for n in range(6)])
    assert refused == (errno.E2BIG, (U32.pack(4), U32.pack(5)))


def test_counters_of_all_cpus_are_read(make) -> None:
    one = make(MapName.OUTCOMES, bpf.MapType.PERCPU_ARRAY, 4, 16, 4)
    cpus = bpf.possible_cpus()
    bpf.update(one.descriptor, U32.pack(2), b"".join(n.to_bytes(16, "little") for n in range(cpus)))
    assert one.lookup_percpu(U32.pack(2)) == tuple(n.to_bytes(16, "little") for n in range(cpus))
    assert one.lookup_percpu(U32.pack(9)) == ()


def test_what_does_not_fit_is_refused_and_the_rest_is_put(make) -> None:
    one = make(MapName.NEXT_HOPS, bpf.MapType.HASH, 16, 8, 1)
    (refused,) = one.put([(bytes(16), bytes(8)), (b"\1" * 16, bytes(8))])
    assert list(refused.keys) == [b"\1" * 16]
    assert one.dump() == {bytes(16): bytes(8)}


KINDS: dict[str, tuple[MapName, bpf.MapType, int, int, int, int]] = {
    "hash": (MapName.ENDPOINTS, bpf.MapType.HASH, 20, 32, 100, bpf.BPF_F_NO_PREALLOC),
    "array": (MapName.INTERFACES, bpf.MapType.ARRAY, 4, 40, 100, 0),
}


@pytest.mark.parametrize("many", [0, 10_000])
@pytest.mark.parametrize("kind", KINDS)
def test_some_entries_are_found_by_their_keys(make, monkeypatch: pytest.MonkeyPatch, kind: str, many: int) -> None:
    monkeypatch.setattr(maps, "MANY", many)
    table: Map = make(*KINDS[kind])
    size = KINDS[kind][2]
    there = {n.to_bytes(size, "little"): bytes([n]) * KINDS[kind][3] for n in (1, 2, 3)}
    assert table.put(list(there.items())) == []
    first, third, absent = (n.to_bytes(size, "little") for n in (1, 3, 7))
    assert table.find({first, third, absent}) == {first: there[first], third: there[third]}
    assert table.find(()) == {}


def test_a_trie_finds_the_very_entry_and_not_one_that_covers_it(make) -> None:
    table: Map = make(MapName.NETWORKS, bpf.MapType.LPM_TRIE, 24, NETWORK.size, 100, bpf.BPF_F_NO_PREALLOC)
    wide, narrow = network_key(7, bytes([10, 0, 0, 0]), 8), network_key(7, bytes([10, 1, 0, 0]), 16)
    assert table.put([(wide, bytes(NETWORK.size))]) == []
    assert table.lookup(narrow) is not None
    assert table.find({wide, narrow}) == {wide: bytes(NETWORK.size)}


def test_what_was_pinned_since_is_removed_and_the_rest_stays(bpffs: Path) -> None:
    pins = Pins(bpffs, "knmaps")
    assert pins.paths() == frozenset()
    older = pins.root / "v0" / "maps"
    older.mkdir(parents=True)
    before = pins.paths()
    close_maps(open_maps(pins.maps, [ENDPOINTS, VPCS], MapSizes(endpoints=100)))
    assert pins.paths() > before
    pins.remove_all_but(before)
    assert pins.paths() == before
    pins.remove_all_but(())
    assert not pins.root.parent.exists()
