"""What the kernel drops after a verdict, in words, and when it is a fault."""

from __future__ import annotations

import errno

from agent.core.faults.lost_frames import (
    ENDPOINT_REMEDY,
    QUIET_SECONDS,
    FailureKind,
    FrameLoss,
    LossWatch,
    loss_reason_of,
    lost_frames,
)
from agent.core.model.endpoint_slots import IFINDEX_BASE
from agent.datapath.bpf.lost_frame_counter import why_too_old
from protocol.status import LostFrames

LOST = FrameLoss(FailureKind.REDIRECT, errno.EOPNOTSUPP, 2)
FULL = FrameLoss(FailureKind.TRANSMIT, 0, 2)


def name(ifindex: int) -> str:
    return {2: "eth0"}.get(ifindex, f"interface {ifindex}")


def test_counts_of_one_reason_and_interface_are_added() -> None:
    other = FrameLoss(FailureKind.TRANSMIT, errno.EOPNOTSUPP, 2)
    gone = FrameLoss(FailureKind.REDIRECT, errno.EINVAL, 7)
    assert lost_frames({LOST: 3, other: 4, gone: 1}, name) == (
        LostFrames("no_interface", "interface 7", 1),
        LostFrames("no_redirects", "eth0", 7),
    )


def test_an_unknown_errno_is_shown_by_its_number() -> None:
    assert loss_reason_of(FrameLoss(FailureKind.TRANSMIT, errno.EIO, 2)).reason == "transmit_eio"
    assert loss_reason_of(FrameLoss(FailureKind.REDIRECT, 4711, 2)).reason == "redirect_4711"
    assert loss_reason_of(FrameLoss(FailureKind.EXCEPTION, errno.EOPNOTSUPP, 2)).reason == "transmit_eopnotsupp"


def test_continuing_losses_are_a_fault_until_a_minute_without_any() -> None:
    watch = LossWatch()
    watch.look({LOST: 100}, 0.0)
    assert watch.faults(name) == [], "what was lost before the agent's start is history"
    watch.look({LOST: 101}, 3.0)
    assert watch.faults(name) == [], "one frame at a removal"
    watch.look({LOST: 120}, 6.0)
    (fault,) = watch.faults(name)
    assert (fault.kind, fault.subject) == ("frames_lost_after_verdict", "eth0 (no_redirects)")
    assert "takes no redirected frames" in fault.detail
    assert "ethtool -K" in fault.remedy
    watch.look({LOST: 120}, 6.0 + QUIET_SECONDS - 1)
    assert watch.faults(name) == [fault]
    watch.look({LOST: 120}, 6.0 + QUIET_SECONDS)
    assert watch.faults(name) == []


def test_a_new_reason_counts_from_zero_and_a_full_queue_is_no_fault() -> None:
    watch = LossWatch()
    watch.look({}, 0.0)
    for second in range(1, 4):
        watch.look({LOST: second, FULL: 1000 * second}, float(second))
    assert [fault.subject for fault in watch.faults(name)] == ["eth0 (no_redirects)"]


def test_losses_at_an_endpoint_do_not_suggest_another_attach_mode() -> None:
    watch = LossWatch()
    endpoint = LOST._replace(ifindex=IFINDEX_BASE + 3)
    for second in range(3):
        watch.look({LOST: second, endpoint: second}, float(second))
    remedies = {fault.subject: fault.remedy for fault in watch.faults(name)}
    assert remedies[f"interface {IFINDEX_BASE + 3} (no_redirects)"] == ENDPOINT_REMEDY
    assert "attach_mode" in remedies["eth0 (no_redirects)"]


def test_losses_are_counted_only_on_tested_kernels() -> None:
    assert why_too_old("6.1.0-56-amd64") == why_too_old("6.18.44-cloud") == why_too_old("7.0-rc1") == ""
    assert "Linux 6.0.19 is older than 6.1" in why_too_old("6.0.19")
    assert why_too_old("5.18.0")
