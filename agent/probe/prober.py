"""Probes the other hosts' droplets: drives `agent.core.probe.probing`, and publishes the results.

Follows the droplets in force. The results are observables: the neighbour watch follows the peers, and the reconciler
the droplets that are down.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Collection, Iterable, Mapping

from agent.core.faults.tracker import ReportFaults
from agent.core.nexthop.peers import Droplets, PeersToReach
from agent.core.probe import unanswered
from agent.core.probe.icmp_errors import TunnelError
from agent.core.probe.paths import Counts, Liveness, Path, Probe, Rules, View, paths_of
from agent.core.probe.probe_packet import NONCE
from agent.core.probe.probing import Probing
from agent.core.probe.send_errors import SendResult
from agent.probe.path_events import PathEvents
from agent.probe.path_memory import PathMemory
from agent.probe.peer_states import PeerStates
from agent.probe.sockets import ProbeSockets
from agent.subscription import Observable
from agent.telemetry.loop_errors import LoopErrors
from protocol.addresses import format_address
from protocol.status import Fault, NarrowPath

LEAST_SLEEP, MOST_SLEEP = 0.01, 0.5
REPORT_SECONDS = 1.0
FAILED_SECONDS = 1.0


class Prober:
    """One host's probes. Until `run` is called, peers are only published as documents define them."""

    def __init__(
        self,
        rules: Rules,
        ports: tuple[int, ...],
        unreachable: Callable[[], Collection[bytes]],
        memory: PathMemory,
        events: PathEvents,
        errors: LoopErrors,
        report: ReportFaults,
    ) -> None:
        """`ports` are the tunnels' UDP ports, Geneve's first.

        `unreachable` returns the unreachable peers, the same object until they change.
        """
        self.doubtful = Observable[Collection[Path]]()
        """Paths whose next hop the kernel should validate again; each value is independent of the earlier ones."""
        self._states = PeerStates()
        self._probing = Probing(rules, lambda: secrets.token_bytes(NONCE))
        self._sockets = ProbeSockets(tuple(port for port in ports if port), self._answered, self._on_icmp_error)
        self._unreachable = unreachable
        self._unreachable_seen: Collection[bytes] | None = None
        self._memory = memory
        self._events = events
        self._errors = errors
        self._report = report
        self._report_at = 0.0
        self._woken = asyncio.Event()

    def follow(self, droplets: Droplets) -> None:
        """Set the droplets in force, and publish the peers at once."""
        self._states.follow(droplets)
        self._sockets.follow(droplets.resolved)
        self._unreachable_seen = None
        paths = paths_of(droplets.resolved, droplets.peers)
        self._probing.set_paths(paths, time.monotonic(), self._memory.known)
        self._memory.probed(paths, self._states.addresses)
        self._states.publish(self._views(), self._sockets.ifindexes(), self._probing.version)
        self._woken.set()

    async def run(self) -> None:
        """Probe until cancelled."""
        self._sockets.listen(self._probing.paths)
        try:
            while True:
                try:
                    self._run_once(time.monotonic())
                except Exception as error:
                    self._errors.failed("prober", error)
                    await asyncio.sleep(FAILED_SECONDS)
                else:
                    self._errors.passed("prober")
                await self._sleep()
        finally:
            self._sockets.close()

    # Observables and queries

    @property
    def peers(self) -> Observable[PeersToReach]:
        """The peers with their probed state."""
        return self._states.peers

    @property
    def down(self) -> Observable[frozenset[str]]:
        """The ids of the droplets that are down; no value until the first one goes down."""
        return self._states.down

    def name(self, address: bytes) -> str:
        """Return the id of the droplet with a packed address, or the address as text if no document names it."""
        return self._states.name(address)

    def is_down(self, address: bytes) -> bool:
        """Return whether another host's droplet, by its packed address, no longer answers."""
        return self._states.is_down(address)

    @property
    def counts(self) -> Counts:
        """Counts of probes since the start."""
        return self._probing.counts

    def down_droplets(self) -> tuple[str, ...]:
        """Return the ids of the droplets that are down."""
        return tuple(sorted(self.down.value or ()))

    def narrow_paths(self) -> tuple[NarrowPath, ...]:
        """Return the paths that carry less than their full size."""
        narrow = (view for view in self._probing.views() if _is_narrow(view))
        found = (
            NarrowPath(
                droplet=self.name(view.path.peer),
                address=format_address(view.path.peer),
                configured=view.size,
                carries=view.usable,
                by=self.name(view.path.source),
            )
            for view in narrow
        )
        return tuple(sorted(found, key=lambda path: (path.droplet, path.by)))

    def faults(self, hints: Mapping[str, str]) -> list[Fault]:
        """Return a fault for each own droplet none of whose probes was answered; `hints` by interface."""
        uplinks = {
            source: unanswered.Uplink(name, hints.get(name, ""))
            for source, (name, _) in self._sockets.interfaces.items()
        }
        return unanswered.faults(self._probing.unanswered(self._states.answering), uplinks, self._sockets.ports[0])

    def views(self) -> Iterable[tuple[str, str, View]]:
        """Yield the peer's droplet, the own one, and the state of each path; times are the event loop's."""
        for view in self._probing.views():
            yield self.name(view.path.peer), self.name(view.path.source), view

    # The loop

    async def _sleep(self) -> None:
        """Wait until there is something to do. Answers that arrive close together are processed together."""
        await asyncio.sleep(LEAST_SLEEP)
        at = self._probing.wake_at()
        rest = MOST_SLEEP if at is None else min(MOST_SLEEP, at - time.monotonic())
        if rest > 0 and not self._woken.is_set():
            try:
                async with asyncio.timeout(rest):
                    await self._woken.wait()
            except TimeoutError:
                return
        self._woken.clear()

    def _run_once(self, now: float) -> None:
        """Process answers and timeouts, and send the probes that are due."""
        self._sockets.turn(now)
        self._probing.expire(now)
        if doubtful := self._probing.take_overdue():
            self.doubtful.publish(doubtful)
        if (unreachable := self._unreachable()) is not self._unreachable_seen:
            self._probing.unreachable(unreachable, now)
            self._unreachable_seen = unreachable
        for probe in self._probing.due(now):
            self._send(probe, now)
        self._memory.save(self._probing.take_unsaved(), now)  # before it is published
        if now >= self._report_at:
            self._report_at = now + REPORT_SECONDS
            self._report("probes", self._sockets.faults(self._probing.paths))
        self._states.publish_changed(self._views, self._sockets.ifindexes(), self._probing.version)
        self._events.take(self._probing.take_events(), self.name, now)

    def _send(self, probe: Probe, now: float) -> None:
        match result := self._sockets.send(probe):
            case SendResult.SENT:
                pass
            case SendResult.TOO_LONG:
                self._probing.too_long(probe.nonce, now)
            case _ if result.path_is_broken:
                self._probing.unroutable(probe.nonce, now, result.value)
            case _:
                self._probing.not_sent(probe.nonce, now)

    def _answered(self, path: Path, nonce: bytes) -> None:
        if self._probing.answered(path, nonce, time.monotonic()):
            self._woken.set()

    def _on_icmp_error(self, error: TunnelError) -> None:
        self._probing.on_icmp_error(error, time.monotonic())
        self._woken.set()

    def _views(self) -> list[View]:
        return list(self._probing.views())


def _is_narrow(view: View) -> bool:
    """Return whether probes found a smaller path MTU or, if the peer answers no probes, a router reported one."""
    return view.usable < view.size and (
        view.liveness is Liveness.UNKNOWN or (view.liveness is Liveness.UP and view.carries is not None)
    )
