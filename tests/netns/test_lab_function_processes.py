"""Functions in processes in a lab of real agents: each point and verdict, both hooks and families, and failures."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
from lab.asked import REASON, Asked
from lab.fixtures import SystemLab, running_lab
from lab.function_processes import (
    GARBAGE,
    USER,
    Shop,
    faults,
    open_folders,
    pairs,
    process,
    process_function,
    socket_of,
    until_served,
)
from lab.function_topology import FAMILIES, HOSTS, TEXT
from lab.functions import answer, body_of, counted, datagrams, grows_to, heard, nothing_heard, put
from lab.traffic import exchange_tcp
from lab.waiting import until

from protocol.acknowledgements import State
from protocol.documents import Function, FunctionProcess, FunctionProgram

GO_ON, DROP, SEND_BACK, SEND_TO = 1, 2, 3, 4
POINTS = ("from_endpoint", "to_endpoint", "forwarded", "from_underlay")


@pytest.fixture(scope="module")
def lab(lab_cache: None) -> Iterator[SystemLab]:
    text = TEXT.replace("accept: [source]", "accept: [source, process]")
    with running_lab("processes", text) as made, contextlib.ExitStack() as stack:
        for host in HOSTS:
            functions = {point: process_function(host, point) for point in POINTS}
            put(made, host, "tenant.served", *(one for one in functions.values() if one.vpc))
            put(made, host, "host.served", *(one for one in functions.values() if not one.vpc))
            for one in functions.values():
                until(socket_of(made, host, one.id).exists)
                assert f"function {one.id}" in faults(made, host)
                open_folders(made)
                stack.enter_context(process(made, host, one.id))
            until_served(made, host, *(one.id for one in functions.values()))
        yield made


at_hosts = pytest.mark.parametrize("host", HOSTS)
at_points = pytest.mark.parametrize("point", POINTS)


@at_hosts
@at_points
def test_a_packet_goes_on_or_is_dropped_as_the_process_says(lab: SystemLab, host: str, point: str) -> None:
    for family in FAMILIES:
        with datagrams() as sockets:
            asked = Asked(lab, host, f"{point}-{host}", point, family, sockets)
            before = asked.counted()
            asked.send(DROP)
            passed = asked.send(GO_ON)
            assert heard(asked.receiver) == passed, "the first one never came"
            grown = grows_to(lab, host, asked.id, before, dropped=1)
            assert (grown.dropped, grown.reasons, grown.faults) == (1, {REASON: 1}, 0)
            assert grown.went_on >= 1
            assert nothing_heard(asked.receiver)


@at_hosts
@at_points
def test_a_packet_that_a_process_answers_comes_back_to_its_sender(lab: SystemLab, host: str, point: str) -> None:
    for family in FAMILIES:
        with datagrams() as sockets:
            asked = Asked(lab, host, f"{point}-{host}", point, family, sockets)
            before = asked.counted()
            sent = asked.send(SEND_BACK)
            payload, peer = asked.sender.recvfrom(100)
            assert (payload, *peer[:2]) == (sent, asked.address, asked.port)
            assert (asked.counted() - before).sent_back == 1


@at_hosts
@at_points
def test_a_packet_that_a_process_sends_elsewhere_arrives_there(lab: SystemLab, host: str, point: str) -> None:
    for family in FAMILIES:
        with datagrams() as sockets:
            asked = Asked(lab, host, f"{point}-{host}", point, family, sockets)
            before = asked.counted()
            sent = asked.send(SEND_TO)
            assert heard(asked.target) == sent
            assert (asked.counted() - before).sent_to == 1


TAKES_NOTHING = """
import sys, time
from droplet_functions import Function
function = Function(sys.argv[1], batch=1)
@function.on_packet
def handle(packet):
    time.sleep(3600)
function.run()
"""
LIES = """
import struct, sys
from droplet_functions import GO_ON, Function
function = Function(sys.argv[1])

@function.on_packet
def handle(packet):
    memory, at = packet._memory, packet._meta_at
    kind = packet.data[-1]
    if kind == 1:  # a token of no packet
        memory[at + 24 : at + 32] = bytes(8)
    if kind == 2:  # another VPC, point, direction and endpoint
        memory[at + 1 : at + 3] = b"\\x06\\x02"
        memory[at + 8 : at + 16] = struct.pack("=II", 1001, 3)
    return GO_ON

function.run()
"""
EXTRA = "extra"


@contextlib.contextmanager
def extra(lab: SystemLab, host: str, on_fault: str = "open") -> Iterator[str]:
    """Put one more function of VPC blue into the path, at from_endpoint, and yield its id."""
    id_ = f"{EXTRA}-{host}"
    program = FunctionProgram(process=FunctionProcess(str(USER)))
    made = Function(id_, "from_endpoint", program, vpc="blue", on_fault=on_fault)  # type: ignore[arg-type]
    put(lab, host, "tenant.extra", made)
    until(socket_of(lab, host, id_).exists)
    try:
        yield id_
    finally:
        put(lab, host, "tenant.extra")


@at_hosts
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("on_fault", ["open", "closed"])
def test_without_a_process_packets_go_on_or_not_as_on_fault_says(
    lab: SystemLab, host: str, on_fault: str, family: int
) -> None:
    with datagrams() as sockets, extra(lab, host, on_fault) as id_:
        shop, is_open = Shop(lab, host, family, sockets), on_fault == "open"

        def passes() -> bool:
            """Send one that meets the function, which has no process, and return whether it arrives."""
            before = counted(lab, host, id_).faults
            arrived = shop.arrives(b"any")
            until(lambda: counted(lab, host, id_).faults > before, "a fault")
            return arrived

        until(lambda: shop.arrives(b"resolved") or not is_open)
        assert passes() == is_open
        with process(lab, host, id_) as one:
            until_served(lab, host, id_)
            until(lambda: shop.arrives(b"by the process"))
            one.kill()
            one.wait()
            until(lambda: f"function {id_}" in faults(lab, host))
            assert shop.arrives(b"after it") == is_open


@at_hosts
def test_a_process_that_hangs_is_taken_out_of_the_path_and_another_one_follows(lab: SystemLab, host: str) -> None:
    with datagrams() as sockets, extra(lab, host) as id_:
        shop = Shop(lab, host, 4, sockets)
        with process(lab, host, id_, TAKES_NOTHING):
            until_served(lab, host, id_)
            until(lambda: shop.arrives(b"past it"))
            assert f"function {id_}" in faults(lab, host)
            with process(lab, host, id_):
                until_served(lab, host, id_)
                until(lambda: shop.arrives(b"by the other"))
                assert counted(lab, host, id_).went_on >= 1


@at_hosts
def test_a_process_is_replaced_by_another_one_under_traffic_without_a_loss(lab: SystemLab, host: str) -> None:
    with datagrams() as sockets, extra(lab, host, "closed") as id_, contextlib.ExitStack() as stack:
        shop = Shop(lab, host, 4, sockets)
        stack.enter_context(process(lab, host, id_))
        until_served(lab, host, id_)
        until(lambda: shop.arrives(b"first"))
        shop.receiver.settimeout(20)
        second = ""
        for number in range(300):
            if number == 100:
                second = "started"
                stack.enter_context(process(lab, host, id_))
            shop.send(number.to_bytes(2, "big"))
            assert heard(shop.receiver) == number.to_bytes(2, "big")
        assert second


@at_hosts
def test_a_process_that_writes_garbage_harms_no_other_tenant(lab: SystemLab, host: str) -> None:
    with datagrams() as sockets, extra(lab, host) as id_, process(lab, host, id_, GARBAGE):
        until_served(lab, host, id_)
        shop, good = Shop(lab, host, 4, sockets), Asked(lab, host, f"from_endpoint-{host}", "from_endpoint", 4, sockets)
        for number in range(200):
            shop.send(bytes([number % 3]))
            payload = good.send(GO_ON, number.to_bytes(2, "big"))
            assert heard(good.receiver) == payload
        assert lab.status(host).host == host


@at_hosts
def test_a_process_that_lies_of_its_packets_is_not_believed(lab: SystemLab, host: str) -> None:
    with datagrams() as sockets, extra(lab, host, "closed") as id_, process(lab, host, id_, LIES):
        until_served(lab, host, id_)
        shop = Shop(lab, host, 4, sockets)
        until(lambda: shop.arrives(b"resolved"))
        before = counted(lab, host, id_)
        for number in range(20):
            assert shop.arrives(bytes([number, 2])), "its VPC stays the packet's"
            shop.send(bytes([number, 1]))
        grown = grows_to(lab, host, id_, before, faults=20, went_on=20)
        assert (grown.faults, grown.sent_to) == (20, 0)
        assert nothing_heard(shop.receiver)


@at_hosts
def test_another_user_gets_no_sockets(lab: SystemLab, host: str) -> None:
    with extra(lab, host) as id_, process(lab, host, id_, user=65533) as one:
        assert one.wait(20) != 0
        assert f"function {id_}" in faults(lab, host)


@at_hosts
def test_a_revision_with_an_unknown_user_leaves_the_process_alone(lab: SystemLab, host: str) -> None:
    with datagrams() as sockets, extra(lab, host, "closed") as id_, process(lab, host, id_):
        shop = Shop(lab, host, 4, sockets)
        until_served(lab, host, id_)
        until(lambda: shop.arrives(b"first"))
        before = socket_of(lab, host, id_).stat().st_ino
        program = FunctionProgram(process=FunctionProcess("no-such-user"))
        body = body_of(Function(id_, "from_endpoint", program, vpc="blue"))
        refused = answer(lab, host, "tenant.extra", lab.publish(host, "tenant.extra", body))
        assert refused.state is State.FAILED
        assert "no-such-user" in str(refused)
        assert shop.arrives(b"by the same process")
        assert socket_of(lab, host, id_).stat().st_ino == before, "the agent listens as before"


@at_hosts
def test_a_process_goes_on_without_the_agent_and_with_the_next_one(lab: SystemLab, host: str) -> None:
    with datagrams() as sockets, extra(lab, host, "closed") as id_, process(lab, host, id_):
        shop = Shop(lab, host, 4, sockets)
        until_served(lab, host, id_)
        until(lambda: shop.arrives(b"first"))
        lab.kill_agent(host)
        assert shop.arrives(b"without an agent")
        lab.restart_agent(host)
        until(lambda: socket_of(lab, host, id_).exists())
        open_folders(lab)
        until_served(lab, host, id_, *(f"{point}-{host}" for point in POINTS))
        until(lambda: shop.arrives(b"with the next one"))
        until(lambda: pairs(lab, host) == len(POINTS) + 1, "the end of the pairs of the agent before")


@at_hosts
def test_a_process_that_dies_without_an_agent_leaves_packets_to_on_fault(lab: SystemLab, host: str) -> None:
    with datagrams() as sockets, extra(lab, host) as id_:
        shop = Shop(lab, host, 4, sockets)
        with process(lab, host, id_) as one:
            until_served(lab, host, id_)
            until(lambda: shop.arrives(b"first"))
            lab.kill_agent(host)
            one.kill()
            one.wait()
            until(lambda: shop.arrives(b"past it"))
        lab.restart_agent(host)
        open_folders(lab)
        until_served(lab, host, *(f"{point}-{host}" for point in POINTS))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_tcp_stream_passes_processes_on_both_hosts(lab: SystemLab, family: int) -> None:
    """At tc in GSO packets, which are cut in front of a process."""
    exchange_tcp(lab, "web-x", "web-t", 1 << 20, family)
    exchange_tcp(lab, "web-t", "web-x", 1 << 20, family)


@at_hosts
def test_nothing_is_left_of_a_function_that_was_removed(lab: SystemLab, host: str) -> None:
    before = len(POINTS)
    until(lambda: pairs(lab, host) == before, "the end of the pairs of agents before")
    with extra(lab, host) as id_, process(lab, host, id_):
        until_served(lab, host, id_)
        assert pairs(lab, host) == before + 1
    until(lambda: pairs(lab, host) == before)
    assert not socket_of(lab, host, id_).exists()
