"""What an agent says is checked before anything of it is used, errors say what to do, and no descriptor is lost."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from droplet_functions import GO_ON, Function, HandoverError, NoAgentError, RefusedError, channel, handover
from droplet_functions.handover import Handover, QueueDescription, Refused, RingPlace, Stop, decode, encode
from droplet_functions.rings import RingOffsets

PLACES = {name: RingPlace(8, RingOffsets(0, 64, 128, 68)) for name in handover.RINGS}
OFFER = Handover("one", 2048, 16, 1500, (QueueDescription(0, False, PLACES), QueueDescription(1, True, PLACES)))


@pytest.mark.parametrize("message", [OFFER, Stop(), Refused("served by process 7")])
def test_messages_arrive_as_they_were_sent(message: handover.Message) -> None:
    assert decode(encode(message)) == message


Change = Callable[[dict[str, Any]], object]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda one: one.pop("type"), "type: expected a text"),
        (lambda one: one.update(type="dance"), "update droplet_functions"),
        (lambda one: one.update(version=2), "by version 2, this library by 1"),
        (lambda one: one.update(frame_size=3000), "frame_size: 3000 is no power of two"),
        (lambda one: one.update(frame_size=True), "frame_size: expected a number from 2048"),
        (lambda one: one.update(frame_count=1), "frame_count: expected a number from 2"),
        (lambda one: one.update(longest_packet=4096), "longest_packet"),
        (lambda one: one.update(queues=[]), "queues: expected a list of 1 to 252"),
        (lambda one: one.update(queues=[7]), r"queues\[0\]: expected an object"),
        (lambda one: one["queues"][1].pop("zero_copy"), r"queues\[1\].zero_copy: expected true or false"),
        (lambda one: one["queues"][1]["rings"].pop("tx"), r"queues\[1\].rings.tx: expected \[entries"),
        (lambda one: one["queues"][0]["rings"].update(rx=[7, [0, 64, 128, 68]]), "7 entries, expected a power of two"),
        (lambda one: one["queues"][0]["rings"].update(rx=[8, [0, 64, 128, -4]]), "offsets"),
        (lambda one: one["queues"][0]["rings"].update(rx=[8, [0, 64, 132, 68]]), "multiple of 8"),
        (lambda one: one["queues"][0]["rings"].update(rx=[8, [0, 64, 128]]), "offsets"),
    ],
)
def test_a_hand_over_that_does_not_fit_together_is_refused(change: Change, text: str) -> None:
    fields = json.loads(encode(OFFER))
    change(fields)
    with pytest.raises(HandoverError, match=text):
        decode(json.dumps(fields).encode())


@given(st.binary(max_size=40) | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(json.dumps))
def test_no_message_fails_otherwise(raw: bytes | str) -> None:
    with pytest.raises(HandoverError):
        decode(raw.encode() if isinstance(raw, str) else raw)


class Agent:
    """An agent that answers each process with the same message and descriptors, or with none."""

    def __init__(self, path: Path, answer: bytes | None, descriptors: list[int]) -> None:
        self.heard: list[dict[str, Any]] = []
        self._answer, self._descriptors = answer, descriptors
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.bind(str(path))
        self._socket.listen()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection:
                self.heard.append(json.loads(connection.recv(4096) or b"{}"))
                if self._answer is not None:
                    socket.send_fds(connection, [self._answer], self._descriptors)

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join()


@contextmanager
def agent(path: Path, answer: bytes | None, descriptors: list[int] | None = None) -> Iterator[Agent]:
    made = Agent(path, answer, descriptors or [])
    try:
        yield made
    finally:
        made.close()


def function(path: Path | None, **more: Any) -> Function:
    made = Function("one", socket=path, **more)
    made.on_packet(lambda _: GO_ON)
    return made


def descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))  # noqa: PTH208 - names are what is compared


@pytest.fixture
def nothing_left() -> Iterator[None]:
    before = descriptors()
    yield
    assert len(descriptors()) == len(before)


@pytest.mark.usefixtures("nothing_left")
def test_without_an_agent_the_error_says_how_to_get_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NoAgentError, match=r"No such file .* is droplet-agent running .*replay\(\)"):
        function(tmp_path / "none.sock").run()
    monkeypatch.setenv("DROPLET_FUNCTION_SOCKET", str(tmp_path / "elsewhere.sock"))
    with pytest.raises(NoAgentError, match=r"elsewhere\.sock"):
        function(None).run()
    monkeypatch.delenv("DROPLET_FUNCTION_SOCKET")
    assert channel.default_path("one") == Path("/run/droplet/functions/one.sock")


@pytest.mark.usefixtures("nothing_left")
def test_in_asyncio_the_error_is_the_same(tmp_path: Path) -> None:
    async def use() -> None:
        async for _ in function(tmp_path / "none.sock"):
            raise AssertionError

    with pytest.raises(NoAgentError, match="No such file"):
        asyncio.run(use())


@pytest.mark.usefixtures("nothing_left")
def test_the_agents_reason_for_a_refusal_is_the_error(tmp_path: Path) -> None:
    path = tmp_path / "agent.sock"
    with (
        agent(path, encode(Refused("process 7 serves it"))) as made,
        pytest.raises(RefusedError, match="'one': process 7 serves it"),
    ):
        function(path).run()
    assert made.heard == [{"type": "hello", "versions": [1], "function": "one"}]


@pytest.mark.usefixtures("nothing_left")
def test_an_agent_that_hangs_up_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "agent.sock"
    with agent(path, None), pytest.raises(NoAgentError, match="without handing over any sockets"):
        function(path).run()


@pytest.fixture
def umem() -> Iterator[int]:
    descriptor = os.memfd_create("umem")
    os.ftruncate(descriptor, OFFER.frame_size * OFFER.frame_count)
    yield descriptor
    os.close(descriptor)


@pytest.mark.parametrize(
    ("answer", "given", "text"),
    [
        (encode(OFFER), ("umem",), "1 descriptors for 2 queues, expected 3"),
        (encode(OFFER), ("null", "null", "null"), "UMEM of 0 bytes, expected 16 frames of 2048"),
        (encode(OFFER), ("umem", "null", "null"), "queue 0: the descriptor is no AF_XDP socket"),
        (encode(OFFER), ("umem", "unix", "unix"), "queue 0: the descriptor is no AF_XDP socket"),
        (b"{", ("umem", "null"), "not JSON"),
    ],
)
@pytest.mark.usefixtures("nothing_left")
def test_wrong_descriptors_are_refused_and_closed(
    tmp_path: Path, umem: int, answer: bytes, given: tuple[str, ...], text: str
) -> None:
    path, null = tmp_path / "agent.sock", os.open(os.devnull, os.O_RDWR)
    with socket.socket(socket.AF_UNIX) as unix:
        given_descriptors = [{"umem": umem, "null": null, "unix": unix.fileno()}[name] for name in given]
        before = len(descriptors())
        with agent(path, answer, given_descriptors), pytest.raises(HandoverError, match=text):
            function(path).run()
        assert len(descriptors()) == before
    os.close(null)


@pytest.mark.parametrize("how", ["stop", "signal", "before"])
@pytest.mark.usefixtures("nothing_left")
def test_a_function_that_waits_for_its_agent_can_be_stopped(tmp_path: Path, how: str) -> None:
    waiting = function(tmp_path / "none.sock", wait_for_agent=3600.0)
    handler = signal.getsignal(signal.SIGTERM)
    if how == "before":
        waiting.stop()
    else:
        stop = waiting.stop if how == "stop" else lambda: os.kill(os.getpid(), signal.SIGTERM)
        timer = threading.Timer(0.3, stop)
        timer.start()
    waiting.run()
    if how != "before":
        timer.join()
    assert signal.getsignal(signal.SIGTERM) is handler


@pytest.mark.usefixtures("nothing_left")
def test_a_function_waits_for_an_agent_that_comes_later(tmp_path: Path) -> None:
    path = tmp_path / "agent.sock"
    waiting, errors = function(path, wait_for_agent=3600.0), list[BaseException]()

    def run() -> None:
        try:
            waiting.run()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    with agent(path, None) as made:
        while not made.heard:
            threading.Event().wait(0.01)
        waiting.stop()
        thread.join()
    assert errors == []
