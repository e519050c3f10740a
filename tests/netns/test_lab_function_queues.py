"""Processes that see dropped packets, and those with several queues, changed while they run, in a lab; both hooks."""

from __future__ import annotations

import contextlib
import signal
import socket
from collections.abc import Iterator

import msgspec
import pytest
from lab.fixtures import SystemLab, running_lab
from lab.function_examples import FOLDER
from lab.function_processes import (
    SERVE,
    USER,
    Shop,
    faults,
    open_folders,
    pairs,
    process,
    socket_of,
    until_served,
)
from lab.function_topology import HOSTS, SMALL
from lab.functions import SENDING_PORT, counted, datagrams, function, grows_to, heard, put, source
from lab.waiting import until

from agent.core.model.hooks import POINTS
from agent.datapath.processes.pair import PROCESS_IFINDEX
from agent.datapath.processes.sockets import frames_of
from protocol.documents import Function, FunctionProcess, FunctionProgram

SORTS = """
import sys
from droplet_functions import GO_ON, Function
function = Function(sys.argv[1])

@function.on_packet
def handle(packet):
    udp = packet.layers().udp
    if udp:
        print(udp.destination_port, packet.frame_number // FRAMES, flush=True)
    return GO_ON

function.run()
"""
"""Says which flow came by which queue: each has its part of the frames."""
WAITING = SERVE.replace("Function(sys.argv[1])", "Function(sys.argv[1], wait_for_agent=60)")
"""Connects again also if the agent ends before it handed anything over."""
INVALID = """
import sys
from droplet_functions import Function, Verdict
verdict = object.__new__(Verdict)
for name, value in {"code": 17, "reason": 0, "address": b""}.items():
    object.__setattr__(verdict, name, value)
function = Function(sys.argv[1])
function.on_packet(lambda packet: verdict)
function.run()
"""
"""Answers with a verdict that does not exist."""
NOWHERE = "224.0.0.9"
CHOOSES = source("""\
	__u16 from, to;

	return stage_ports(stage, &from, &to) || to != 7500 ? STAGE_GO_ON : STAGE_HAND_OVER;""")


@pytest.fixture(scope="module")
def lab(lab_cache: None) -> Iterator[SystemLab]:
    with running_lab("queues", SMALL.replace("accept: [source]", "accept: [source, process]")) as made:
        yield made


at_hosts = pytest.mark.parametrize("host", HOSTS)


def process_at(point: str, id_: str, vpc: str = "blue", **fields: object) -> Function:
    assert point in POINTS
    program = FunctionProgram(process=FunctionProcess(str(USER), **fields))  # type: ignore[arg-type]
    return Function(id_, point, program, vpc=vpc)


@contextlib.contextmanager
def published(lab: SystemLab, host: str, one: Function, *others: Function) -> Iterator[str]:
    """Have a function in a process, and others, on a host for the time of a block."""
    put(lab, host, "tenant.one", one, *others)
    until(socket_of(lab, host, one.id).exists)
    open_folders(lab)
    try:
        yield one.id
    finally:
        put(lab, host, "tenant.one")
        until(lambda: pairs(lab, host) == 0, "the end of its pairs")


@at_hosts
def test_a_process_sees_packets_that_are_dropped_for_its_reasons_which_change_while_it_runs(
    lab: SystemLab, host: str
) -> None:
    other = process_at("dropped", "mirror", reasons=("no_endpoint", "source_address"))
    wanted = process_at("dropped", "mirror", reasons=("multicast",))
    code = (FOLDER / "mirror.py").read_text(encoding="utf-8")
    with published(lab, host, other) as id_, process(lab, host, id_, code) as one, datagrams() as sockets:
        until_served(lab, host, id_)
        own = lab.address(f"shop-{host}", 4)
        sender = sockets.socket(lab.inside(f"shop-{host}"), own, SENDING_PORT)
        sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(own))
        before = lab.counters(host)["multicast"]
        sender.sendto(b"unseen", (NOWHERE, 7001))
        until(lambda: lab.counters(host)["multicast"] > before, "the drop")
        put(lab, host, "tenant.one", wanted)
        start = counted(lab, host, id_)
        sender.sendto(b"seen", (NOWHERE, 7002))
        assert one.stdout is not None
        said = one.stdout.readline().split(" ", 1)[1]
        assert said == f"multicast VNI 1002: UDP {own} {SENDING_PORT} > {NOWHERE} 7002\n"
        grows_to(lab, host, id_, start, packets=1)
        assert f"function {id_}" not in faults(lab, host), "the same process goes on"


@at_hosts
def test_flows_are_spread_over_the_queues_of_a_process_and_each_keeps_its_own(lab: SystemLab, host: str) -> None:
    one = process_at("from_endpoint", f"sorts-{host}", queues=4)
    code = SORTS.replace("FRAMES", str(frames_of(4)))
    with published(lab, host, one) as id_, process(lab, host, id_, code) as started, datagrams() as sockets:
        until_served(lab, host, id_)
        (shown,) = [found for found in lab.status(host).processes if found.function == id_]
        assert (shown.point, shown.queues, shown.mode) == ("from_endpoint", 4, "copy")
        assert pairs(lab, host) == 4
        sender = sockets.socket(lab.inside(f"shop-{host}"), lab.address(f"shop-{host}", 4), SENDING_PORT)
        to = lab.address(f"shop-{'t' if host == 'x' else 'x'}", 4)
        flows: dict[int, set[int]] = {}
        assert started.stdout is not None
        for port in [*range(7400, 7416)] * 3:
            sender.sendto(b"which?", (to, port))
            found, queue = map(int, started.stdout.readline().split())
            assert found == port
            flows.setdefault(port, set()).add(queue)
        assert all(len(queues) == 1 for queues in flows.values())
        assert len(set.union(*flows.values())) > 1


@at_hosts
def test_a_process_gets_what_a_program_hands_over_until_its_document_asks_for_all_packets(
    lab: SystemLab, host: str
) -> None:
    chooses = function(f"chooses-{host}", "from_endpoint", CHOOSES, vpc="blue")
    takes, all_packets = (process_at("from_endpoint", f"takes-{host}", handed=handed) for handed in (True, False))
    code = SORTS.replace("FRAMES", str(frames_of(1)))
    with published(lab, host, takes, chooses) as id_, process(lab, host, id_, code) as started, datagrams() as sockets:
        until_served(lab, host, id_)
        sender = sockets.socket(lab.inside(f"shop-{host}"), lab.address(f"shop-{host}", 4), SENDING_PORT)
        to = lab.address(f"shop-{'t' if host == 'x' else 'x'}", 4)
        assert started.stdout is not None
        before = counted(lab, host, chooses.id)
        for port in (7501, 7500, 7502, 7500):
            sender.sendto(b"which?", (to, port))
        assert [started.stdout.readline().split()[0] for _ in range(2)] == ["7500", "7500"]
        assert grows_to(lab, host, chooses.id, before, handed_over=2).faults == 0
        put(lab, host, "tenant.one", all_packets, chooses)
        sender.sendto(b"which?", (to, 7501))
        assert started.stdout.readline().split()[0] == "7501", "the same process gets it"


@at_hosts
def test_a_process_with_queues_is_replaced_stopped_and_started_with_fewer_of_them(lab: SystemLab, host: str) -> None:
    several, single = (process_at("from_endpoint", f"some-{host}", queues=number) for number in (3, 1))
    with published(lab, host, several) as id_, datagrams() as sockets, contextlib.ExitStack() as stack:
        shop = Shop(lab, host, 4, sockets)
        first = stack.enter_context(process(lab, host, id_))
        until_served(lab, host, id_)
        until(lambda: shop.arrives(b"by the first"))
        shop.receiver.settimeout(20)
        for number in range(200):
            if number == 50:
                second = stack.enter_context(process(lab, host, id_))
            shop.send(number.to_bytes(2, "big"))
            assert heard(shop.receiver) == number.to_bytes(2, "big")
        assert first.wait(20) == 0, "it was asked to answer what it had, and to end"
        put(lab, host, "tenant.one", single)
        until(lambda: pairs(lab, host) == 1 and not faults(lab, host), "the process with one queue")
        until(lambda: shop.arrives(b"by one queue"))
        second.send_signal(signal.SIGTERM)
        assert second.wait(20) == 0


@at_hosts
def test_a_process_that_stands_still_while_the_agent_is_started_again_is_taken_out(lab: SystemLab, host: str) -> None:
    one = process_at("from_endpoint", f"still-{host}", queues=2)
    with published(lab, host, one) as id_, process(lab, host, id_) as started, datagrams() as sockets:
        shop = Shop(lab, host, 4, sockets)
        until_served(lab, host, id_)
        until(lambda: shop.arrives(b"by it"))
        lab.kill_agent(host)
        started.send_signal(signal.SIGSTOP)
        unfinished = f"link add fnn77 index {PROCESS_IFINDEX + 77} type veth peer name fnf77"
        lab.ip(lab.names.droplet(host), *unfinished.split())
        lab.restart_agent(host)
        until(lambda: shop.arrives(b"past it"), "the end of its time")
        open_folders(lab)
        started.send_signal(signal.SIGCONT)
        until_served(lab, host, id_)
        until(lambda: pairs(lab, host) == 2 and shop.arrives(b"by it again"), "the end of the pairs of killed agents")


@at_hosts
def test_a_changed_on_fault_reaches_what_a_process_answers(lab: SystemLab, host: str) -> None:
    one = process_at("from_endpoint", f"invalid-{host}")
    with published(lab, host, one) as id_, process(lab, host, id_, INVALID), datagrams() as sockets:
        shop = Shop(lab, host, 4, sockets)
        until_served(lab, host, id_)
        until(lambda: shop.arrives(b"open"))
        put(lab, host, "tenant.one", msgspec.structs.replace(one, on_fault="closed"))
        until_served(lab, host, id_)
        before = counted(lab, host, id_)
        assert not shop.arrives(b"closed")
        assert grows_to(lab, host, id_, before, faults=1).went_on == 0


@at_hosts
@pytest.mark.parametrize("made", [1, 2, 3])
def test_an_agent_that_is_killed_while_it_makes_pairs_leaves_none_too_many(
    lab: SystemLab, host: str, made: int
) -> None:
    one = process_at("from_endpoint", f"killed-{host}", queues=3)
    with published(lab, host, one) as id_, datagrams() as sockets:
        shop = Shop(lab, host, 4, sockets)
        with process(lab, host, id_, WAITING):
            until(lambda: pairs(lab, host) >= made, f"{made} pairs")
            lab.kill_agent(host)
            lab.restart_agent(host)
            open_folders(lab)
            until_served(lab, host, id_)
            until(lambda: pairs(lab, host) == 3, "the end of the pairs of the killed agent")
            until(lambda: shop.arrives(b"by it"))
