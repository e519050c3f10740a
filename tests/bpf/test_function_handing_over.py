"""Programs that hand packets over to processes that take only such packets."""

from __future__ import annotations

import pytest
from bpf_dut import R
from function_dut import FunctionDut, user_program
from test_function_processes import POINTS, _loopback, answer, at_xdp, wrong_source  # noqa: F401 - fixtures
from test_functions import GO_ON, HAND_OVER, PAYLOAD, USUAL, run_at, sent

from agent.datapath.bpf.outcomes import Outcome
from droplet_functions import GO_ON as ANSWER_GO_ON

DNS = """
    __u16 from, to;
    return stage_ports(stage, &from, &to) || to != 53 ? STAGE_GO_ON : STAGE_HAND_OVER;"""
at_points = pytest.mark.parametrize("point", POINTS)


def put(dut: FunctionDut, point: str, body: str, *, closed: bool = False, served: bool = True) -> None:
    """Put a program and behind it a process that takes only what is handed over."""
    dut.install(point, 0, user_program(body))
    dut.install_process(point, 3, handed=True, closed=closed, served=served)
    dut.chains(point, 0, 3)


@at_points
def test_a_packet_that_a_program_hands_over_goes_to_the_process(functions: FunctionDut, point: str) -> None:
    put(functions, point, HAND_OVER)
    assert run_at(functions, point).outcome is Outcome.FUNCTION_HANDED_OVER
    assert functions.counted(point, 0).handed_over == functions.counted(point, 3).packets == 1


@pytest.mark.parametrize("served", [False, True])
@at_points
def test_all_other_packets_pass_the_process_by_whether_it_runs_or_not(
    functions: FunctionDut, point: str, served: bool
) -> None:
    plain = run_at(functions, point)
    put(functions, point, GO_ON, closed=True, served=served)
    assert run_at(functions, point) == plain
    found = functions.counted(point, 3)
    assert (found.packets, found.faults) == (0, 0)


def test_a_program_chooses_packet_by_packet_and_the_choice_ends_with_the_packet(functions: FunctionDut) -> None:
    put(functions, "from_endpoint", DNS)
    for port, outcome in ((53, Outcome.FUNCTION_HANDED_OVER), (80, Outcome.SENT_DIRECT)) * 2:
        assert functions.from_endpoint(sent(R, PAYLOAD, port)).outcome is outcome


@at_points
def test_functions_between_a_program_and_the_process_run(functions: FunctionDut, point: str) -> None:
    functions.install(point, 0, user_program(HAND_OVER))
    functions.install(point, 1, user_program(GO_ON))
    functions.install_process(point, 3, handed=True)
    functions.chains(point, 0, 1, 3)
    assert run_at(functions, point).outcome is Outcome.FUNCTION_HANDED_OVER
    assert functions.counted(point, 1).went_on == 1


def test_a_process_in_front_of_the_program_gets_nothing(functions: FunctionDut) -> None:
    put(functions, "from_endpoint", HAND_OVER, closed=True)
    functions.chains("from_endpoint", 3, 0)
    assert run_at(functions, "from_endpoint").outcome is USUAL["from_endpoint"]
    assert (functions.counted("from_endpoint", 3).packets, functions.counted("from_endpoint", 0).handed_over) == (0, 1)


@pytest.mark.parametrize("closed", [False, True])
@at_points
def test_where_the_process_does_not_run_its_on_fault_decides(functions: FunctionDut, point: str, closed: bool) -> None:
    put(functions, point, HAND_OVER, closed=closed, served=False)
    assert run_at(functions, point).outcome is (Outcome.FUNCTION_FAULT if closed else USUAL[point])
    assert functions.counted(point, 3).faults == 1


def test_of_two_processes_the_first_that_runs_takes_the_packet(functions: FunctionDut) -> None:
    for served, counts in ((True, (1, 0)), (False, (1, 1))):
        functions.renew()
        functions.install("from_endpoint", 0, user_program(HAND_OVER))
        functions.install_process("from_endpoint", 3, handed=True, served=served)
        functions.install_process("from_endpoint", 5, handed=True)
        functions.chains("from_endpoint", 0, 3, 5)
        assert run_at(functions, "from_endpoint").outcome is Outcome.FUNCTION_HANDED_OVER
        assert tuple(functions.counted("from_endpoint", slot).packets for slot in (3, 5)) == counts


@pytest.mark.parametrize("again", [False, True])
def test_a_second_process_takes_an_answered_packet_if_a_program_hands_it_over_again(
    at_xdp: FunctionDut,  # noqa: F811
    again: bool,
) -> None:
    at_xdp.install("from_endpoint", 0, user_program(HAND_OVER))
    at_xdp.install("from_endpoint", 1, user_program(HAND_OVER if again else GO_ON))
    at_xdp.install_process("from_endpoint", 5, handed=True)
    at_xdp.install_process("from_endpoint", 3, handed=True)
    at_xdp.chains("from_endpoint", 0, 3, 1, 5)
    frame = answer(at_xdp, run_at(at_xdp, "from_endpoint").frame, ANSWER_GO_ON)
    assert at_xdp.answer(frame).outcome is (Outcome.FUNCTION_HANDED_OVER if again else Outcome.SENT_DIRECT)
    assert at_xdp.counted("from_endpoint", 5).packets == int(again)


def test_a_process_that_takes_all_packets_does_not_end_a_hand_over(at_xdp: FunctionDut) -> None:  # noqa: F811
    at_xdp.install("from_endpoint", 0, user_program(HAND_OVER))
    at_xdp.install_process("from_endpoint", 5, handed=True)
    at_xdp.install_process("from_endpoint", 3)
    at_xdp.chains("from_endpoint", 0, 3, 5)
    frame = answer(at_xdp, run_at(at_xdp, "from_endpoint").frame, ANSWER_GO_ON)
    assert at_xdp.answer(frame).outcome is Outcome.FUNCTION_HANDED_OVER
    assert [at_xdp.counted("from_endpoint", slot).packets for slot in (3, 5)] == [1, 1]


def test_a_process_cannot_hand_packets_over(at_xdp: FunctionDut) -> None:  # noqa: F811
    put(at_xdp, "from_endpoint", HAND_OVER, closed=True)
    frame = bytearray(answer(at_xdp, run_at(at_xdp, "from_endpoint").frame, ANSWER_GO_ON))
    frame[3] = 6
    assert at_xdp.answer(bytes(frame)).outcome is Outcome.FUNCTION_FAULT
    assert at_xdp.counted("from_endpoint", 3).handed_over == 0


@pytest.mark.parametrize(
    ("body", "reasons", "seen"),
    [
        (HAND_OVER, [Outcome.SOURCE_ADDRESS], 1),
        (HAND_OVER, [Outcome.NO_ENDPOINT], 0),
        (GO_ON, [Outcome.SOURCE_ADDRESS], 0),
    ],
)
def test_at_dropped_a_program_and_the_reasons_choose_what_a_process_sees(
    functions: FunctionDut, body: str, reasons: list[Outcome], seen: int
) -> None:
    functions.install("dropped", 0, user_program(body))
    functions.install_process("dropped", 3, reasons=reasons, handed=True)
    functions.chains("dropped", 0, 3)
    functions.mirrored = bool(seen)
    assert functions.from_endpoint(wrong_source()).outcome is Outcome.SOURCE_ADDRESS
    assert functions.counted("dropped", 3).packets == seen
    assert functions.counted("dropped", 0).faults == 0


def test_what_is_handed_over_at_one_point_is_not_at_the_next(functions: FunctionDut) -> None:
    put(functions, "to_endpoint", GO_ON, closed=True)
    functions.install("from_underlay", 0, user_program(HAND_OVER))
    functions.chains("from_underlay", 0)
    assert run_at(functions, "to_endpoint").outcome is USUAL["to_endpoint"]
    assert functions.counted("from_underlay", 0).handed_over == 1
