"""MTUs that PTBs report: floors, expiry, distrust."""

from __future__ import annotations

from agent.core.probe.packet_too_big import DISTRUST, EXPIRES, ReportedMtus
from agent.core.probe.paths import Path

V4 = Path(bytes(4), bytes(4))
V6 = Path(bytes(16), bytes(16))
OTHER = Path(bytes(4), b"\1\1\1\1")


def test_no_ptb_is_accepted_below_the_minimum() -> None:
    mtus = ReportedMtus()
    for path in (V4, V6):
        mtus.accept(path, 100, 0, unverified=False)
    assert (mtus.get(V4), mtus.get(V6), mtus.get(OTHER)) == (576, 1280, None)


def test_ptb_values_expire_after_ten_minutes_the_oldest_first() -> None:
    mtus = ReportedMtus()
    mtus.accept(V4, 1400, 0, unverified=True)
    mtus.accept(V6, 1400, 1, unverified=True)
    mtus.accept(V4, 1300, 2, unverified=True)
    assert mtus.unverified == 2
    assert mtus.expire(EXPIRES + 1) == [V6]
    assert (mtus.get(V4), mtus.unverified) == (1300, 1)
    assert mtus.expire(EXPIRES + 2) == [V4]
    assert mtus.unverified == 0


def test_ptbs_of_a_refuted_path_are_ignored_for_a_while() -> None:
    mtus = ReportedMtus()
    assert not mtus.reject(V4, 0)
    mtus.accept(V4, 1400, 0, unverified=True)
    assert mtus.reject(V4, 5)
    assert (mtus.get(V4), mtus.trusts(V4), mtus.trusts(V6), mtus.unverified) == (None, False, True, 0)
    mtus.expire(5 + DISTRUST - 1)
    assert not mtus.trusts(V4)
    mtus.expire(5 + DISTRUST)
    assert mtus.trusts(V4)


def test_a_forgotten_path_is_trusted_again() -> None:
    mtus = ReportedMtus()
    mtus.accept(V4, 1400, 0, unverified=True)
    mtus.reject(V4, 1)
    mtus.accept(V6, 1400, 2, unverified=False)
    mtus.forget([V4, V6])
    assert mtus.trusts(V4)
    assert mtus.get(V6) is None
    assert mtus.expire(1e9) == []
