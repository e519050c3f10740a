"""Processes without privileges that serve functions: stopped, killed, replaced, hostile; and agents that end."""

from __future__ import annotations

import contextlib
import signal
import subprocess
from collections.abc import Iterator

import pytest
from lab.function_processes import GARBAGE
from lab.waiting import until
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.l2 import Ether

from bench.function_pair import Sizes
from droplet_functions import GO_ON, SEND_BACK, Function, Meta, drop, send_to
from droplet_functions.handover import Stop
from droplet_functions.meta import read_answer
from tests.netns.function_wire import PATIENCE, ROOT, Host, Running, process, running

SERVE = """
import sys
from droplet_functions import Function, drop
capabilities = [line.split() for line in open("/proc/self/status") if line.startswith("Cap")]
assert not any(int(mask, 16) for name, mask in capabilities if name != "CapAmb:"), capabilities
function = Function("one", batch=4)
@function.on_packet
def handle(packet):
    return drop(REASON)
function.run()
print(function.counters.received, function.counters.drop)
"""
HANG = """
import time
from droplet_functions import Function
function = Function("one", batch=4)
@function.on_packet
def handle(packet):
    time.sleep(3600)
function.run()
"""


@pytest.fixture
def host() -> Iterator[Host]:
    with Host() as made:
        yield made


def served(reason: int) -> str:
    return SERVE.replace("REASON", str(reason))


def ended(one: subprocess.Popen[str]) -> str:
    """Wait until a process ends well, and return what it printed."""
    printed, _ = one.communicate(timeout=PATIENCE)
    assert one.returncode == 0
    return printed


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_process_once_all_is_answered(host: Host, number: signal.Signals) -> None:
    with host.sockets() as sockets, process(served(7), host.path) as one:
        host.agent.serve("one", sockets)
        assert host.wire.asked(bytes(60)).verdict == drop(7)
        one.send_signal(number)
        assert host.agent.heard() == {"type": "stopping"}
        tokens = list(range(100))  # on their way when the agent took the function out of the path
        for token in tokens:
            host.wire.send(bytes(60), Meta(token=token))
        host.agent.say(Stop())
        assert [host.wire.answer().meta.token for _ in tokens] == tokens
        assert ended(one) == "101 101\n"


def test_a_process_whose_agent_does_not_answer_its_wish_to_stop_ends_nonetheless(host: Host) -> None:
    with host.sockets() as sockets, process(served(7), host.path) as one:
        host.agent.serve("one", sockets)
        one.send_signal(signal.SIGTERM)
        assert ended(one) == "0 0\n"


@pytest.mark.parametrize("same", [True, False])
def test_a_process_that_is_killed_is_followed_by_another(host: Host, same: bool) -> None:
    """On the very same sockets, whose rings hold what the dead one left there, or on new ones of the same queue."""
    with host.sockets(Sizes(frames=64, ring=64)) as sockets:
        with process(HANG, host.path) as one:
            host.agent.serve("one", sockets)
            for token in range(20):
                host.wire.send(bytes(60), Meta(token=token))
            one.kill()
            assert host.agent.heard() == {}
        if not same:
            sockets.close()
        with contextlib.nullcontext(sockets) if same else host.sockets() as again, process(served(8), host.path) as two:
            host.agent.serve("one", again)
            host.wire.send(bytes(60), Meta(token=999))
            while (answer := host.wire.answer()).meta.token != 999:  # those that the dead one had not taken
                assert answer.verdict == drop(8)
            verdicts = [host.wire.asked(bytes(60), Meta(token=token)) for token in range(100, 300)]
            assert {answer.verdict for answer in verdicts} == {drop(8)}
            assert [answer.meta.token for answer in verdicts] == list(range(100, 300))
            two.send_signal(signal.SIGTERM)
            host.agent.say(Stop())
            ended(two)


def test_a_process_that_hangs_leaves_packets_to_the_kernels_counters(host: Host) -> None:
    with host.sockets(Sizes(frames=16, ring=16)) as sockets, process(HANG, host.path):
        host.agent.serve("one", sockets)
        for _ in range(100):
            host.wire.send(bytes(60))
        until(lambda: sockets.statistics().rx_ring_full + sockets.statistics().rx_dropped > 0)


def test_while_the_agent_is_away_packets_are_answered_and_then_the_same_sockets_go_on(host: Host) -> None:
    function = Function("one", socket=host.path)
    function.on_packet(lambda _: SEND_BACK)
    with host.sockets() as sockets:
        thread = Running(function)
        host.agent.serve("one", sockets)
        host.agent.hang_up()
        assert host.wire.asked(bytes(60)).verdict == SEND_BACK
        host.agent.serve("one", sockets)
        for token in range(100):
            assert host.wire.asked(bytes(60), Meta(token=token)).meta.token == token
        assert function.counters.connections == 2
        assert function.counters.unexpected_completions == 0
        host.agent.say(Stop())
        thread.join()


def test_a_function_can_be_stopped_while_the_agent_is_away(host: Host) -> None:
    function = Function("one", socket=host.path)
    function.on_packet(lambda _: SEND_BACK)
    with host.sockets() as sockets:
        thread = Running(function)
        host.agent.serve("one", sockets)
        host.agent.close()
        assert host.wire.asked(bytes(60)).verdict == SEND_BACK
        function.stop()
        thread.join()


def test_a_new_agent_can_hand_over_another_pair(host: Host) -> None:
    function = Function("one", socket=host.path)
    function.on_packet(lambda _: SEND_BACK)
    with Host("b") as other, host.sockets() as sockets, other.sockets() as others:
        thread = Running(function)
        host.agent.serve("one", sockets)
        assert host.wire.asked(bytes(60)).verdict == SEND_BACK
        host.agent.hang_up()
        host.agent.serve("one", others)
        for token in range(20):
            assert other.wire.asked(bytes(60), Meta(token=token)).meta.token == token
        host.agent.say(Stop())
        thread.join()


def test_without_reconnect_the_agents_end_is_the_functions(host: Host) -> None:
    function = Function("one", socket=host.path, reconnect=False)
    function.on_packet(lambda _: GO_ON)
    with host.sockets() as sockets:
        thread = Running(function)
        host.agent.serve("one", sockets)
        assert host.wire.asked(bytes(60)).verdict == GO_ON
        host.agent.hang_up()
        thread.join()


def test_a_process_that_writes_garbage_hurts_only_itself(host: Host) -> None:
    with Host("b") as other, running(other, lambda _: GO_ON) as good:
        with host.sockets() as sockets, process(GARBAGE, host.path) as bad:
            host.agent.serve("one", sockets)
            for token in range(200):
                if bad.poll() is None:
                    host.wire.send(bytes(60))
                assert other.wire.asked(bytes(60), Meta(token=token)).meta.token == token
            bad.kill()
            bad.wait()
        assert good.counters.malformed == good.counters.unexpected_completions == 0
        with running(host, lambda _: SEND_BACK):  # new sockets on the very pair
            host.wire.send(bytes(60), Meta(token=1 << 40))
            until(lambda: answered(host) == 1 << 40, "the answer")


def answered(host: Host) -> int | None:
    """Return the token of the next answer; None for garbage."""
    try:
        return read_answer(host.wire.frame()).meta.token
    except ValueError:
        return None


def test_the_pair_goes_away_under_a_function(host: Host) -> None:
    function = Function("one", socket=host.path)
    function.on_packet(lambda _: GO_ON)
    with Host("b") as other, other.sockets() as sockets:
        thread = Running(function)
        host.agent.serve("one", sockets)
        assert other.wire.asked(bytes(60)).verdict == GO_ON
    host.agent.say(Stop())
    thread.join()


def test_the_first_example_of_the_page_serves_as_written(host: Host) -> None:
    page = (ROOT / "docs" / "functions.md").read_text(encoding="utf-8")
    code = page.partition("<!-- example: filter.py -->\n```python\n")[2].partition("```")[0]
    ip = IP(src="10.0.0.1", dst="10.0.0.2")
    with host.sockets() as sockets, process(code, host.path) as one:
        host.agent.serve("filter", sockets)
        assert host.wire.asked(bytes(Ether() / ip / TCP(dport=23))).verdict == drop(2)
        answer = host.wire.asked(bytes(Ether() / ip / UDP(dport=53)))
        assert answer.verdict == send_to("10.0.0.53")
        assert Ether(answer.packet)[IP].dst == "10.0.0.53"
        one.send_signal(signal.SIGTERM)
        host.agent.say(Stop())
        ended(one)
