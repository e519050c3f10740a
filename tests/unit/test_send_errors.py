"""What a probe that this host does not send means: each errno has its cause, and standing ones are faults."""

from __future__ import annotations

import errno

import pytest

from agent.core.probe.paths import Path
from agent.core.probe.send_errors import BUSY_TIMES, SendErrors, SendResult, send_result

HERE, PEER, OTHER = (bytes((10, 0, 0, place)) for place in range(3))
PATH = Path(HERE, PEER)


def faults(errors: SendErrors) -> list[tuple[str, str]]:
    return [(one.kind, one.subject) for one in errors.faults(lambda _: ("eth0", "10.0.0.0"), 6081)]


@pytest.mark.parametrize(
    ("number", "cause", "path_is_broken"),
    [
        (errno.EPERM, SendResult.FILTERED, False),
        (errno.ENOBUFS, SendResult.BUSY, False),
        (errno.EAGAIN, SendResult.BUSY, False),
        (errno.EMFILE, SendResult.BUSY, False),
        (errno.EMSGSIZE, SendResult.TOO_LONG, False),
        (errno.EINVAL, SendResult.NO_ADDRESS, True),
        (errno.EADDRNOTAVAIL, SendResult.NO_ADDRESS, True),
        (errno.ENETDOWN, SendResult.NO_INTERFACE, True),
        (errno.ENODEV, SendResult.NO_INTERFACE, True),
        (errno.EACCES, SendResult.PROHIBITED, True),
        (errno.ENETUNREACH, SendResult.IMPOSSIBLE, True),
        (errno.EHOSTUNREACH, SendResult.IMPOSSIBLE, True),
    ],
)
def test_each_errno_has_its_cause(number: int, cause: SendResult, path_is_broken: bool) -> None:
    assert send_result(number) is cause
    assert cause.path_is_broken is path_is_broken


def test_a_firewall_is_one_fault_however_many_peers_it_concerns_and_ends_with_the_last() -> None:
    errors = SendErrors()
    for peer in (PEER, OTHER):
        errors.note(Path(HERE, peer), SendResult.FILTERED)
    assert faults(errors) == [("local_firewall", "eth0 10.0.0.0")]
    errors.note(PATH, SendResult.SENT)
    assert faults(errors) == [("local_firewall", "eth0 10.0.0.0")]
    errors.note(Path(HERE, OTHER), SendResult.SENT)
    assert faults(errors) == []


def test_a_queue_that_is_full_now_and_then_is_no_fault() -> None:
    errors = SendErrors()
    for _ in range(10):
        errors.note(PATH, SendResult.BUSY)
        errors.note(PATH, SendResult.SENT)
    assert faults(errors) == []
    for _ in range(BUSY_TIMES):
        errors.note(PATH, SendResult.BUSY)
    assert faults(errors) == [("probes_not_sent", "eth0 10.0.0.0")]


def test_a_missing_route_is_no_fault_of_sending_and_a_path_that_is_gone_is_forgotten() -> None:
    errors = SendErrors()
    errors.note(PATH, SendResult.IMPOSSIBLE)
    assert faults(errors) == []
    errors.note(PATH, SendResult.NO_INTERFACE)
    assert faults(errors) == [("probes_not_sent", "eth0 10.0.0.0")]
    errors.retain([])
    assert faults(errors) == []
