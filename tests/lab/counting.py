"""By how much the counters of a lab's hosts grew."""

from __future__ import annotations

DETOURS = ("sent_to_bouncer", "sent_to_divider", "bounced", "handed_to_bouncer", "handed_to_divider")
"""Outcomes of packets that did not go straight to their endpoint's host."""


def grown(before: dict[str, dict[str, int]], after: dict[str, dict[str, int]], *names: str) -> int:
    """Return by how much some counters grew, over all hosts."""
    return sum(after[host][name] - before[host][name] for host in before for name in names)
