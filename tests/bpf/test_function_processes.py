"""Functions in processes: what they are handed, and what becomes of answers, without any process."""

from __future__ import annotations

import subprocess

import pytest
from bpf_dut import SLOT, VNI, B, R
from function_dut import FunctionDut
from test_functions import PAYLOAD, USUAL, received, run_at, sent

from agent.core.model.hooks import Hook
from agent.datapath.bpf.outcomes import Outcome
from droplet_functions import GO_ON, SEND_BACK, Direction, Meta, Point, Verdict, drop, send_to
from droplet_functions.meta import META, META_SIZE, answered, unpack

POINTS = ("from_endpoint", "to_endpoint", "forwarded", "from_underlay")
at_points = pytest.mark.parametrize("point", POINTS)


@pytest.fixture(autouse=True)
def _loopback(interfaces: None) -> None:
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)


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
