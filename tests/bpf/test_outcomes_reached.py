"""Every outcome is reached by a test that expects it."""

from __future__ import annotations

import pytest
from bpf_dut import Dut
from function_dut import FunctionDut

from agent.core.model.hooks import Hook
from agent.datapath.bpf.outcomes import RECEIVED, Outcome

NOT_REACHED = {Hook.XDP: {Outcome.GSO_PACKET}, Hook.TC: {Outcome.NO_HEADROOM, Outcome.FUNCTION_ANSWER}}
"""XDP has no GSO packets, and the kernel makes space for tc."""


@pytest.mark.after_all
def test_every_outcome_is_reached_by_some_test(shared_dut: Dut, shared_functions: FunctionDut, hook: Hook) -> None:
    assert set(Outcome) - RECEIVED - shared_dut.reached - shared_functions.reached == NOT_REACHED[hook]
