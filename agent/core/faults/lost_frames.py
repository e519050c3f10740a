"""Frames that the kernel drops after our programs' verdict: reasons in words, and when they become a fault. Pure."""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping
from enum import IntEnum
from typing import NamedTuple

from agent.core.model.endpoint_slots import IFINDEX_BASE
from agent.core.model.errno_names import errno_name
from agent.core.model.map_layout import FAILURE_EXCEPTION, FAILURE_REDIRECT, FAILURE_TRANSMIT
from protocol.status import Fault, LostFrames

ENDPOINT_REMEDY = (
    "nothing at first: the agent repairs an endpoint's interface with its next resync, and this fault ends a "
    "minute after the last loss; if it stays, read `failures` in the acknowledgement of the endpoint's document"
)
"""The remedy for losses at an endpoint, whose cause the agent repairs itself."""
_REPAIRED_AT_ENDPOINTS = frozenset({"no_redirects", "no_receiver", "interface_down"})
QUIET_SECONDS = 60.0
"""A fault ends when no frame was lost for so many seconds."""
LEAST_LOOKS = 2
"""A fault begins when frames were lost in so many readings of the counters."""
KIND = "frames_lost_after_verdict"


class FailureKind(IntEnum):
    """Where a frame was dropped: FAILURE_* in `bpf/structs.h`."""

    OVERFLOW = 0
    """Any place: there was no room for a separate counter."""
    REDIRECT = FAILURE_REDIRECT
    TRANSMIT = FAILURE_TRANSMIT
    EXCEPTION = FAILURE_EXCEPTION


class FrameLoss(NamedTuple):
    """A cause of drops: the kernel's errno, 0 for none, and the ifindex of the outgoing interface."""

    kind: FailureKind
    errno: int
    ifindex: int


class LossReason(NamedTuple):
    """A reason: its name for machines, what it means, and what to do."""

    reason: str
    meaning: str
    remedy: str


_TAKES_NONE = LossReason(
    "no_redirects",
    "the interface takes no redirected frames",
    "attach_mode auto has programs run in generic mode there; with veth, `ethtool -K <peer> gro on`",
)
_NO_RECEIVER = LossReason(
    "no_receiver",
    "the other end of the interface does not receive redirected frames, or is down",
    "set the other end up, and with veth turn its GRO on: ethtool -K <peer> gro on",
)
_CONGESTED = LossReason(
    "queue_full", "the interface's queue was full", "more is sent than the receiver accepts: find out what sends"
)
_LOSS_REASONS = {
    (FailureKind.REDIRECT, errno.EOPNOTSUPP): _TAKES_NONE,
    (FailureKind.TRANSMIT, errno.EOPNOTSUPP): _TAKES_NONE,
    (FailureKind.TRANSMIT, errno.ENXIO): _NO_RECEIVER,
    (FailureKind.REDIRECT, errno.ENETDOWN): LossReason("interface_down", "the interface is down", "set it up"),
    (FailureKind.TRANSMIT, errno.ENETDOWN): LossReason("interface_down", "the interface is down", "set it up"),
    (FailureKind.REDIRECT, errno.EMSGSIZE): LossReason(
        "too_long", "the frames are longer than the interface's MTU", "give both ends of the wire the same MTU"
    ),
    (FailureKind.REDIRECT, errno.EINVAL): LossReason(
        "no_interface", "there is no such interface any more", "nothing, if it was just removed"
    ),
    (FailureKind.TRANSMIT, 0): _CONGESTED,
    (FailureKind.EXCEPTION, 0): LossReason(
        "not_transmitted", "the interface did not take the frames in generic mode", "look at its statistics: ip -s link"
    ),
    (FailureKind.OVERFLOW, 0): LossReason("other", "there was no room for a separate counter", ""),
}


def loss_reason_of(failure: FrameLoss) -> LossReason:
    """Return a reason in words; an unknown one is named by its errno."""
    known = _LOSS_REASONS.get((failure.kind, failure.errno))
    if known is not None:
        return known
    name = errno_name(failure.errno)
    what = "redirect" if failure.kind is FailureKind.REDIRECT else "transmit"
    return LossReason(f"{what}_{name.lower()}", f"the kernel refuses it with {name}", "")


def lost_frames(counts: Mapping[FrameLoss, int], name: Callable[[int], str]) -> tuple[LostFrames, ...]:
    """Return the counts as telemetry; `name` gives an interface's or endpoint's name by ifindex."""
    by_place: dict[tuple[str, str], int] = {}
    for failure, frames in counts.items():
        place = (loss_reason_of(failure).reason, name(failure.ifindex))
        by_place[place] = by_place.get(place, 0) + frames
    return tuple(LostFrames(reason, interface, frames) for (reason, interface), frames in sorted(by_place.items()))


def unsent_frames(by_uplink: Mapping[str, int]) -> tuple[LostFrames, ...]:
    """Return the drivers' counts of unsent frames as telemetry, for hosts without better counters."""
    return tuple(LostFrames("driver_statistics", uplink, frames) for uplink, frames in sorted(by_uplink.items()))


class LossWatch:
    """Remembers which counts grew recently, and how often: only continued loss is a fault, not a frame at a removal."""

    def __init__(self) -> None:
        self._counts: dict[FrameLoss, int] | None = None
        self._grew: dict[FrameLoss, tuple[float, int]] = {}
        """When a count last grew, and in how many readings."""

    def look(self, counts: Mapping[FrameLoss, int], now: float) -> None:
        """Record the counts at `now`, in seconds. Losses before the first call are ignored."""
        before, self._counts = self._counts, dict(counts)
        for failure, frames in counts.items():
            if before is not None and frames > before.get(failure, 0):
                self._grew[failure] = now, self._grew.get(failure, (now, 0))[1] + 1
        self._grew = {one: grew for one, grew in self._grew.items() if now < grew[0] + QUIET_SECONDS}

    def faults(self, name: Callable[[int], str]) -> list[Fault]:
        """Return a fault for each interface and reason with continued losses; `name`: see `lost_frames`."""
        places = {
            (name(failure.ifindex), _loss_reason_at(failure))
            for failure, (_, looks) in self._grew.items()
            if looks >= LEAST_LOOKS and loss_reason_of(failure) is not _CONGESTED
        }
        return [_fault(interface, words) for interface, words in sorted(places)]


def _loss_reason_at(failure: FrameLoss) -> LossReason:
    """Return a reason in words, with the special remedy if it concerns an endpoint's interface."""
    words = loss_reason_of(failure)
    if failure.ifindex >= IFINDEX_BASE and words.reason in _REPAIRED_AT_ENDPOINTS:
        return words._replace(remedy=ENDPOINT_REMEDY)
    return words


def _fault(interface: str, words: LossReason) -> Fault:
    detail = f"the kernel drops what is sent there: {words.meaning}"
    return Fault(KIND, f"{interface} ({words.reason})", detail, words.remedy)
