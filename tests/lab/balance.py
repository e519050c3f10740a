"""In equals out plus drops, on every host and between them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.datapath.outcomes import FORWARDED, Outcome
from controller_sim.balance import settled_balances
from controller_sim.lab import Lab
from lab.waiting import until

if TYPE_CHECKING:
    from lab.fixtures import SystemLab

HANDED_OVER = frozenset({Outcome.DELIVERED, Outcome.DELIVERED_SAME_HOST})
"""Of what is forwarded, what does not go to the substrate."""


def crossing(lab: SystemLab) -> tuple[int, int]:
    """Return how many tunnel packets all hosts sent to the substrate, and how many they took from there.

    Probes are sent by the agents and not by the programs: what was reflected has no one that counted it as sent.
    """
    sent, taken = lab.handmade, 0
    for counters in lab.all_counters().values():
        sent += sum(counters[outcome.name.lower()] for outcome in FORWARDED - HANDED_OVER)
        taken += counters["received_from_substrate"] - counters["passed"] - counters.get("probe_reflected", 0)
    return sent, taken


def check_balance(lab: Lab) -> None:
    """Hold that on every host in equals out plus drops, and that there was something to count."""
    found = settled_balances(lab, 20.0)
    uneven = {host: one for host, one in found.items() if not one.even}
    assert not uneven, uneven
    assert any(one.came for one in found.values()), "nothing came in anywhere"


def check_crossing(lab: SystemLab) -> None:
    """Hold that what one droplet sent to another arrived: nothing is lost between them."""
    until(lambda: len(set(crossing(lab))) == 1, f"what was sent: {crossing(lab)}", 20)
