"""The kernel's rules of maps that the rest relies on, each shown once on the real kernel."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Callable, Iterator

import pytest

from agent.datapath.bpf import map_calls
from agent.datapath.bpf import syscall as bpf
from agent.datapath.bpf.syscall import MapType

MakeMap = Callable[..., int]


@pytest.fixture
def make_map() -> Iterator[MakeMap]:
    made: list[int] = []

    def make(kind: MapType, key: int = 4, value: int = 8, size: int = 64, flags: int = 0) -> int:
        made.append(bpf.create_map(kind, key, value, size, flags, "test"))
        return made[-1]

    yield make
    for fd in made:
        os.close(fd)


def u32(number: int) -> bytes:
    return struct.pack("=I", number)


@pytest.mark.parametrize("flags", [0, bpf.BPF_F_NO_PREALLOC])
@pytest.mark.parametrize("count", [0, 1, 3, 1000, 50_000])
def test_a_walk_yields_every_entry_once(make_map: MakeMap, count: int, flags: int) -> None:
    fd = make_map(MapType.HASH, 4, 8, 50_000, flags)
    wanted = [(u32(n * 7919), struct.pack("=Q", n)) for n in range(count)]
    assert bpf.update_batch(fd, wanted) == count
    found = list(bpf.entries(fd))
    assert len(found) == count
    assert dict(found) == dict(wanted)


def test_a_walk_goes_through_a_bucket_that_holds_more_than_was_asked_for(
    make_map: MakeMap, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(map_calls, "BATCH", 1)
    fd = make_map(MapType.HASH, 4, 8, 4096)
    info = bpf.MapInfo(MapType.HASH, 0, 4, 8, 1, 0, "")  # one entry a call, where some buckets hold more
    for n in range(4096):
        bpf.update(fd, u32(n), bytes(8))
    assert sorted(key for key, _ in bpf.entries(fd, info)) == sorted(u32(n) for n in range(4096))


def test_an_lpm_trie_can_be_walked_and_deleted_by_batch(make_map: MakeMap) -> None:
    fd = make_map(MapType.LPM_TRIE, 8, 4, 100, bpf.BPF_F_NO_PREALLOC)
    wanted = {struct.pack("=I4s", 32, os.urandom(4)): u32(n) for n in range(50)}
    bpf.update_batch(fd, wanted.items())
    assert dict(bpf.entries(fd)) == wanted
    assert bpf.delete_batch(fd, list(wanted)) == len(wanted)
    assert list(bpf.entries(fd)) == []


def test_deleting_skips_what_is_not_there(make_map: MakeMap) -> None:
    fd = make_map(MapType.HASH)
    bpf.update_batch(fd, [(u32(n), bytes(8)) for n in range(10)])
    assert bpf.delete_batch(fd, [u32(n) for n in (99, 0, 1, 98, 97, 2, 96)]) == 3
    assert len(list(bpf.entries(fd))) == 7


def test_keys_are_packed_once_however_many_of_them_are_not_there(
    make_map: MakeMap, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel stops at each missing key. With the rest packed anew there, the cost is the square of their number."""
    fd = make_map(MapType.HASH)
    keys = [u32(n) for n in range(2 * bpf.BATCH)]
    bpf.update_batch(fd, [(keys[n], bytes(8)) for n in (0, bpf.BATCH, len(keys) - 1)])
    packed: list[int] = []

    def counted(content: bytes) -> object:
        packed.append(len(content))
        return buffer(content)

    buffer = map_calls.buffer
    monkeypatch.setattr(map_calls, "buffer", counted)
    assert bpf.delete_batch(fd, keys) == 3
    attributes = len(keys) * map_calls._BATCH_ATTR.size  # of one call for each key, at the most
    assert sum(packed) <= len(keys) * len(keys[0]) + attributes


def test_a_full_map_says_how_many_went_in(make_map: MakeMap) -> None:
    fd = make_map(MapType.HASH, size=3)
    with pytest.raises(OSError, match="after 3 entries") as caught:
        bpf.update_batch(fd, [(u32(n), bytes(8)) for n in range(5)])
    assert caught.value.errno == errno.E2BIG


def test_single_entries_follow_their_flags(make_map: MakeMap) -> None:
    fd = make_map(MapType.HASH)
    assert bpf.lookup(fd, u32(1), 8) is None
    bpf.update(fd, u32(1), b"12345678", bpf.BPF_NOEXIST)
    with pytest.raises(FileExistsError):
        bpf.update(fd, u32(1), bytes(8), bpf.BPF_NOEXIST)
    with pytest.raises(FileNotFoundError):
        bpf.update(fd, u32(2), bytes(8), bpf.BPF_EXIST)
    assert bpf.lookup(fd, u32(1), 8) == b"12345678"
    assert bpf.next_key(fd, None, 4) == u32(1)
    assert bpf.next_key(fd, u32(1), 4) is None
    bpf.delete(fd, u32(1))
    with pytest.raises(FileNotFoundError):
        bpf.delete(fd, u32(1))


def test_a_per_cpu_value_comes_once_for_each_possible_cpu(make_map: MakeMap) -> None:
    fd = make_map(MapType.PERCPU_ARRAY, 4, 12, 2)
    values = bpf.lookup_percpu(fd, u32(1), 12)
    assert values == (bytes(12),) * bpf.possible_cpus()
    assert bpf.lookup_percpu(fd, u32(2), 12) == ()
    assert [len(value) for _, value in bpf.entries(fd)] == [16 * bpf.possible_cpus()] * 2


def test_a_map_describes_itself_and_is_found_by_its_id(make_map: MakeMap) -> None:
    fd = make_map(MapType.HASH, 20, 32, 77, bpf.BPF_F_NO_PREALLOC)
    info = bpf.map_info(fd)
    assert info == bpf.MapInfo(MapType.HASH, info.id, 20, 32, 77, bpf.BPF_F_NO_PREALLOC, "test")
    again = bpf.map_by_id(info.id)
    assert bpf.map_info(again) == info
    os.close(again)
