"""Functions in processes on real AF_XDP sockets: what the data plane sees of each verdict, length, family and loop."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from lab.waiting import until
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from agent.datapath.bpf import syscall as bpf
from bench.function_pair import Sizes, redirecting
from controller_sim.lab.namespaces import call_in
from droplet_functions import (
    GO_ON,
    KEEP,
    SEND_BACK,
    Direction,
    Function,
    Meta,
    Packet,
    Point,
    Verdict,
    drop,
    rewrite,
    send_to,
)
from droplet_functions.handover import Stop
from tests.netns.function_wire import Host, Running, running

LONGEST = 4096 - 256 - 32
"""Bytes of the longest packet: what a frame of 4096 holds behind the kernel's headroom and the metadata."""
META = Meta(Point.TO_ENDPOINT, Direction.INGRESS, 77, 5, 0, 1 << 60)


@pytest.fixture
def host() -> Iterator[Host]:
    with Host(mtu=9000) as made:
        yield made


def packet(family: int = 4, length: int = 60) -> bytes:
    ip = IP(src="10.0.0.1", dst="10.0.0.2") if family == 4 else IPv6(src="fd00::1", dst="fd00::2")
    headers = len(bytes(Ether() / ip / UDP()))
    return bytes(Ether() / ip / UDP(sport=5, dport=53) / Raw(bytes(max(0, length - headers))))


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("verdict", [GO_ON, SEND_BACK, drop(0), drop(255), send_to("10.0.0.9"), send_to("fd00::9")])
def test_the_data_plane_sees_the_verdict_and_its_metadata_again(host: Host, family: int, verdict: Verdict) -> None:
    seen = list[Meta]()

    def handle(one: Packet) -> Verdict:
        seen.append(one.meta)
        return verdict

    with running(host, handle) as function:
        answer = host.wire.asked(packet(family), META)
    assert answer == (META, verdict, packet(family))
    assert seen == [META]
    assert function.counters.received == 1


@pytest.mark.parametrize("family", [4, 6])
def test_changed_fields_leave_right_checksums(host: Host, family: int) -> None:
    address = "192.0.2.1" if family == 4 else "2001:db8::1"

    def handle(one: Packet) -> Verdict:
        layers = one.layers()
        rewrite.set_destination(layers, address)
        rewrite.set_destination_port(layers, 5353)
        return GO_ON

    with running(host, handle):
        changed = Ether(host.wire.asked(packet(family)).packet)
    kind = IP if family == 4 else IPv6
    assert (changed[kind].dst, changed[UDP].dport) == (address, 5353)
    for layer in (kind, UDP):
        changed[layer].fields.pop("chksum", None)
    assert bytes(Ether(bytes(changed))) == host_bytes(family, address)


def host_bytes(family: int, address: str) -> bytes:
    expected = Ether(packet(family))
    kind = IP if family == 4 else IPv6
    expected[kind].dst, expected[UDP].dport = address, 5353
    for layer in (kind, UDP):
        expected[layer].fields.pop("chksum", None)
    return bytes(Ether(bytes(expected)))


@pytest.mark.parametrize("length", [60, 1500, 3500, LONGEST])
def test_packets_up_to_what_a_frame_holds_pass_unchanged(host: Host, length: int) -> None:
    with running(host, lambda _: GO_ON, Sizes(longest=LONGEST)):
        assert host.wire.asked(packet(6, length)).packet == packet(6, length)


def test_a_packet_that_no_frame_holds_does_not_come_and_the_next_one_does(host: Host) -> None:
    with running(host, lambda _: GO_ON, Sizes(longest=LONGEST)) as function:
        host.wire.send(packet(4, LONGEST + 1))
        assert host.wire.asked(packet(4, 100)).packet == packet(4, 100)
    assert function.counters.received == 1


@pytest.mark.parametrize(("head", "tail"), [(50, 0), (0, 400), (-14, -20), (14, -3)])
def test_a_packet_can_change_its_length_at_either_end(host: Host, head: int, tail: int) -> None:
    before = packet(4, 1000)

    def handle(one: Packet) -> Verdict:
        one.grow_head(head) if head > 0 else one.shrink_head(-head)
        one.grow_tail(tail) if tail > 0 else one.shrink_tail(-tail)
        return send_to("10.0.0.3")

    with running(host, handle):
        answer = host.wire.asked(before, META)
    inner = before[max(0, -head) : len(before) + min(0, tail)]
    assert answer == (META, send_to("10.0.0.3"), bytes(max(0, head)) + inner + bytes(max(0, tail)))


def test_frames_of_kept_packets_are_used_again(host: Host) -> None:
    with running(host, lambda _: KEEP, Sizes(frames=8, ring=8)) as function:
        for number in range(1, 41):
            host.wire.send(packet())
            until(lambda: function.counters.keep == number, f"packet {number}")  # noqa: B023 - called at once


def ask(host: Host) -> bool:
    host.wire.send(bytes(60))
    return bool(host.wire.answer())


def test_a_tx_ring_smaller_than_a_batch_loses_no_answer(host: Host) -> None:
    """More frames than the TX ring has entries; the answers' order is that of the packets."""
    sizes = Sizes(frames=512, ring=16)
    count = 3000
    with running(host, lambda _: GO_ON, sizes, batch=64) as function:
        for first in range(0, count, 8):
            for token in range(first, first + 8):
                host.wire.send(packet(), Meta(token=token))
            assert [host.wire.answer().meta.token for _ in range(8)] == list(range(first, first + 8))
    assert function.counters.go_on == count


def test_more_packets_than_the_rings_hold_are_answered_or_counted_by_the_kernel(host: Host) -> None:
    count = 2000

    with host.sockets(Sizes(frames=64, ring=32)) as sockets:
        function = Function("one", socket=host.path)
        function.on_packet(lambda _: GO_ON)
        thread = Running(function)
        host.agent.serve("one", sockets)
        for token in range(count):
            host.wire.send(packet(), Meta(token=token))
        statistics = sockets.statistics
        done = until(lambda: sum(lost(statistics())) + function.counters.received == count and function.counters)
        host.agent.say(Stop())
        thread.join()
        assert done.go_on == done.received
        tokens = [host.wire.answer().meta.token for _ in range(done.received)]
        assert tokens == sorted(set(tokens))


def lost(statistics: Any) -> tuple[int, int]:
    """Packets that found no frame, or no room in the RX ring."""
    return statistics.rx_ring_full, statistics.rx_dropped


def test_a_handler_that_raises_loses_no_packet(host: Host) -> None:
    def handle(one: Packet) -> Verdict:
        if one.data[0]:
            raise RuntimeError
        return GO_ON

    with running(host, handle, on_error=drop(255)) as function:
        verdicts = [host.wire.asked(bytes([number % 2]) + bytes(59)).verdict for number in range(10)]
    assert verdicts == [GO_ON, drop(255)] * 5
    assert (function.counters.handler_errors, function.counters.go_on, function.counters.drop) == (5, 5, 5)


def test_frames_that_are_no_packets_of_the_data_plane_are_counted_and_used_again(host: Host) -> None:
    with running(host, lambda _: GO_ON, Sizes(frames=8, ring=8)) as function:
        for _ in range(20):
            host.wire._socket.send(bytes(60))
            until(lambda: ask(host))
    assert function.counters.malformed == 20


def test_asyncio_serves_too_and_beside_other_tasks(host: Host) -> None:
    async def serve(function: Function) -> int:
        handled = 0
        async with function:
            async for batch in function:
                for one in batch:
                    one.verdict = SEND_BACK if one.meta.token else GO_ON
                await asyncio.sleep(0)
                handled += len(batch)
        return handled

    async def use() -> int:
        with host.sockets() as sockets:
            task = asyncio.create_task(serve(function))
            await asyncio.to_thread(host.agent.serve, "one", sockets)
            for token in range(10):
                answer = await asyncio.to_thread(host.wire.asked, packet(), Meta(token=token))
                assert answer.verdict == (SEND_BACK if token else GO_ON)
            function.stop()
            assert await asyncio.to_thread(host.agent.heard) == {"type": "stopping"}
            host.agent.say(Stop())
            return await task

    function = Function("one", socket=host.path)
    assert asyncio.run(use()) == 10


def test_a_loop_in_asyncio_that_breaks_answers_what_it_holds(host: Host) -> None:
    async def serve(function: Function) -> None:
        async with function:
            async for _ in function:
                raise ZeroDivisionError

    async def use() -> None:
        with host.sockets() as sockets:
            task = asyncio.create_task(serve(function))
            await asyncio.to_thread(host.agent.serve, "one", sockets)
            answer = await asyncio.to_thread(host.wire.asked, packet())
            assert answer.verdict == drop(9)
            with pytest.raises(ZeroDivisionError):
                await task
            assert await asyncio.to_thread(host.agent.heard) == {}

    function = Function("one", socket=host.path, on_error=drop(9))
    asyncio.run(use())


def test_each_queue_has_a_socket_and_answers_on_it() -> None:
    """A frame that is redirected to the pair takes the queue of the CPU that it is processed on."""
    cpus = sorted(os.sched_getaffinity(0))[:2]
    queues = cpus[-1] + 1
    with Host(queues=queues) as host, running(host, lambda _: GO_ON, Sizes(queues=queues)) as function:
        program = bpf.load_program(redirecting(host.pair.near))

        def send_on(cpu: int) -> None:
            os.sched_setaffinity(0, {cpu})
            frame = Meta(token=cpu).pack(60) + bytes(60)
            live = bpf.BPF_F_TEST_XDP_LIVE_FRAMES
            bpf.run_program(program, frame, repeat=3, ifindex=host.pair.near, flags=live)

        try:
            for cpu in cpus:
                call_in(host.pair.namespace, lambda cpu=cpu: send_on(cpu))
                assert [host.wire.answer().meta.token for _ in range(3)] == [cpu] * 3
        finally:
            os.close(program)
        engine = function._engine
        assert engine is not None
        assert engine._session is not None
        assert len(engine._session.queues) == queues


def test_a_handler_of_batches_cannot_take_a_packet_out_of_a_batch(host: Host) -> None:
    """A list would let it lose the frame of a packet."""
    kinds = list[type]()
    function = Function("one", socket=host.path)

    @function.on_batch
    def handle(batch: Sequence[Packet]) -> None:
        kinds.append(type(batch))
        batch[0].verdict = SEND_BACK
        batch.clear()  # type: ignore[attr-defined]

    with host.sockets() as sockets:
        thread = Running(function)
        host.agent.serve("one", sockets)
        assert host.wire.asked(packet()).verdict == SEND_BACK
        host.agent.say(Stop())
        thread.join()
    assert kinds == [tuple]
