"""A function in a process, its connections and its hang: with processes that lie, flood and stop, and no kernel."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import socket
import tempfile
from collections.abc import AsyncIterator, Collection, Iterator
from pathlib import Path

import pytest

from agent.datapath.processes import served
from agent.datapath.processes.messages import COMPLETION, FILL, RX, TX, Offer, OfferedQueue, Ring
from agent.datapath.processes.pair import Pair, Pairs
from agent.datapath.processes.served import MOST_MESSAGES, Plumbing, ServedFunction, UnknownUserError, user_of
from agent.datapath.processes.sockets import Progress
from droplet_functions import handover

RINGS = {name: Ring(2048, (0, 64, 192, 128)) for name in (FILL, RX, TX, COMPLETION)}


class FakeSockets:
    """Sockets whose progress a test says."""

    def __init__(self, queues: int) -> None:
        self.now = [Progress(0, 0, 0, 0, 0)] * queues
        self.descriptors = [os.open("/dev/null", os.O_RDONLY) for _ in range(1 + queues)]
        self.zero_copy = False

    def progress(self) -> tuple[Progress, ...]:
        return tuple(self.now)

    def offer(self, function: str, longest: int) -> Offer:
        return Offer(function, 4096, 2048, longest, (OfferedQueue(False, RINGS),) * len(self.now))

    def close(self) -> None:
        for one in self.descriptors:
            os.close(one)
        self.descriptors.clear()


class FakeKernel:
    """Remembers where packets go."""

    def __init__(self, queues: int = 1) -> None:
        self.queues = queues
        self.directed: list[Pairs] = []
        self.changed = asyncio.Event()
        self.made: list[FakeSockets] = []
        self.removed: list[Pairs] = []
        self.others = 0

    def plumbing(self) -> Plumbing:
        return Plumbing(self._make, self._remove, self._remove_others, self._direct)

    def _direct(self, pairs: Pairs, lane: int) -> None:
        del lane
        self.directed.append(pairs)
        self.changed.set()

    async def _make(self) -> tuple[Pairs, int, FakeSockets]:
        self.made.append(FakeSockets(self.queues))
        number = 2 * self.queues * len(self.made)
        return tuple(Pair(number + queue, 99) for queue in range(self.queues)), 0, self.made[-1]

    async def _remove(self, pairs: Pairs) -> None:
        self.removed.append(pairs)

    async def _remove_others(self, kept: Collection[Pair]) -> None:
        del kept
        self.others += 1


@pytest.fixture
def folder() -> Iterator[Path]:
    """A path that is short enough for a Unix socket."""
    with tempfile.TemporaryDirectory(prefix="served") as name:
        yield Path(name)


@contextlib.asynccontextmanager
async def function(kernel: FakeKernel, folder: Path, hang: float = 0.05) -> AsyncIterator[ServedFunction]:
    made = ServedFunction("f", folder / "f.sock", os.getuid(), kernel.plumbing(), hang)
    try:
        yield made
    finally:
        await made.close()
        assert all(not one.descriptors for one in kernel.made), "descriptors are left"


@contextlib.asynccontextmanager
async def process(path: Path) -> AsyncIterator[socket.socket]:
    """Connect as a process does, up to ready."""
    with connected(path) as one:
        one.send(handover.hello("f"))
        await hear(one)
        one.send(handover.ready())
        yield one


@contextlib.contextmanager
def connected(path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as one:
        one.setblocking(False)
        one.connect(str(path))
        yield one


async def hear(one: socket.socket) -> bytes:
    """Return the next message; descriptors that come with it are closed."""
    while True:
        try:
            raw, descriptors, _, _ = socket.recv_fds(one, 1 << 16, 20)
        except BlockingIOError:
            await asyncio.sleep(0.001)
            continue
        except ConnectionResetError:
            return b""
        for descriptor in descriptors:
            os.close(descriptor)
        return raw


async def until_directed(kernel: FakeKernel, *expected: Pairs) -> None:
    async with asyncio.timeout(20):
        while kernel.directed[-len(expected) :] != list(expected):
            kernel.changed.clear()
            await kernel.changed.wait()


def test_a_process_gets_a_descriptor_and_a_pair_for_each_queue(folder: Path) -> None:
    async def run() -> None:
        kernel = FakeKernel(queues=3)
        async with function(kernel, folder) as one:
            assert one.queues is None
            with connected(one.path) as client:
                client.send(handover.hello("f"))
                offered = json.loads(await hear(client))
                assert [queue["queue"] for queue in offered["queues"]] == [0, 1, 2]
                client.send(handover.ready())
                pairs = (Pair(6, 99), Pair(7, 99), Pair(8, 99))
                await until_directed(kernel, pairs)
                assert one.queues == (3, False)
            await until_directed(kernel, ())
            assert one.queues is None
            assert one.fault
        assert kernel.removed == [pairs]

    asyncio.run(run())


def test_a_queue_that_is_not_served_is_a_hang_also_if_others_are(folder: Path) -> None:
    async def run() -> None:
        kernel = FakeKernel(queues=2)
        async with function(kernel, folder) as one, process(one.path):
            pairs = (Pair(4, 99), Pair(5, 99))
            await until_directed(kernel, pairs)
            (sockets,) = kernel.made
            sockets.now[1] = Progress(0, 0, 0, 7, 0)
            await until_directed(kernel, pairs, ())
            sockets.now[1] = Progress(7, 0, 0, 0, 0)
            await until_directed(kernel, pairs, (), pairs)

    asyncio.run(run())


def test_a_process_that_floods_the_agent_with_messages_is_let_go(folder: Path) -> None:
    async def run() -> None:
        kernel = FakeKernel()
        async with function(kernel, folder) as one, process(one.path) as client:
            await until_directed(kernel, (Pair(2, 99),))
            for _ in range(MOST_MESSAGES):
                await asyncio.get_running_loop().sock_sendall(client, b"{}")
            while await hear(client):
                pass
            await until_directed(kernel, (Pair(2, 99),), ())

    asyncio.run(run())


def test_connections_that_keep_coming_do_not_keep_the_agent_from_other_work(folder: Path) -> None:
    async def run() -> None:
        async with function(FakeKernel(), folder) as one:
            with contextlib.ExitStack() as stack:
                for _ in range(64):
                    stack.enter_context(connected(one.path))
                rounds = 0
                while rounds < 10:
                    await asyncio.sleep(0)
                    rounds += 1
                refused = stack.enter_context(connected(one.path))
                assert await hear(refused) == b""

    asyncio.run(run())


def test_a_connection_that_cannot_be_accepted_ends_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        loop, kernel = asyncio.get_running_loop(), FakeKernel()
        accept, failures = loop.sock_accept, [OSError(errno.EMFILE, "too many open files")]

        async def failing(listening: socket.socket) -> object:
            if failures:
                raise failures.pop()
            return await accept(listening)

        monkeypatch.setattr(loop, "sock_accept", failing)
        async with function(kernel, folder) as one, process(one.path):
            await until_directed(kernel, (Pair(2, 99),))

    asyncio.run(run())


def test_a_function_that_moves_to_another_point_keeps_its_socket(folder: Path) -> None:
    async def run() -> None:
        kernel = FakeKernel()
        async with function(FakeKernel(), folder) as before, function(kernel, folder) as after:
            await before.close()
            async with process(after.path):
                await until_directed(kernel, (Pair(2, 99),))
        assert not after.path.exists()

    asyncio.run(run())


def test_the_process_of_an_earlier_agent_that_does_not_come_back_is_taken_out(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(served, "UNTIL_BACK", 0.01)

    async def run() -> None:
        kernel = FakeKernel()
        async with function(kernel, folder):
            await until_directed(kernel, ())
            await asyncio.sleep(0)
            assert kernel.others == 1

    asyncio.run(run())


@pytest.mark.parametrize("text", ["4294967295", "99999999999999999999", "no\0body", "surely-not-a-user", "٣x"])
def test_what_can_be_no_user_is_an_error_of_the_document(text: str) -> None:
    with pytest.raises(UnknownUserError):
        user_of(text)


def test_a_number_is_a_user_also_if_nobody_has_it() -> None:
    assert user_of("4294967294") == 4294967294
