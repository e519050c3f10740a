"""What a function counted, as tests read it from its maps."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Counted:
    """What one function counted; `reasons` are the packets that it dropped, by its own reason."""

    packets: int
    bytes: int
    went_on: int
    dropped: int
    sent_back: int
    sent_to: int
    handed_over: int
    faults: int
    reasons: dict[int, int] = field(default_factory=dict)

    def __sub__(self, before: Counted) -> Counted:
        names = ("packets", "bytes", "went_on", "dropped", "sent_back", "sent_to", "handed_over", "faults")
        grown = {reason: more for reason, n in self.reasons.items() if (more := n - before.reasons.get(reason, 0))}
        return Counted(*(getattr(self, name) - getattr(before, name) for name in names), grown)
