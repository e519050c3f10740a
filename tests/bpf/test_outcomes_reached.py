"""Every outcome is reached by a test that expects it."""

from __future__ import annotations

import pytest
from bpf_dut import Dut

from agent.datapath.bpf.outcomes import RECEIVED, Outcome


@pytest.mark.after_all
def test_every_outcome_is_reached_by_some_test(shared_dut: Dut) -> None:
    assert set(Outcome) - RECEIVED - shared_dut.reached == set()
