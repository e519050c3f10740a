"""In equals out plus drops, on every host and between them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.datapath.outcomes import FORWARDED, RECEIVED, Outcome
from lab.waiting import until

if TYPE_CHECKING:
    from lab.fixtures import SystemLab

HANDED_OVER = frozenset({Outcome.DELIVERED, Outcome.DELIVERED_SAME_HOST})
"""Of what is forwarded, what does not go to the substrate."""


def balance(lab: SystemLab, host: str) -> tuple[int, int]:
    """Return how many packets came in, and how many ended in another outcome."""
    counters = lab.counters(host)
    came = sum(counters.pop(outcome.name.lower()) for outcome in RECEIVED)
    return came, sum(counters.values())


def crossing(lab: SystemLab) -> tuple[int, int]:
    """Return how many tunnel packets all hosts sent to the substrate, and how many they took from there.

    Probes are sent by the agents and not by the programs: what was reflected has no one that counted it as sent.
    """
    sent, taken = lab.handmade, 0
    for counters in lab.all_counters().values():
        sent += sum(counters[outcome.name.lower()] for outcome in FORWARDED - HANDED_OVER)
        taken += counters["received_from_substrate"] - counters["passed"] - counters.get("probe_reflected", 0)
    return sent, taken


def check_balance(lab: SystemLab) -> None:
    """Hold that on every host in equals out plus drops; counters are read one by one while the bus goes on."""
    for host in lab.hosts:
        until(lambda host=host: len(set(balance(lab, host))) == 1, f"a balance on {host}: {balance(lab, host)}", 20)


def check_crossing(lab: SystemLab) -> None:
    """Hold that what one droplet sent to another arrived: nothing is lost between them."""
    until(lambda: len(set(crossing(lab))) == 1, f"what was sent: {crossing(lab)}", 20)
