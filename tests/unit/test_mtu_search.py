"""The search of what a path carries, against paths of every size, with and without loss and PTBs."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.probe.mtu_search import FLOOR_IPV4, FLOOR_IPV6, MOST_PROBES, Search, floor_of

FULL = 1500


def walk(search: Search, answer: Callable[[int], bool]) -> list[int]:
    """Let a search go to its end; return the sizes that it tried."""
    tried = []
    while not search.done:
        tried.append(search.next_size)
        if answer(search.next_size):
            search.carried()
        else:
            search.lost()
    return tried


def test_the_minimum_is_that_of_the_family() -> None:
    assert (floor_of(bytes(4)), floor_of(bytes(16))) == (FLOOR_IPV4, FLOOR_IPV6) == (576, 1280)


def test_a_path_with_the_full_mtu_needs_one_probe() -> None:
    search = Search(FLOOR_IPV4, FULL)
    assert walk(search, lambda size: True) == [FULL]
    assert search.result == FULL


@given(truth=st.integers(FLOOR_IPV4, 9000), full=st.integers(FLOOR_IPV4, 9000), hints=st.lists(st.integers(0, 65535)))
def test_without_loss_the_exact_size_is_found_whatever_the_ptb_says(truth: int, full: int, hints: list[int]) -> None:
    search = Search(FLOOR_IPV4, full, hints[:2])
    for hint in hints[2:4]:
        search.hint(hint)
    tried = walk(search, lambda size: size <= truth)
    assert search.result == min(truth, full)
    assert len(tried) <= MOST_PROBES


@given(answers=st.lists(st.booleans(), max_size=MOST_PROBES), full=st.integers(FLOOR_IPV6, 65535))
def test_with_any_loss_the_search_ends_within_its_bounds(answers: list[bool], full: int) -> None:
    search = Search(FLOOR_IPV6, full)
    left = iter(answers)
    tried = walk(search, lambda size: next(left, False))
    assert len(tried) <= MOST_PROBES
    assert search.result is None or FLOOR_IPV6 <= search.result <= full
    assert all(FLOOR_IPV6 <= size <= full for size in tried)


@given(reported=st.lists(st.none() | st.integers(0, 70000)), full=st.integers(FLOOR_IPV4, 65535))
def test_routers_that_lie_do_not_keep_a_search_going(reported: list[int | None], full: int) -> None:
    search = Search(FLOOR_IPV4, full)
    left, probes = iter(reported), 0
    while not search.done:
        probes += 1
        search.refused(next(left, None))
    assert probes <= MOST_PROBES


@pytest.mark.parametrize("reported", [1400, 1280, 576])
def test_a_correct_ptb_needs_three_sizes(reported: int) -> None:
    search = Search(FLOOR_IPV4, FULL)
    search.hint(reported)
    tried = walk(search, lambda size: size <= reported)
    assert sorted(set(tried)) == [reported, reported + 1, FULL]
    assert search.result == reported


def test_the_mtu_in_a_ptb_is_tried_next() -> None:
    search = Search(FLOOR_IPV6, FULL)
    tried = []
    while not search.done:
        tried.append(search.next_size)
        if search.next_size > 1420:
            search.refused(1420)
        else:
            search.carried()
    assert tried == [FULL, 1420, 1421]
    assert search.result == 1420


def test_a_passing_silence_sets_no_limit() -> None:
    search = Search(FLOOR_IPV4, FULL)
    silence = iter([False] * 3)
    tried = walk(search, lambda size: next(silence, True))
    assert search.result == FULL
    assert tried.count(FULL) >= 4


def test_silence_is_retried_once_and_a_ptb_is_not() -> None:
    search = Search(FLOOR_IPV4, FULL, (1400,))
    tried = walk(search, lambda size: size <= 1400)
    assert (search.result, tried.count(1401)) == (1400, 6)
    search = Search(FLOOR_IPV4, FULL, (1400,))
    search.carried()
    search.refused(None)
    assert search.done
    assert search.result == 1400


def test_a_lost_size_is_tried_again() -> None:
    search = Search(FLOOR_IPV4, FULL)
    search.lost()
    search.lost()
    assert search.next_size == FULL
    search.carried()
    assert search.result == FULL


def test_a_path_that_answers_nothing_gives_no_result() -> None:
    search = Search(FLOOR_IPV6, FULL)
    assert walk(search, lambda size: False) == [FULL] * 3 + [FLOOR_IPV6] * 3
    assert search.result is None


def test_a_path_with_the_minimum_mtu_is_probed_with_it() -> None:
    search = Search(FLOOR_IPV6, FLOOR_IPV6)
    assert walk(search, lambda size: True) == [FLOOR_IPV6]
    assert search.result == FLOOR_IPV6
