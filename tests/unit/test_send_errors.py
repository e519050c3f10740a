"""What a probe that this host does not send means: each errno has its cause, and standing ones are faults."""

from __future__ import annotations

import errno

import pytest

from agent.core.probe.paths import Path
from agent.core.probe.send_errors import BUSY_TIMES, SendErrors, Sending, sending_of

HERE, PEER, OTHER = (bytes((10, 0, 0, place)) for place in range(3))
PATH = Path(HERE, PEER)


def faults(errors: SendErrors) -> list[tuple[str, str]]:
    return [(one.kind, one.subject) for one in errors.faults(lambda _: ("eth0", "10.0.0.0"), 6081)]


@pytest.mark.parametrize(
    ("number", "cause", "tells_of_path"),
    [
        (errno.EPERM, Sending.FILTERED, False),
        (errno.ENOBUFS, Sending.BUSY, False),
        (errno.EAGAIN, Sending.BUSY, False),
        (errno.EMFILE, Sending.BUSY, False),
        (errno.EMSGSIZE, Sending.TOO_LONG, False),
        (errno.EINVAL, Sending.NO_ADDRESS, True),
        (errno.EADDRNOTAVAIL, Sending.NO_ADDRESS, True),
        (errno.ENETDOWN, Sending.NO_INTERFACE, True),
        (errno.ENODEV, Sending.NO_INTERFACE, True),
        (errno.EACCES, Sending.PROHIBITED, True),
        (errno.ENETUNREACH, Sending.IMPOSSIBLE, True),
        (errno.EHOSTUNREACH, Sending.IMPOSSIBLE, True),
    ],
)
def test_each_errno_has_its_cause(number: int, cause: Sending, tells_of_path: bool) -> None:
    assert sending_of(number) is cause
    assert cause.tells_of_path is tells_of_path


def test_a_firewall_is_one_fault_however_many_peers_it_concerns_and_ends_with_the_last() -> None:
    errors = SendErrors()
    for peer in (PEER, OTHER):
        errors.note(Path(HERE, peer), Sending.FILTERED)
    assert faults(errors) == [("local_firewall", "eth0 10.0.0.0")]
    errors.note(PATH, Sending.SENT)
    assert faults(errors) == [("local_firewall", "eth0 10.0.0.0")]
    errors.note(Path(HERE, OTHER), Sending.SENT)
    assert faults(errors) == []


def test_a_queue_that_is_full_now_and_then_is_no_fault() -> None:
    errors = SendErrors()
    for _ in range(10):
        errors.note(PATH, Sending.BUSY)
        errors.note(PATH, Sending.SENT)
    assert faults(errors) == []
    for _ in range(BUSY_TIMES):
        errors.note(PATH, Sending.BUSY)
    assert faults(errors) == [("probes_not_sent", "eth0 10.0.0.0")]


def test_a_missing_route_is_told_elsewhere_and_a_path_that_is_gone_is_forgotten() -> None:
    errors = SendErrors()
    errors.note(PATH, Sending.IMPOSSIBLE)
    assert faults(errors) == []
    errors.note(PATH, Sending.NO_INTERFACE)
    assert faults(errors) == [("probes_not_sent", "eth0 10.0.0.0")]
    errors.keep([])
    assert faults(errors) == []
