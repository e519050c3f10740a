"""What a function has counted since it was made."""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass(slots=True)
class Counters:
    """Packets and events since the function was made.

    received = go_on + drop + send_back + send_to + send + keep + those without a verdict yet. A packet whose handler
    failed counts under `handler_errors` and under the verdict that it got instead.
    """

    received: int = 0
    go_on: int = 0
    drop: int = 0
    send_back: int = 0
    send_to: int = 0
    send: int = 0
    keep: int = 0
    handler_errors: int = 0
    """Packets whose handler raised, or gave no verdict."""
    malformed: int = 0
    """Entries of RX rings, or metadata in frames, that were unusable; not in `received`."""
    unexpected_completions: int = 0
    """Entries of completion rings for frames that had not been sent: frames of an earlier process, or an error."""
    ring_full: int = 0
    """Times that answers had to wait because the TX ring was full."""
    wakeups: int = 0
    """System calls that woke the kernel up."""
    originated: int = 0
    """Packets of the function's own, which it sent as a function endpoint."""
    connections: int = 0
    """Hand-overs of sockets by an agent."""

    def as_dict(self) -> dict[str, int]:
        """Return all counters by name."""
        return asdict(self)
