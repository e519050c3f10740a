"""What ICMP says of paths' MTUs, and how far it is believed. Pure: times in seconds, sizes of the outer IP packet.

Anyone who can guess a droplet's addresses can forge such a message. So a claim only ever lowers an MTU, never under the
family's floor, and lasts ten minutes, as in the kernel (net.ipv4.route.mtu_expires). Where the peer answers probes it
is believed at once and put to the proof at once: `agent.core.probe.probing` sends a packet above the claimed size, and
when that is answered the claim is dropped, and the path's further claims are only looked into, not believed, for a
while. No more claims are believed at one time than can be looked into within a second.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import takewhile

from agent.core.probe.mtu_search import floor_of
from agent.core.probe.paths import Path

EXPIRES = 600.0
DISTRUST = 600.0


class PathMtus:
    """The claims in force, by path, and the paths on which one was refuted lately."""

    def __init__(self) -> None:
        self._ptb_mtus: dict[Path, int] = {}
        self._ends: dict[Path, float] = {}
        self._distrusted: dict[Path, float] = {}
        self._unverified: set[Path] = set()

    @property
    def unverified(self) -> int:
        """How many claims are believed until a probe says more."""
        return len(self._unverified)

    def get(self, path: Path) -> int | None:
        """Return what is claimed of a path."""
        return self._ptb_mtus.get(path)

    def accept(self, path: Path, mtu: int, now: float, *, unverified: bool) -> None:
        """Take in a claim that is below what was known; `unverified`: probes will say soon whether it is true."""
        self.drop(path)  # the oldest stand in front
        self._ptb_mtus[path] = max(mtu, floor_of(path.peer))
        self._ends[path] = now + EXPIRES
        if unverified:
            self._unverified.add(path)

    def reject(self, path: Path, now: float) -> bool:
        """Drop a claim that was shown to be false, and distrust the next ones; False when there was none."""
        if path not in self._ptb_mtus:
            return False
        self.forget((path,))
        self._distrusted[path] = now + DISTRUST
        return True

    def drop(self, path: Path) -> None:
        """Drop a claim, since something newer is known."""
        self._ptb_mtus.pop(path, None)
        self._ends.pop(path, None)
        self._unverified.discard(path)

    def trusts(self, path: Path) -> bool:
        """Whether the next claim is to be believed before it is looked into."""
        return path not in self._distrusted

    def expire(self, now: float) -> list[Path]:
        """Forget what is too old, and return the paths whose claims that were."""
        old = list(_until(self._ends, now))
        for path in old:
            self.drop(path)
        for path in list(_until(self._distrusted, now)):
            del self._distrusted[path]
        return old

    def forget(self, paths: Iterable[Path]) -> None:
        """Forget all about some paths."""
        for path in paths:
            self.drop(path)
            self._distrusted.pop(path, None)


def _until(ends: Mapping[Path, float], now: float) -> Iterator[Path]:
    """Yield the paths in front whose time is over: later ones end later."""
    return takewhile(lambda path: ends[path] <= now, ends)
