"""Path MTUs that PTBs report, and how far they are trusted. Pure: times in seconds, sizes of the outer IP packet.

Anyone who can guess a droplet's addresses can forge a PTB. So a reported MTU only ever lowers the one in use, never
below the family's floor, and lasts ten minutes, as in the kernel (net.ipv4.route.mtu_expires). If the peer answers
probes, a reported MTU is used and verified at once: `agent.core.probe.path_mtu` sends a packet above it. If that is
answered, the reported MTU is dropped, and for a while further PTBs about the path are verified before they are used. No
more reported MTUs are used at one time than can be verified within a second.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import takewhile

from agent.core.probe.mtu_search import floor_of
from agent.core.probe.paths import Path

EXPIRES = 600.0
DISTRUST = 600.0


class ReportedMtus:
    """The reported MTUs in use, by path, and the paths on which one was refuted recently."""

    def __init__(self) -> None:
        self._ptb_mtus: dict[Path, int] = {}
        self._ends: dict[Path, float] = {}
        self._distrusted: dict[Path, float] = {}
        self._unverified: set[Path] = set()

    @property
    def unverified(self) -> int:
        """The number of reported MTUs that are used but not verified yet."""
        return len(self._unverified)

    def get(self, path: Path) -> int | None:
        """Return the MTU reported for a path, None if there is none."""
        return self._ptb_mtus.get(path)

    def accept(self, path: Path, mtu: int, now: float, *, unverified: bool) -> None:
        """Use a reported MTU below the known path MTU; `unverified`: a probe will verify it soon."""
        self.drop(path)  # the oldest reports come first
        self._ptb_mtus[path] = max(mtu, floor_of(path.peer))
        self._ends[path] = now + EXPIRES
        if unverified:
            self._unverified.add(path)

    def reject(self, path: Path, now: float) -> bool:
        """Drop a reported MTU that was refuted, and distrust the next PTBs; return False if there was none."""
        if path not in self._ptb_mtus:
            return False
        self.forget((path,))
        self._distrusted[path] = now + DISTRUST
        return True

    def drop(self, path: Path) -> None:
        """Drop a reported MTU that newer information replaces."""
        self._ptb_mtus.pop(path, None)
        self._ends.pop(path, None)
        self._unverified.discard(path)

    def trusts(self, path: Path) -> bool:
        """Return whether the MTU of the next PTB is used before it is verified."""
        return path not in self._distrusted

    def expire(self, now: float) -> list[Path]:
        """Forget reported MTUs that are too old, and return their paths."""
        old = list(_until(self._ends, now))
        for path in old:
            self.drop(path)
        for path in list(_until(self._distrusted, now)):
            del self._distrusted[path]
        return old

    def forget(self, paths: Iterable[Path]) -> None:
        """Forget everything about the given paths."""
        for path in paths:
            self.drop(path)
            self._distrusted.pop(path, None)


def _until(ends: Mapping[Path, float], now: float) -> Iterator[Path]:
    """Yield the paths whose time is over; `ends` is in order of time."""
    return takewhile(lambda path: ends[path] <= now, ends)
