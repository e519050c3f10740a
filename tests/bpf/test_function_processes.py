"""Functions in processes: what they are handed, and what becomes of answers, without any process."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import bpf_packets as p
import pytest
from bpf_dut import ARRIVAL, MAC, SLOT, UPLINK, VNI, A, B, R, XdpAction
from function_dut import FunctionDut, user_program
from test_functions import PAYLOAD, USUAL, received, run_at, sent

from agent.core.model.hooks import Hook
from agent.core.model.map_layout import INTERFACE, INTERFACE_FUNCTION, U32, Interface, MapName
from agent.datapath.bpf import syscall as bpf
from agent.datapath.bpf.outcomes import DROPPED, Outcome
from agent.datapath.processes.sockets import Sockets
from droplet_functions import GO_ON, SEND, SEND_BACK, Direction, Meta, Point, Verdict, drop, send_to
from droplet_functions.meta import META, META_SIZE, answered, unpack

POINTS = ("from_endpoint", "to_endpoint", "forwarded", "from_underlay")
at_points = pytest.mark.parametrize("point", POINTS)


@pytest.fixture(scope="module", autouse=True)
def _loopback(interfaces: None) -> Iterator[None]:
    for name in ("lo", f"v{UPLINK}"):
        subprocess.run(["ip", "link", "set", name, "up"], check=True)
    yield
    FunctionDut.close_sockets()


@pytest.fixture
def at_xdp(functions: FunctionDut) -> FunctionDut:
    """What `functions` returns, at XDP: at tc answers come with metadata, which a test run does not have."""
    if functions.hook is Hook.TC:
        pytest.skip("a test run of tc has no metadata")
    return functions


def put(dut: FunctionDut, point: str, *, served: bool = True, closed: bool = False) -> None:
    dut.install_process(point, 3, served=served, closed=closed)
    dut.chains(point, 3)


@pytest.mark.parametrize("closed", [False, True])
@at_points
def test_without_a_process_on_fault_decides(functions: FunctionDut, point: str, closed: bool) -> None:
    plain = run_at(functions, point)
    put(functions, point, served=False, closed=closed)
    found = run_at(functions, point)
    if closed:
        assert found.outcome is Outcome.FUNCTION_FAULT
    else:
        assert found == plain
    assert functions.counted(point, 3).faults == 1


@pytest.mark.parametrize("closed", [False, True])
@at_points
def test_behind_a_process_that_is_not_there_empty_slots_decide_by_their_functions(
    functions: FunctionDut, point: str, closed: bool
) -> None:
    plain = run_at(functions, point)
    functions.install_process(point, 3, served=False)
    functions.chains(point, 3, 5, 1)
    functions.open_slots(point, 1, *(() if closed else (5,)))
    found = run_at(functions, point)
    if closed:
        assert found.outcome is Outcome.NO_PROGRAM
    else:
        assert found == plain


@at_points
def test_a_process_gets_the_packet_behind_what_is_known_of_it(functions: FunctionDut, point: str) -> None:
    put(functions, point)
    found = run_at(functions, point)
    assert found.outcome is Outcome.FUNCTION_HANDED_OVER
    meta = unpack(found.frame)
    assert meta.point == Point[point.upper()]
    assert meta.vni == VNI
    assert meta.direction == (Direction.EGRESS if point == "from_endpoint" else Direction.INGRESS)
    assert meta.endpoint_slot == (SLOT if point in {"from_endpoint", "to_endpoint"} else 0)
    assert META.unpack_from(found.frame)[8:10] == (META_SIZE, len(found.frame) - META_SIZE)
    if point == "from_endpoint":
        assert found.frame[META_SIZE:] == sent()
    if point == "from_underlay":
        assert found.frame[META_SIZE:] == received()


def answer(dut: FunctionDut, frame: bytes, verdict: Verdict) -> bytes:
    packet = frame[META_SIZE:]
    return answered(frame[:META_SIZE], verdict, len(packet)) + packet


@pytest.mark.parametrize(
    ("verdict", "outcome"),
    [
        (GO_ON, Outcome.SENT_DIRECT),
        (drop(3), Outcome.FUNCTION_DROPPED),
        (SEND_BACK, Outcome.FUNCTION_SENT_BACK),
        (send_to(B), Outcome.FUNCTION_DELIVERED),
        (send_to("10.9.9.9"), Outcome.FUNCTION_TARGET),
    ],
)
def test_an_answer_is_carried_out_once(at_xdp: FunctionDut, verdict: Verdict, outcome: Outcome) -> None:
    put(at_xdp, "from_endpoint")
    frame = answer(at_xdp, run_at(at_xdp, "from_endpoint").frame, verdict)
    assert at_xdp.answer(frame).outcome is outcome
    assert at_xdp.answer(frame).outcome is Outcome.FUNCTION_ANSWER
    assert at_xdp.counted("from_endpoint", 3).faults == 1


@at_points
def test_a_late_answer_meets_no_function_of_a_slot_that_got_another_one(at_xdp: FunctionDut, point: str) -> None:
    """While the process kept the packet, the function behind it was removed, and another VPC's got its slot."""
    put(at_xdp, point)
    alone = at_xdp.answer(answer(at_xdp, run_at(at_xdp, point).frame, GO_ON)).outcome
    at_xdp.install(point, 5, user_program("return STAGE_GO_ON;"))
    at_xdp.chains(point, 3, 5)
    frame = answer(at_xdp, run_at(at_xdp, point).frame, GO_ON)
    at_xdp.install(point, 5, user_program("return STAGE_DROP;"))
    at_xdp.chains(point, 3)
    assert at_xdp.answer(frame).outcome is alone
    assert at_xdp.counted(point, 5) == at_xdp.counted(point, 7), "as an empty slot"


@at_points
def test_a_late_answer_meets_the_functions_that_are_behind_its_process_now(at_xdp: FunctionDut, point: str) -> None:
    at_xdp.install_process(point, 3, served=True)
    at_xdp.install(point, 5, user_program("return STAGE_GO_ON;"))
    at_xdp.install(point, 1, user_program("return STAGE_DROP;"))
    at_xdp.chains(point, 3, 5)
    frame = answer(at_xdp, run_at(at_xdp, point).frame, GO_ON)
    at_xdp.chains(point, 3, 1)
    assert at_xdp.answer(frame).outcome is Outcome.FUNCTION_DROPPED
    assert at_xdp.counted(point, 5) == at_xdp.counted(point, 7), "as an empty slot"


@at_points
def test_a_late_answer_of_a_process_that_is_out_of_the_chain(at_xdp: FunctionDut, point: str) -> None:
    """What was still to run does so if it is in the chain; a VNI may have become another VPC's."""
    at_xdp.install_process(point, 3, served=True)
    at_xdp.install(point, 5, user_program("return STAGE_DROP;"))
    at_xdp.chains(point, 3, 5)
    frames = [answer(at_xdp, run_at(at_xdp, point).frame, GO_ON) for _ in range(2)]
    at_xdp.chains(point, 5)
    of_vpc = point in {"forwarded", "from_underlay"}
    refused = Outcome.FUNCTION_ANSWER
    assert at_xdp.answer(frames[0]).outcome is (refused if of_vpc else Outcome.FUNCTION_DROPPED)
    at_xdp.install(point, 1, user_program("return STAGE_GO_ON;"))
    at_xdp.chains(point, 1)
    assert at_xdp.answer(frames[1]).outcome is refused


@pytest.mark.parametrize(("given", "counted"), [(0, 0), (14, 14), (15, 15), (16, 15), (255, 15)])
def test_reasons_of_a_process_that_have_no_counter_count_under_the_last_one(
    at_xdp: FunctionDut, given: int, counted: int
) -> None:
    put(at_xdp, "from_endpoint")
    frame = answer(at_xdp, run_at(at_xdp, "from_endpoint").frame, drop(given))
    assert at_xdp.answer(frame).outcome is Outcome.FUNCTION_DROPPED
    assert at_xdp.reason("from_endpoint", 3, counted) == 1


@pytest.mark.parametrize("closed", [False, True])
def test_an_answer_with_another_verdict_is_a_fault(at_xdp: FunctionDut, closed: bool) -> None:
    put(at_xdp, "from_endpoint", closed=closed)
    frame = bytearray(answer(at_xdp, run_at(at_xdp, "from_endpoint").frame, GO_ON))
    frame[3] = 17
    assert at_xdp.answer(bytes(frame)).outcome is (Outcome.FUNCTION_FAULT if closed else USUAL["from_endpoint"])


@pytest.mark.parametrize("meta", [{"token": 1}, {"version": 2}, {"offset": 33}, {"length": 1}, {"length": 65535}])
def test_malformed_answers_and_tokens_of_nothing_are_dropped(at_xdp: FunctionDut, meta: dict[str, int]) -> None:
    put(at_xdp, "from_endpoint")
    frame = bytearray(answer(at_xdp, run_at(at_xdp, "from_endpoint").frame, GO_ON))
    for name, value in meta.items():
        at, size = {"token": (24, 8), "version": (0, 1), "offset": (16, 2), "length": (18, 2)}[name]
        frame[at : at + size] = value.to_bytes(size, "little")
    assert at_xdp.answer(bytes(frame)).outcome is Outcome.FUNCTION_ANSWER
    assert at_xdp.answer(bytes(20)).outcome is Outcome.FUNCTION_ANSWER


def test_what_an_answer_says_of_the_packet_is_not_believed(at_xdp: FunctionDut) -> None:
    put(at_xdp, "from_endpoint")
    frame = run_at(at_xdp, "from_endpoint").frame
    lie = Meta(Point.TO_ENDPOINT, Direction.INGRESS, 1 << 20, 9, 4, unpack(frame).token)
    frame = lie.pack(len(frame) - META_SIZE) + frame[META_SIZE:]
    assert at_xdp.answer(answer(at_xdp, frame, GO_ON)).outcome is Outcome.SENT_DIRECT


def test_an_answer_may_have_another_length_and_other_addresses(at_xdp: FunctionDut) -> None:
    put(at_xdp, "from_endpoint")
    meta = run_at(at_xdp, "from_endpoint").frame[:META_SIZE]
    packet = sent(R, PAYLOAD * 3)
    assert at_xdp.answer(answer(at_xdp, meta + packet, GO_ON)).frame.endswith(PAYLOAD * 3)
    meta = run_at(at_xdp, "from_endpoint").frame[:META_SIZE]
    assert at_xdp.answer(answer(at_xdp, meta + sent(B), GO_ON)).outcome is Outcome.DELIVERED_SAME_HOST
    meta = run_at(at_xdp, "from_endpoint").frame[:META_SIZE]
    assert at_xdp.answer(answer(at_xdp, meta + bytes(60), GO_ON)).outcome is Outcome.FUNCTION_FAULT


@pytest.mark.parametrize(("point", "verdict"), [("from_endpoint", GO_ON), ("to_endpoint", SEND)])
def test_a_packet_that_was_kept_until_its_slot_went_to_another_vpc_does_not_continue(
    at_xdp: FunctionDut, point: str, verdict: Verdict
) -> None:
    put(at_xdp, point)
    frame = answer(at_xdp, run_at(at_xdp, point).frame, verdict)
    key, interfaces = U32.pack(SLOT), at_xdp.fds[MapName.INTERFACES]
    old = Interface(*INTERFACE.unpack(bpf.lookup(interfaces, key, INTERFACE.size) or b""))
    new = old._replace(vni=VNI + 1, flags=old.flags | INTERFACE_FUNCTION)
    at_xdp.put(MapName.INTERFACES, key, INTERFACE.pack(*new))
    assert at_xdp.answer(frame).outcome is Outcome.FUNCTION_ANSWER
    assert at_xdp.counted(point, 3).sent_to == 0


def wrong_source() -> bytes:
    return p.ethernet(MAC[R], MAC[A], p.IPV4, p.ipv4(B, R, p.udp()))


@pytest.mark.parametrize("closed", [False, True])
def test_a_process_at_dropped_gets_the_packet_with_the_reason_and_it_counts_once(
    functions: FunctionDut, closed: bool
) -> None:
    put(functions, "dropped", closed=closed)
    functions.mirrored = True
    found = functions.from_endpoint(wrong_source())
    assert found.outcome is Outcome.SOURCE_ADDRESS
    meta = unpack(found.frame)
    assert (meta.point, meta.drop_reason, meta.vni) == (Point.DROPPED, Outcome.SOURCE_ADDRESS, VNI)
    assert (meta.direction, meta.endpoint_slot) == (Direction.EGRESS, SLOT)
    assert found.frame[META_SIZE:] == wrong_source()
    assert functions.counted("dropped", 3).packets == 1


def test_a_tunnel_packet_that_was_not_parsed_shows_no_vpc_at_dropped(functions: FunctionDut) -> None:
    put(functions, "dropped")
    functions.mirrored = True
    found = run_at(functions, "dropped")
    assert found.outcome is Outcome.MALFORMED_OUTER
    meta = unpack(found.frame)
    assert (meta.vni, meta.direction, meta.drop_reason) == (0, Direction.INGRESS, Outcome.MALFORMED_OUTER)


@pytest.mark.parametrize("closed", [False, True])
def test_without_a_process_at_dropped_the_reason_stays(functions: FunctionDut, closed: bool) -> None:
    put(functions, "dropped", served=False, closed=closed)
    assert functions.from_endpoint(wrong_source()).outcome is Outcome.SOURCE_ADDRESS
    assert functions.counted("dropped", 3).faults == 1


def test_a_process_at_dropped_sees_the_reasons_that_it_asks_for(functions: FunctionDut) -> None:
    functions.install_process("dropped", 3, reasons=[Outcome.SOURCE_ADDRESS, Outcome.NO_ENDPOINT])
    functions.chains("dropped", 3)
    assert run_at(functions, "dropped").outcome is Outcome.MALFORMED_OUTER
    assert functions.counted("dropped", 3).packets == 0
    functions.mirrored = True
    assert functions.from_endpoint(wrong_source()).outcome is Outcome.SOURCE_ADDRESS
    assert functions.counted("dropped", 3).packets == 1


@pytest.mark.parametrize("verdict", [GO_ON, drop(3), SEND_BACK, send_to(B)])
def test_an_answer_at_dropped_changes_nothing_and_shows_the_packet_to_the_next_function(
    at_xdp: FunctionDut, verdict: Verdict
) -> None:
    at_xdp.install_process("dropped", 3)
    at_xdp.install("dropped", 5, user_program("return STAGE_GO_ON;"))
    at_xdp.chains("dropped", 3, 5)
    at_xdp.mirrored = True
    frame = answer(at_xdp, at_xdp.from_endpoint(wrong_source()).frame, verdict)
    assert at_xdp.counted("dropped", 5).packets == 0
    assert at_xdp.answer_dropped(frame) is XdpAction.DROP
    assert (at_xdp.counted("dropped", 3).went_on, at_xdp.counted("dropped", 5).packets) == (1, 1)
    at_xdp.mirrored = False
    assert at_xdp.answer(frame).outcome is Outcome.FUNCTION_ANSWER


def test_an_unwanted_packet_at_dropped_goes_on_to_the_next_function(functions: FunctionDut) -> None:
    functions.install_process("dropped", 3, reasons=[Outcome.NO_ENDPOINT])
    functions.install("dropped", 5, user_program("return STAGE_GO_ON;"))
    functions.chains("dropped", 3, 5)
    assert functions.from_endpoint(wrong_source()).outcome is Outcome.SOURCE_ADDRESS
    assert functions.counted("dropped", 5).packets == 1


def queue_of(dut: FunctionDut, frame: bytes, queues: int) -> int:
    """Return the queue that takes a frame of an endpoint: each is served alone once."""
    found = []
    for queue in range(queues):
        dut.install_process("from_endpoint", 3, queues=queues, lanes=(queue,), closed=True)
        dut.chains("from_endpoint", 3)
        if dut.from_endpoint(frame).outcome is Outcome.FUNCTION_HANDED_OVER:
            found.append(queue)
    (only,) = found
    return only


def test_all_packets_of_a_flow_go_to_one_queue_and_other_flows_to_others(functions: FunctionDut) -> None:
    def datagram(port: int, payload: bytes = b"data") -> bytes:
        return p.ethernet(MAC[R], MAC[A], p.IPV4, p.ipv4(A, R, p.udp(source=port, data=payload)))

    queues = {port: queue_of(functions, datagram(port), 4) for port in range(1000, 1008)}
    assert len(set(queues.values())) > 2
    assert queue_of(functions, datagram(1000, PAYLOAD), 4) == queues[1000]


def test_both_directions_of_a_flow_go_to_one_queue(functions: FunctionDut) -> None:
    for port in (2000, 2001):
        there = p.ethernet(MAC[R], MAC[A], p.IPV4, p.ipv4(A, R, p.udp(source=port, destination=53)))
        back = p.ethernet(MAC[R], MAC[A], p.IPV4, p.ipv4(A, R, p.udp(source=53, destination=port)))
        assert queue_of(functions, there, 4) == queue_of(functions, back, 4)


def test_a_later_function_finds_the_ports_where_a_process_has_moved_them(at_xdp: FunctionDut) -> None:
    body = """
        __u16 from, to;
        return stage_ports(stage, &from, &to) || to != 4242 ? STAGE_GO_ON : STAGE_DROP;"""
    at_xdp.install_process("from_endpoint", 3)
    at_xdp.install("from_endpoint", 5, user_program(body))
    at_xdp.chains("from_endpoint", 3, 5)
    meta = run_at(at_xdp, "from_endpoint").frame[:META_SIZE]
    moved = p.ethernet(MAC[R], MAC[A], p.IPV4, p.ipv4(A, R, p.udp(destination=4242), options=bytes([1] * 8)))
    assert at_xdp.answer(answer(at_xdp, meta + moved, GO_ON)).outcome is Outcome.FUNCTION_DROPPED


def test_a_dropped_frame_without_room_for_the_metadata_keeps_its_reason(at_xdp: FunctionDut) -> None:
    put(at_xdp, "dropped")
    found = at_xdp.from_endpoint(wrong_source(), metadata=200)
    assert (found.outcome, at_xdp.counted("dropped", 3).faults) == (Outcome.SOURCE_ADDRESS, 1)


@pytest.mark.parametrize("origin", ["endpoint", "underlay"])
def test_whatever_is_dropped_of_a_frame_that_is_cut_off_goes_to_a_process_whole(
    functions: FunctionDut, origin: str
) -> None:
    """Also frames of which little was parsed, or none of them: nothing of an earlier frame is said of them."""
    frame = sent() if origin == "endpoint" else received()
    send = functions.from_endpoint if origin == "endpoint" else functions.from_underlay
    functions.install_process("dropped", 3)
    for length in range(36, len(frame), 5):
        functions.mirrored = False
        functions.chains("dropped")
        cut = frame[:length]
        plain = send(cut).outcome
        if plain not in DROPPED:
            continue
        functions.chains("dropped", 3)
        functions.mirrored = True
        found = send(cut)
        meta = unpack(found.frame)
        assert (found.outcome, meta.drop_reason, meta.point) == (plain, plain, Point.DROPPED)
        assert meta.vni in (0, VNI)
        assert cut.endswith(found.frame[META_SIZE:])


def open_descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_sockets_of_which_one_cannot_be_bound_leave_no_descriptor(functions: FunctionDut) -> None:
    table = bpf.create_map(bpf.MapType.XSKMAP, 4, 4, 4, 0, "sockets")
    before = open_descriptors()
    with pytest.raises(OSError, match="No such device"):
        Sockets((UPLINK, 99_999), table, 0)
    assert open_descriptors() == before
    os.close(table)


def test_a_process_gets_what_its_function_hands_over_and_no_frame_of_the_host_itself(at_xdp: FunctionDut) -> None:
    put(at_xdp, "from_endpoint")
    handed = run_at(at_xdp, "from_endpoint").frame

    def verdict(frame: bytes) -> XdpAction:
        found, _, _ = bpf.run_program(at_xdp.programs["function_socket"].fd, frame, ifindex=ARRIVAL, kind=at_xdp.kind)
        return XdpAction(found)

    assert verdict(handed) is XdpAction.REDIRECT
    for at, value in ((0, 2), (1, Point.TO_ENDPOINT), (16, META_SIZE + 1)):
        assert verdict(handed[:at] + bytes([value]) + handed[at + 1 :]) is XdpAction.DROP
    for group in ("ffffffffffff", "01005e0000fb", "3333000000fb"):
        assert verdict(bytes.fromhex(group) + bytes(60)) is XdpAction.DROP
