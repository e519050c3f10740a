"""Rings on plain memory: entries arrive once and in order, also across the wrap of indices; nonsense is refused."""

from __future__ import annotations

import threading
import time
from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from droplet_functions import barriers
from droplet_functions.barriers import PLAIN, Barriers
from droplet_functions.errors import BarrierError, RingError
from droplet_functions.rings import ADDRESS, DESCRIPTOR, ConsumerRing, ProducerRing, RingOffsets

BARRIERS = [PLAIN, *([found] if (found := barriers.compiled()) else [])]


def pair(
    size: int, words: int, start: int = 0, kind: Barriers = PLAIN
) -> tuple[ProducerRing, ConsumerRing, memoryview]:
    offsets = RingOffsets(0, 64, 128, 128 + size * words * 8)
    raw = memoryview(bytearray(offsets.length(size, words)))
    for at in (offsets.producer, offsets.consumer):
        raw[at : at + 4].cast("I")[0] = start
    return (
        ProducerRing("tx", raw, offsets, size, words, kind),
        ConsumerRing("tx", raw, offsets, size, words, kind),
        raw,
    )


@pytest.mark.parametrize("kind", BARRIERS, ids=lambda one: one.name)
@given(data=st.data())
def test_entries_arrive_once_and_in_order(kind: Barriers, data: st.DataObject) -> None:
    words = data.draw(st.sampled_from([ADDRESS, DESCRIPTOR]))
    size = data.draw(st.sampled_from([1, 2, 8]))
    producer, consumer, _ = pair(size, words, data.draw(st.sampled_from([0, 5, (1 << 32) - 3])), kind)
    waiting: deque[int] = deque()
    number = 0
    for _ in range(data.draw(st.integers(1, 20))):
        assert producer.room() == size - len(waiting) // words
        count = data.draw(st.integers(0, producer.room()))
        sent = [(1 << 63) + number + one for one in range(count * words)]
        number += len(sent)
        waiting.extend(sent)
        producer.push(sent)
        assert consumer.peek() == list(waiting)
        most = data.draw(st.integers(0, size))
        found = consumer.pop(most)
        assert len(found) == min(most * words, len(waiting))
        assert found == [waiting.popleft() for _ in found]


@pytest.mark.parametrize(("producer_at", "consumer_at"), [(9, 0), (0, 1), (1 << 31, 0)])
def test_indices_that_contradict_each_other_are_refused(producer_at: int, consumer_at: int) -> None:
    producer, consumer, raw = pair(8, DESCRIPTOR)
    raw[0:4].cast("I")[0], raw[64:68].cast("I")[0] = producer_at, consumer_at
    with pytest.raises(RingError, match=r"tx ring: producer .* something else has written"):
        _ = consumer.pending
    with pytest.raises(RingError):
        producer.room() if consumer_at else consumer.pop(1)


def test_a_ring_starts_where_an_earlier_process_stopped() -> None:
    producer, _, raw = pair(8, ADDRESS)
    producer.push([1, 2, 3])
    again = ConsumerRing("rx", raw, RingOffsets(0, 64, 128, 192), 8, ADDRESS, PLAIN)
    assert again.pop(2) == [1, 2]
    assert ConsumerRing("rx", raw, RingOffsets(0, 64, 128, 192), 8, ADDRESS, PLAIN).pop(8) == [3]


def test_the_flag_says_whether_the_kernel_waits_to_be_woken_up() -> None:
    producer, _, raw = pair(8, ADDRESS)
    assert not producer.needs_wakeup
    raw[192:196].cast("I")[0] = 1
    assert producer.needs_wakeup


@pytest.mark.parametrize("size", [0, 3, -8])
def test_a_ring_has_a_power_of_two_entries(size: int) -> None:
    with pytest.raises(ValueError, match="power of two"):
        ProducerRing("tx", memoryview(bytearray(1024)), RingOffsets(0, 64, 128, 4), size, 1, PLAIN)


@pytest.mark.parametrize("kind", BARRIERS, ids=lambda one: one.name)
def test_another_thread_never_sees_an_entry_before_it_is_written(kind: Barriers) -> None:
    producer, consumer, _ = pair(64, DESCRIPTOR, 0, kind)
    total, found = 10_000, list[int]()

    def consume() -> None:
        while len(found) < total:
            found.extend(consumer.pop(64))
            time.sleep(0)

    thread = threading.Thread(target=consume)
    thread.start()
    sent = 0
    while sent < total:
        count = min(producer.room(), (total - sent) // 2)
        producer.push(range(sent, sent + 2 * count))
        sent += 2 * count
        time.sleep(0)
    thread.join()
    assert found == list(range(total))


def test_processors_that_reorder_need_the_compiled_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(barriers, "compiled", lambda: None)
    assert barriers.choose("x86_64") is PLAIN
    with pytest.raises(BarrierError, match=r"aarch64 .* install a C compiler"):
        barriers.choose("aarch64")


def test_the_compiled_part_refuses_what_is_no_aligned_word() -> None:
    found = barriers.compiled()
    if found is None:
        pytest.skip("the compiled part is not built")
    word = memoryview(bytearray(16))
    for wrong in (word[:3], word[1:5], word[:8]):
        with pytest.raises(ValueError, match="4 aligned bytes"):
            found.load(wrong)
    with pytest.raises(OverflowError):
        found.store(word[:4], 1 << 32)
    with pytest.raises((TypeError, BufferError)):
        found.store(memoryview(bytes(4)), 1)
    found.store(word[4:8], (1 << 32) - 1)
    assert found.load(word[4:8]) == (1 << 32) - 1
    assert bytes(word) == bytes(4) + b"\xff" * 4 + bytes(8)
