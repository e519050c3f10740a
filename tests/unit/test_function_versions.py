"""When a new version of a function stays, and when the one before runs again."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agent.core.functions.versions import MOST_FAULTS, WATCH_SECONDS, Decision, VersionWatch, decide, version_in_force
from agent.core.model.desired_entries import Function, FunctionBuild
from protocol.documents import FunctionProcess, FunctionProgram

ONE = Function("f", 1, 0, "one", FunctionProgram(source="one"), b"1")
TWO = replace(ONE, content="two", program=FunctionProgram(source="two"))
THREE = replace(ONE, content="three", program=FunctionProgram(source="three"))


@pytest.mark.parametrize(
    ("faults", "elapsed", "decision"),
    [
        (0, 0.0, Decision.WATCH),
        (MOST_FAULTS, WATCH_SECONDS - 0.1, Decision.WATCH),
        (MOST_FAULTS, WATCH_SECONDS, Decision.STAYS),
        (MOST_FAULTS + 1, 0.0, Decision.FAILED),
        (MOST_FAULTS + 1, WATCH_SECONDS + 1, Decision.FAILED),
    ],
)
def test_faults_and_time_decide(faults: int, elapsed: float, decision: Decision) -> None:
    assert decide(faults, elapsed) is decision


def watch(*versions: Function, faults: int = 0) -> VersionWatch:
    """Return a watch of versions that went live at once, the first one as revision 1."""
    found = VersionWatch({})
    for revision, one in enumerate(versions, 1):
        found.put(one, revision, lambda: faults, 0.0)
    return found


def test_only_faults_since_a_version_went_live_count_against_it() -> None:
    found = watch(ONE, TWO, faults=1000)
    found.look({ONE.place: 1000 + MOST_FAULTS}, 1.0)
    assert version_in_force(TWO, 2, found.histories[ONE.place]).content == "two"
    found.look({ONE.place: 1001 + MOST_FAULTS}, 2.0)
    assert version_in_force(TWO, 2, found.histories[ONE.place]) == ONE


def test_counters_that_began_anew_count_nothing_against_a_version() -> None:
    found = watch(ONE, TWO, faults=1000)
    found.look({ONE.place: 3}, 1.0)
    assert version_in_force(TWO, 2, found.histories[ONE.place]).content == "two"


def test_another_revision_or_version_than_the_one_that_failed_runs_as_it_is_listed() -> None:
    found = watch(ONE, TWO)
    found.look({ONE.place: MOST_FAULTS + 1}, 1.0)
    history = found.histories[ONE.place]
    assert version_in_force(TWO, 3, history).content == "two"
    assert version_in_force(THREE, 2, history).content == "three", "a recreated stream counts anew"


def test_the_last_version_that_proved_itself_is_retained_however_many_came_since() -> None:
    found = watch(ONE, TWO, THREE)
    assert version_in_force(THREE, 3, found.histories[ONE.place]).retained == FunctionBuild("one", closed=False)
    found.look({ONE.place: 0}, WATCH_SECONDS)
    assert version_in_force(THREE, 3, found.histories[ONE.place]) == THREE
    assert not found.watched


def test_a_version_before_in_another_slot_is_not_retained_but_can_run_again() -> None:
    found = watch(ONE, replace(TWO, slot=4))
    assert version_in_force(replace(TWO, slot=4), 2, found.histories[ONE.place]).retained is None
    found.look({ONE.place: MOST_FAULTS + 1}, 1.0)
    assert version_in_force(replace(TWO, slot=4), 2, found.histories[ONE.place]) == replace(ONE, slot=4)


def test_a_process_is_not_watched_and_is_nothing_to_go_back_to() -> None:
    process = replace(ONE, content="p", program=FunctionProgram(process=FunctionProcess(user="nobody")))
    found = watch(ONE, process)
    assert (found.watched, found.histories) == (frozenset(), {})
    found.put(TWO, 3, lambda: 0, 0.0)
    found.look({ONE.place: MOST_FAULTS + 1}, 1.0)
    assert found.histories == {}


def test_a_version_that_is_put_back_by_a_document_is_watched_no_more() -> None:
    found = watch(ONE, TWO, ONE)
    assert not found.watched


def test_nothing_of_another_vpc_runs_in_place_of_a_version_that_failed() -> None:
    """An id may pass to another tenant, whose documents never listed the version before."""
    other = replace(TWO, vpc="blue")
    found = watch(replace(ONE, vpc="red"), other)
    history = found.histories[ONE.place]
    assert version_in_force(other, 2, history) == other, "nor is it retained"
    found.look({ONE.place: MOST_FAULTS + 1}, 1.0)
    assert version_in_force(other, 2, found.histories.get(ONE.place)) == other
    assert version_in_force(replace(other, vpc="green"), 2, history) == replace(other, vpc="green")
