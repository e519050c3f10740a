"""In equals out plus drops, on every host and between them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.datapath.bpf.outcomes import FORWARDED, RECEIVED, Outcome
from controller_sim.lab.lab import Lab
from controller_sim.lab.packet_balance import settled_balances
from lab.waiting import until

if TYPE_CHECKING:
    from lab.fixtures import SystemLab

HANDED_OVER = frozenset(
    {Outcome.DELIVERED, Outcome.DELIVERED_SAME_HOST, Outcome.FUNCTION_DELIVERED, Outcome.FUNCTION_HANDED_OVER}
)
"""Outcomes of forwarded packets that do not leave by the underlay."""


def is_even(counters: dict[str, int]) -> bool:
    """Whether a host's counters were read between packets.

    They are read one by one, those of packets that came first. A packet in between is seen to end and not to come.
    """
    came = sum(counters[outcome.name.lower()] for outcome in RECEIVED)
    return sum(counters.values()) == 2 * came


def crossing(lab: SystemLab) -> tuple[int, int]:
    """Return how many tunnel packets all hosts sent to the underlay, and how many they took from there.

    What the kernel dropped on its way out was not sent: a forwarded packet is one that left, or one that was lost.
    Probes are sent by the agents and not by the programs: what was reflected has no one that counted it as sent.
    """
    sent, taken = lab.handmade, 0
    for host in lab.hosts:
        counters = until(lambda host=host: even_counters(lab, host), f"{host}: counters read between packets", 20)
        sent += sum(counters[outcome.name.lower()] for outcome in FORWARDED - HANDED_OVER)
        sent -= sum(lost_at_uplinks(lab, host).values())
        taken += counters["received_from_underlay"] - counters["passed"] - counters["probe_reflected"]
    return sent, taken


def lost_at_uplinks(lab: SystemLab, host: str) -> dict[tuple[str, str], int]:
    """Return the frames that the kernel dropped after the verdict, by reason and interface."""
    return {place: frames for place, frames in lab.lost(host).items() if place[1] not in lab.endpoints}


def even_counters(lab: SystemLab, host: str) -> dict[str, int] | None:
    """Return a host's counters, or None where a packet came in between."""
    counters = lab.counters(host)
    return counters if is_even(counters) else None


def taken_unsent(lab: SystemLab) -> int:
    """Return how many tunnel packets came that nobody counts as sent, once two looks find the same.

    Hosts are read one after another: what one sends in between may be missed there and seen with the next.
    """
    seen: list[int] = []

    def look() -> bool:
        sent, taken = crossing(lab)
        seen.append(taken - sent)
        return seen[-2:-1] == seen[-1:]

    until(look, "two equal looks", 20)
    return seen[-1]


def check_balance(lab: Lab) -> None:
    """Hold that on every host in equals out plus drops, and that there was something to count."""
    found = settled_balances(lab, 20.0)
    uneven = {host: one for host, one in found.items() if not one.even}
    assert not uneven, uneven
    assert any(one.came for one in found.values()), "nothing came in anywhere"


def check_crossing(lab: SystemLab) -> None:
    """Assert that no packet between two droplets is lost, neither between them nor after the verdict."""
    lost = {host: found for host in lab.hosts if (found := lost_at_uplinks(lab, host))}
    assert lost == {}, "frames that programs forwarded and the kernel dropped"
    seen: list[tuple[int, int]] = []

    def look() -> bool:
        seen.append(crossing(lab))
        return len(set(seen[-1])) == 1

    try:
        until(look, "all that was sent", 20)
    except AssertionError as error:
        raise AssertionError(f"{error}: sent and taken {sorted(set(seen))}; {lab.all_counters()}") from None
