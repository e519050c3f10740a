"""Frames are never lost and never in two places: random schedules of a process and a kernel, honest or not."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from ring_kernel import FRAME, HEADROOM, ModelKernel

from droplet_functions import (
    GO_ON,
    KEEP,
    SEND,
    SEND_BACK,
    Function,
    Meta,
    NoRoomError,
    PacketGoneError,
    RingError,
    drop,
    send_to,
)
from droplet_functions.frames import FREE, HELD, RECEIVING, SENT, WAITING
from droplet_functions.meta import META_SIZE, originated
from droplet_functions.packet import Packet

VERDICTS = [GO_ON, SEND_BACK, SEND, KEEP, drop(0), drop(200), send_to("10.0.0.1"), send_to("fd00::1")]


def packet_of(token: int) -> bytes:
    return token.to_bytes(8, "big") * 8


class Schedules(RuleBasedStateMachine):
    """Any order of the process's and the kernel's steps."""

    @initialize(
        frames=st.sampled_from([1, 3, 8]),
        ring=st.sampled_from([1, 2, 8]),
        first=st.sampled_from([0, 5]),
        lies=st.booleans(),
    )
    def begin(self, frames: int, ring: int, first: int, lies: bool) -> None:
        self.lies = lies
        self.kernel = ModelKernel(frames, ring, first)
        self.held: list[Packet] = []
        self.token = 0
        self.expected: list[tuple[int, object, bytes]] = []

    @rule()
    def refill(self) -> None:
        self.kernel.queue.refill()

    @rule()
    def reap(self) -> None:
        self.kernel.queue.reap()

    @rule()
    def flush(self) -> None:
        self.kernel.queue.flush()

    @rule(count=st.integers(1, 4))
    def deliver(self, count: int) -> None:
        for _ in range(count):
            if self.kernel.deliver(packet_of(self.token), Meta(vni=self.token, token=self.token)):
                self.token += 1

    @rule(raw=st.one_of(st.binary(max_size=64), st.binary(min_size=33, max_size=33).map(lambda raw: b"\x01" + raw)))
    def deliver_malformed(self, raw: bytes) -> None:
        self.kernel.deliver(b"", Meta(), raw)

    @precondition(lambda self: self.lies)
    @rule(address=st.integers(0, (1 << 64) - 1), length=st.integers(0, (1 << 64) - 1))
    def lie_about_a_frame(self, address: int, length: int) -> None:
        """An entry of the RX ring that no frame of the fill ring belongs to."""
        kernel = self.kernel
        number = address % (1 << 40) // FRAME
        if kernel.rx.room() and not kernel.queue.frames.is_in(number, RECEIVING):
            kernel.rx.push([address % (1 << 40), length])

    @precondition(lambda self: self.lies)
    @rule(address=st.integers(0, (1 << 64) - 1))
    def lie_about_a_completion(self, address: int) -> None:
        kernel = self.kernel
        if kernel.completion.room() and not kernel.queue.frames.is_in(address // FRAME, SENT):
            kernel.completion.push([address])

    @rule(count=st.integers(1, 8))
    def take_in(self, count: int) -> None:
        """What usually happens: the kernel gets frames and fills them, and the process takes the packets."""
        for _ in range(count):
            self.kernel.queue.refill()
            self.deliver(1)
            self.receive(1)

    @rule(most=st.integers(1, 4))
    def receive(self, most: int) -> None:
        found = self.kernel.queue.receive(most)
        for packet in found:
            assert bytes(packet) == packet_of(packet.meta.token)
        self.held += found

    @precondition(lambda self: self.held)
    @rule(verdict=st.sampled_from(VERDICTS), count=st.integers(1, 4), size=st.integers(-80, 300))
    def answer(self, verdict, count: int, size: int) -> None:
        answered, self.held = self.held[:count], self.held[count:]
        for packet in answered:
            token = packet.meta.token
            self.resize(packet, size)
            packet.verdict = verdict
            if verdict is not KEEP:
                self.expected.append((token, verdict, bytes(packet)))
        self.kernel.queue.answer(answered)
        for packet in answered:
            with pytest.raises(PacketGoneError):
                _ = packet.data

    def resize(self, packet: Packet, size: int) -> None:
        try:
            if size >= 0:
                packet.grow_head(size // 2)
                packet.grow_tail(size)
                packet.data[:4] = b"head"
            else:
                packet.shrink_head(-size // 2)
                packet.shrink_tail(-size)
        except NoRoomError:
            pass

    @rule(most=st.integers(1, 4))
    def kernel_sends(self, most: int) -> None:
        self.kernel.send(most)

    @rule(most=st.integers(1, 4))
    def kernel_completes(self, most: int) -> None:
        self.kernel.complete(most)

    @rule()
    def die_and_start_anew(self) -> None:
        """Another process takes over: what the dead one held is free, what the kernel holds is the kernel's."""
        kernel = self.kernel
        while kernel.sending:  # what is between TX and completion ring can be seen in neither
            kernel.complete(8)
            kernel.queue.reap()
        self.held.clear()
        in_ring = len(kernel.tx.peek()) // 2
        self.expected = self.expected[: len(kernel.sent) + in_ring]
        kernel.start_process()

    @invariant()
    def every_frame_is_in_one_place(self) -> None:
        kernel = self.kernel
        frames = kernel.queue.frames
        assert sum(frames.census().values()) == kernel.frames
        assert Counter(frames.free) == Counter(
            {number: 1 for number in range(kernel.first, kernel.first + kernel.frames) if frames.is_in(number, FREE)}
        )
        places = frames.places
        with_kernel = Counter(kernel.first + at for at, place in enumerate(places) if place in (RECEIVING, SENT))
        seen = Counter(address // FRAME for address in kernel.addresses())
        assert seen == with_kernel if not self.lies else seen >= with_kernel
        assert len(self.held) == places.count(HELD)
        assert kernel.queue.has_answers_waiting == (places.count(WAITING) > 0)

    @invariant()
    def answers_are_those_that_were_given(self) -> None:
        sent = [(answer.meta.token, answer.verdict, answer.packet) for answer in self.kernel.sent]
        assert sent == self.expected[: len(sent)]

    def teardown(self) -> None:
        """In the end every answer is sent, and every frame can receive again."""
        if not hasattr(self, "kernel"):
            return
        kernel, queue = self.kernel, self.kernel.queue
        for packet in self.held:
            packet.verdict = KEEP
        queue.answer(self.held)
        for _ in range(8 * kernel.frames + 8):
            queue.flush()
            kernel.send(8)
            kernel.complete(8)
            queue.reap()
            for packet in (left := queue.receive(8)):
                packet.verdict = KEEP
            queue.answer(left)
        assert len(kernel.sent) == len(self.expected)
        assert kernel.queue.frames.places.count(FREE) + queue.frames.places.count(RECEIVING) == kernel.frames


TestSchedules = Schedules.TestCase
TestSchedules.settings = settings(max_examples=100, stateful_step_count=40)


def test_a_full_tx_ring_makes_answers_wait_and_loses_none() -> None:
    kernel = ModelKernel(frames=8, ring=2)
    kernel.queue.refill()
    tokens = []
    for _ in range(6):
        kernel.deliver(packet_of(len(tokens)), Meta(token=len(tokens)))
        packets = kernel.queue.receive(2)
        tokens += [packet.meta.token for packet in packets]
        for packet in packets:
            packet.verdict = GO_ON
        kernel.queue.answer(packets)
        kernel.queue.refill()
    assert kernel.counters.ring_full > 0
    assert kernel.queue.has_answers_waiting
    while kernel.queue.unsent:
        kernel.queue.flush()
        kernel.send(1)
        kernel.complete(1)
        kernel.queue.reap()
    assert [answer.meta.token for answer in kernel.sent] == tokens


def test_packets_of_a_functions_own_take_frames_that_are_kept_for_them() -> None:
    kernel = ModelKernel(frames=4, ring=8)
    kernel.queue.kept = 2
    kernel.queue.refill()
    assert kernel.queue.frames.census() == {"free": 2, "receiving": 2, "held": 0, "waiting": 0, "sent": 0}
    for number in range(2):
        packet = packet_of(number)
        assert kernel.queue.originate(originated(7, len(packet)), packet)
    assert not kernel.queue.originate(originated(7, 64), packet_of(2)), "no frame is free"
    kernel.send(8)
    found = [(one.meta.endpoint_slot, one.meta.token, one.verdict, one.packet) for one in kernel.sent]
    assert found == [(7, 0, SEND, packet_of(number)) for number in range(2)]
    kernel.complete(8)
    assert kernel.queue.originate(originated(7, 64), packet_of(2)), "it takes frames back that were sent"
    assert kernel.counters.originated == 3


def test_a_packet_of_a_functions_own_that_fits_no_frame_is_not_sent() -> None:
    kernel = ModelKernel(frames=1)
    assert not kernel.queue.originate(originated(7, FRAME), bytes(FRAME))
    assert not kernel.queue.originate(originated(7, FRAME + 1), bytes(FRAME + 1))
    assert kernel.queue.frames.census()["free"] == 1


def test_a_function_that_does_not_run_sends_nothing() -> None:
    assert not Function("nat", own_packets=8).send(bytes(60), 1)


def test_a_descriptor_of_several_frames_is_malformed_and_its_frame_is_used_again() -> None:
    kernel = ModelKernel(frames=1, ring=2)
    kernel.queue.refill()
    address = kernel.fill.pop(1)[0] + HEADROOM
    frame = Meta().pack(60) + bytes(60)
    kernel.umem[address : address + len(frame)] = frame
    kernel.rx.push([address, 1 << 32 | len(frame)])  # XDP_PKT_CONTD
    assert kernel.queue.receive(8) == []
    assert (kernel.counters.malformed, kernel.queue.frames.census()["free"]) == (1, 1)


@pytest.mark.parametrize("offset", [0, META_SIZE - 1, META_SIZE + 61, 65535])
def test_metadata_with_an_offset_beyond_the_packet_is_malformed(offset: int) -> None:
    kernel = ModelKernel(frames=1)
    kernel.queue.refill()
    kernel.deliver(b"", Meta(), Meta().pack(60, offset) + bytes(60))
    assert kernel.queue.receive(8) == []
    assert kernel.counters.malformed == 1


def test_a_packet_without_room_for_the_answers_metadata_is_malformed() -> None:
    kernel = ModelKernel(frames=1)
    kernel.queue.refill()
    start = kernel.fill.pop(1)[0]
    frame = Meta().pack(60) + bytes(60)
    kernel.umem[start : start + len(frame)] = frame
    kernel.rx.push([start, len(frame)])
    assert kernel.queue.receive(8) == []
    assert kernel.queue.frames.census()["free"] == 1


def test_indices_that_were_overwritten_stop_the_queue() -> None:
    kernel = ModelKernel()
    kernel.memory["rx"][0][0:4].cast("I")[0] = 99
    with pytest.raises(RingError, match="rx ring"):
        kernel.queue.receive(8)


@given(st.lists(st.integers(-400, 400), max_size=12))
def test_resizes_keep_the_bytes_between_and_never_leave_the_frame(steps: list[int]) -> None:
    kernel = ModelKernel(frames=3)
    kernel.queue.refill()
    kernel.deliver(packet_of(7), Meta(token=7))
    (packet,) = kernel.queue.receive(1)
    expected = packet_of(7)
    others = [kernel.umem[n * FRAME : (n + 1) * FRAME].tobytes() for n in range(3) if n != packet.frame_number]
    for index, step in enumerate(steps):
        try:
            if step >= 0:
                expected = grown(packet, expected, step, head=bool(index % 2))
            else:
                expected = shrunk(packet, expected, -step, head=bool(index % 2))
        except NoRoomError:
            continue
        assert bytes(packet) == expected
        assert packet.meta.token == 7
    number = packet.frame_number
    packet.verdict = send_to("fd00::1")
    kernel.queue.answer([packet])
    kernel.send(1)
    assert kernel.sent[0] == (Meta(token=7), send_to("fd00::1"), expected)
    assert others == [kernel.umem[n * FRAME : (n + 1) * FRAME].tobytes() for n in range(3) if n != number]


def grown(packet: Packet, before: bytes, count: int, *, head: bool) -> bytes:
    if head:
        packet.grow_head(count)
        return bytes(count) + before
    packet.grow_tail(count)
    return before + bytes(count)


def shrunk(packet: Packet, before: bytes, count: int, *, head: bool) -> bytes:
    if head:
        packet.shrink_head(count)
        return before[count:]
    packet.shrink_tail(count)
    return before[: len(before) - count]


def test_a_packet_says_how_much_it_can_grow() -> None:
    kernel = ModelKernel(frames=1)
    kernel.queue.refill()
    kernel.deliver(packet_of(1), Meta())
    (packet,) = kernel.queue.receive(1)
    room = packet.headroom
    with pytest.raises(NoRoomError, match=f"{room + 1} bytes are more than the {room} of the headroom"):
        packet.grow_head(room + 1)
    with pytest.raises(NoRoomError, match="of the packet"):
        packet.shrink_tail(65)
    with pytest.raises(ValueError, match="from 0"):
        packet.grow_tail(-1)
    assert bytes(packet) == packet_of(1)


def take(kernel: ModelKernel, *tokens: int) -> list[Packet]:
    """Let packets come in, with GO_ON as their verdict."""
    kernel.queue.refill()
    for token in tokens:
        assert kernel.deliver(packet_of(token), Meta(token=token))
    packets = [packet for _ in tokens for packet in kernel.queue.receive(1)]
    for packet in packets:
        packet.verdict = GO_ON
    return packets


def test_answers_do_not_overtake_those_that_wait() -> None:
    kernel = ModelKernel(frames=4, ring=1)
    first, second, third = (take(kernel, token)[0] for token in (1, 2, 3))
    kernel.queue.answer([first, second])
    kernel.send(1)  # from here on the ring has room, and `second` waits
    kernel.queue.answer([third])
    for _ in range(2):
        kernel.queue.flush()
        kernel.send(1)
    assert [answer.meta.token for answer in kernel.sent] == [1, 2, 3]


def test_a_process_takes_over_what_another_left_in_each_ring() -> None:
    kernel = ModelKernel(frames=8, ring=8)
    packets = take(kernel, *range(4))
    kernel.queue.answer(packets[:3])  # the fourth is held by the process that dies
    kernel.send(2)
    kernel.complete(2)
    kernel.deliver(packet_of(9), Meta(token=9))
    kernel.start_process()
    assert kernel.counters.malformed == 0
    assert kernel.queue.frames.census() == {"free": 1, "receiving": 4, "held": 0, "waiting": 0, "sent": 3}
    assert [packet.meta.token for packet in kernel.queue.receive(8)] == [9]
    kernel.queue.reap()
    assert kernel.queue.frames.census()["sent"] == 1


def test_a_driver_that_waits_for_frames_is_woken_up_when_there_are_some() -> None:
    kernel = ModelKernel(frames=2, ring=2)
    flags = kernel.memory["fill"][1].flags
    kernel.memory["fill"][0][flags : flags + 4].cast("I")[0] = 1
    kernel.queue.refill()
    assert kernel.asked_to_receive == 1
    kernel.queue.refill()  # no frame is free
    assert kernel.asked_to_receive == 1
