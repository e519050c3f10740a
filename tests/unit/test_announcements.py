"""An address is announced a few times after each change of its place, and never more often than allowed."""

from __future__ import annotations

from agent.core.uplinks.announcements import PAUSE, PER_TURN, TIMES, AnnouncedAddress, AnnouncementSchedule

OLD = AnnouncedAddress(bytes((10, 0, 0, 1)), "eth0", 2, bytes(6))
NEW = OLD._replace(mac=bytes((2, 0, 0, 0, 0, 1)))


def announced(announcing: AnnouncementSchedule, begin: float, end: float) -> list[tuple[float, AnnouncedAddress]]:
    """Return what is announced from one time to another, asked for whenever it says so."""
    found, now = [], begin
    while now <= end:
        found += [(now, place) for place in announcing.due(now)]
        at = announcing.wake_at()
        if at is None:
            break
        now = max(now, at)
    return found


def test_a_new_address_is_announced_a_few_times_with_pauses() -> None:
    announcing = AnnouncementSchedule()
    assert announcing.follow([OLD])
    assert announced(announcing, 100.0, 200.0) == [(100.0 + n * PAUSE, OLD) for n in range(TIMES)]
    assert not announcing.follow([OLD])


def test_another_ethernet_address_is_announced_in_place_of_the_old_one() -> None:
    announcing = AnnouncementSchedule()
    announcing.follow([OLD])
    announced(announcing, 100.0, 100.5)
    assert announcing.follow([NEW])
    assert announced(announcing, 100.5, 200.0) == [(101.0 + n * PAUSE, NEW) for n in range(TIMES)]


def test_an_address_that_changes_again_and_again_is_announced_no_more_often() -> None:
    announcing = AnnouncementSchedule()
    found: list[AnnouncedAddress] = []
    for step in range(100):
        announcing.follow([NEW if step % 2 else OLD])
        found += announcing.due(100.0 + step / 50)
    assert len(found) == 2


def test_an_address_that_cannot_be_announced_yet_is_announced_as_often_later() -> None:
    announcing = AnnouncementSchedule()
    announcing.follow([OLD])
    for now in (100.0, 101.0, 102.0, 103.0):
        (place,) = announcing.due(now)
        announcing.postponed(place)
    assert len(announced(announcing, 104.0, 200.0)) == TIMES


def test_a_removed_address_is_no_longer_announced() -> None:
    announcing = AnnouncementSchedule()
    announcing.follow([OLD])
    announcing.due(100.0)
    announcing.follow([])
    announcing.postponed(OLD)
    assert announcing.wake_at() is None


def test_many_addresses_are_announced_a_few_at_a_time() -> None:
    announcing = AnnouncementSchedule()
    announcing.follow([OLD._replace(address=number.to_bytes(4)) for number in range(PER_TURN + 1)])
    assert len(announcing.due(100.0)) == PER_TURN
    assert len(announcing.due(100.0)) == 1
