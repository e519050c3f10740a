"""What is to become of a packet: go on, drop, send back, send to another endpoint, send as the endpoint, keep."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from ipaddress import IPv4Address, IPv6Address, ip_address

MAX_REASON = 255
_MAPPED = bytes(10) + b"\xff\xff"


class VerdictCode(IntEnum):
    """The verdicts as metadata carries them (`enum function_verdict`). KEEP never leaves the process."""

    NONE = 0
    GO_ON = 1
    DROP = 2
    SEND_BACK = 3
    SEND_TO = 4
    SEND = 5
    KEEP = 255


@dataclass(frozen=True, slots=True)
class Verdict:
    """A verdict; make one with `drop` or `send_to`, or use GO_ON, SEND_BACK, SEND or KEEP.

    `reason` is the user's, for drops. `address` has 16 bytes, an IPv4 address mapped into IPv6, for SEND_TO.
    """

    code: VerdictCode
    reason: int = 0
    address: bytes = b""

    def __post_init__(self) -> None:
        """Raise ValueError for what the data plane would not accept: `drop` and `send_to` make what it does."""
        if not isinstance(self.code, VerdictCode) or self.code is VerdictCode.NONE:
            raise ValueError(f"{self.code!r} is no verdict: use GO_ON, SEND_BACK, SEND, KEEP, drop() or send_to()")
        if not 0 <= self.reason <= (MAX_REASON if self.code == VerdictCode.DROP else 0):
            raise ValueError(f"{self.code.name} with reason {self.reason}: drops have one, from 0 to {MAX_REASON}")
        if len(self.address) != (16 if self.code == VerdictCode.SEND_TO else 0):
            raise ValueError(f"{self.code.name} with an address of {len(self.address)} bytes: use send_to()")

    def __str__(self) -> str:
        """Return the verdict as a person reads it: `drop (reason 7)`."""
        text = self.code.name.lower().replace("_", " ")
        if self.code is VerdictCode.DROP:
            return f"{text} (reason {self.reason})"
        return f"{text} {self.destination}" if self.address else text

    @property
    def destination(self) -> IPv4Address | IPv6Address | None:
        """The address of the endpoint that a packet is sent to; None for other verdicts."""
        if not self.address:
            return None
        address = IPv6Address(self.address)
        return address.ipv4_mapped or address


GO_ON = Verdict(VerdictCode.GO_ON)
"""The pipeline continues with the packet, as changed."""
SEND_BACK = Verdict(VerdictCode.SEND_BACK)
"""The packet returns to where it came from. Swapping its addresses is the function's task."""
SEND = Verdict(VerdictCode.SEND)
"""At a function endpoint: the packet leaves as one that this endpoint sends, from its addresses alone."""
KEEP = Verdict(VerdictCode.KEEP)
"""The function has taken the packet: the data plane gets no answer, and the frame is used again."""

_DROPS = tuple(Verdict(VerdictCode.DROP, reason) for reason in range(MAX_REASON + 1))


def drop(reason: int = 0) -> Verdict:
    """Return the verdict to drop a packet; `reason` (0 to 255) is counted with it. ValueError beyond that."""
    if not isinstance(reason, int) or not 0 <= reason <= MAX_REASON:
        raise ValueError(f"drop({reason!r}): a reason is a number from 0 to {MAX_REASON}")
    return _DROPS[reason]


def send_to(address: str | IPv4Address | IPv6Address) -> Verdict:
    """Return the verdict to deliver a packet to another endpoint of its VPC; ValueError when it is no address."""
    parsed = ip_address(address)
    packed = parsed.packed if isinstance(parsed, IPv6Address) else _MAPPED + parsed.packed
    return Verdict(VerdictCode.SEND_TO, address=packed)
