"""Publishes the peers with their probed state, and the droplets that are down."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from agent.core.nexthop.next_hops import Peer, Senders
from agent.core.nexthop.peers import Droplets, PeersToReach, senders
from agent.core.probe import unanswered
from agent.core.probe.paths import View, down_peers, with_path_state
from agent.subscription import Observable
from protocol.addresses import format_address, parse_address

REST = 10
"""Publishing the peers may take at most one part in so many of the time."""


class PeerStates:
    """Other hosts' droplets, by packed address."""

    def __init__(self) -> None:
        self.peers = Observable[PeersToReach]()
        self.down = Observable[frozenset[str]]()
        """The ids of the droplets that do not answer; no value until the first one goes down."""
        self.answering: frozenset[bytes] = frozenset()
        """The droplets that should answer probes."""
        self._down: frozenset[bytes] = frozenset()
        self._droplets: Mapping[bytes, Peer] = {}
        self._senders: Senders = {}
        self._names: dict[bytes, str] = {}
        self._version: int | None = None
        self._publish_at = 0.0

    @property
    def addresses(self) -> frozenset[bytes]:
        """Return the addresses of all droplets that documents name, those of this host included."""
        return frozenset(self._names)

    def follow(self, droplets: Droplets) -> None:
        """Set the droplets in force."""
        self._droplets, self._senders = dict(droplets.peers), senders(droplets.resolved)
        self.answering = unanswered.answering(droplets.resolved)
        self._names = {parse_address(droplet.address): id_ for id_, droplet in droplets.resolved.droplets.items()}

    def name(self, address: bytes) -> str:
        """Return the id of a droplet, or the address as text if no document names it."""
        return self._names.get(address) or format_address(address)

    def is_down(self, address: bytes) -> bool:
        """Return whether a droplet no longer answers."""
        return address in self._down

    def publish(self, views: Sequence[View], ifindexes: Mapping[bytes, int], version: int) -> None:
        """Publish the peers with the state of their paths; `version` changes with that state."""
        self._version = version
        self.peers.publish(PeersToReach(with_path_state(self._droplets, views, ifindexes), self._senders))
        self._down = down_peers((view.path, view.liveness) for view in views)
        names = frozenset(map(self.name, self._down))
        if names != (self.down.value or frozenset()):
            self.down.publish(names)

    def publish_changed(
        self, views: Callable[[], Sequence[View]], ifindexes: Mapping[bytes, int], version: int
    ) -> None:
        """Publish if the state changed and the pause since the last time is long enough for the cost of publishing."""
        now = time.monotonic()
        if now >= self._publish_at and version != self._version:
            self.publish(views(), ifindexes, version)
            self._publish_at = now + REST * (time.monotonic() - now)
