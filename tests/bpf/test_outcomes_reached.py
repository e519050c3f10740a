"""Every way to end is reached by a test that expects it."""

from __future__ import annotations

import pytest
from bpf_world import World

from agent.datapath.bpf.outcomes import RECEIVED, Outcome


@pytest.mark.after_all
def test_every_outcome_is_reached_by_some_test(one_world: World) -> None:
    assert set(Outcome) - RECEIVED - one_world.reached == set()
