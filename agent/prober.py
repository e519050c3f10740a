"""Probes the other hosts' droplets: owns the sockets, drives `agent.core.probing`, and hands on what follows.

Stands between the applier, which knows the droplets, and the neighbour watch, which is told them with what was found
out.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Collection, Iterable, Mapping

from structlog.typing import FilteringBoundLogger

from agent.core import unanswered
from agent.core.faults import ReportFaults
from agent.core.next_hops import Peer, Senders
from agent.core.paths import (
    NOTHING_KNOWN,
    Counts,
    Happened,
    Happening,
    Known,
    KnownPaths,
    Life,
    Path,
    Probe,
    Rules,
    View,
    down_peers,
    judged,
    paths_of,
)
from agent.core.peers import senders
from agent.core.probe_packet import NONCE
from agent.core.probing import Probing
from agent.core.room import needed_for_ipv6
from agent.core.send_errors import SendErrors, Sending, sending_of
from agent.core.tunnel_errors import TunnelError
from agent.core.world import World
from agent.datapath.icmp_errors import IcmpErrors
from agent.datapath.probe_socket import ProbeSocket
from agent.loop_errors import LoopErrors
from protocol.addresses import format_address, parse_address
from protocol.status import Fault, NarrowPath

Keep = Callable[[Mapping[Path, Known | None]], bool]
"""Called with what is known of paths now, None for nothing; False when that could not be kept."""

LEAST_SLEEP, MOST_SLEEP = 0.01, 0.5
EVENT_SECONDS = 1.0
"""Between two events of one kind: what happens meanwhile comes in one of them."""
EVENT_LINES = 50
OPEN_SECONDS = 2.0
"""Between two tries to open what could not be opened."""
FAILED_SECONDS = 1.0
KEEP_SECONDS = 10.0
"""Between two tries to keep what could not be kept."""
REST = 10
"""Telling the peers anew takes one part in so many of the time at the most."""

_WORDS = {
    Happened.DOWN: "answers no probes",
    Happened.UP: "answers again",
    Happened.NARROW: "carries {carries} of {size} bytes",
    Happened.RESTORED: "carries {size} bytes again",
}
_WORDS_CUT_OFF = {Happened.DOWN: "nothing leads there", Happened.UP: "can be reached again"}


class Prober:
    """One host's probes. Without `run`, peers are handed on as they come."""

    def __init__(
        self,
        rules: Rules,
        ports: tuple[int, ...],
        watch: Callable[[Mapping[bytes, Peer], Senders], None],
        tell: Callable[[str, tuple[str, ...]], None],
        log: FilteringBoundLogger,
        cut_off: Callable[[], Collection[bytes]] = frozenset,
        known: KnownPaths = NOTHING_KNOWN,
        keep: Keep | None = None,
        ask_again: Callable[[Collection[Path]], None] = lambda _: None,
        report: ReportFaults = lambda _source, _faults: None,
    ) -> None:
        """Hand peers to `watch` and events to `tell`; `ports` are the tunnels' UDP ports, Geneve's first.

        `cut_off` returns the peers to which nothing leads now, the same object until that changes. `known` is what the
        agent before this one left, and `keep` leaves it to the next one, before anybody else is told. `ask_again` is
        called with the paths whose next hop may not be what the kernel takes it for, `report` with what keeps probes
        from being sent.
        """
        self.down_changed = asyncio.Event()
        """Set when other droplets are down than before; whoever waits clears it."""
        self._probing = Probing(rules, lambda: secrets.token_bytes(NONCE))
        self._ports = tuple(port for port in ports if port)
        self._watch = watch
        self._tell = tell
        self._log = log
        self._cut_off = cut_off
        self._cut_off_seen: Collection[bytes] | None = None
        self._known = dict(known)
        self._keep = keep
        self._ask_again = ask_again
        self._unkept: dict[Path, Known | None] = {}
        self._peers: dict[bytes, Peer] = {}
        self._senders: Senders = {}
        self._names: dict[bytes, str] = {}
        self._answering: frozenset[bytes] = frozenset()
        self._interfaces: dict[bytes, tuple[str, int]] = {}
        """Name and ifindex: a socket stays bound to an interface that another of its name took the place of."""
        self._sockets: dict[bytes, ProbeSocket] = {}
        self._unopened: dict[bytes, Sending] = {}
        self._send_errors = SendErrors()
        self._report = report
        self._report_at = 0.0
        self._loop_errors = LoopErrors(report, log)
        self._errors: IcmpErrors | None = None
        self._open_at = self._watch_at = self._tell_at = self._keep_at = 0.0
        self._told: int | None = None
        self._down: frozenset[bytes] = frozenset()
        self._news: dict[Happened, list[Happening]] = {}
        self._woken = asyncio.Event()

    @property
    def counts(self) -> Counts:
        """Probes since the start."""
        return self._probing.counts

    def follow(self, world: World, peers: Mapping[bytes, Peer]) -> None:
        """Take in which droplets there are, by packed address."""
        self._peers, self._senders = dict(peers), senders(world)
        self._names = {parse_address(droplet.address): id_ for id_, droplet in world.droplets.items()}
        self._answering = unanswered.answering(world)
        interfaces: dict[bytes, tuple[str, int]] = {}
        for droplet in world.own_droplets():
            uplink = world.uplink_of(droplet)
            if uplink is not None:
                interfaces[parse_address(droplet.address)] = uplink.name, uplink.ifindex
        for source in [source for source in self._sockets if interfaces.get(source) != self._interfaces.get(source)]:
            self._sockets.pop(source).close()
        self._interfaces, self._open_at, self._cut_off_seen = interfaces, 0.0, None
        paths = paths_of(world, self._peers)
        self._probing.set_paths(paths, self._now(), self._known)
        for path in paths:
            self._known.pop(path, None)  # from here on it is known better
        self._forget_undocumented()
        self._hand_on()
        self._woken.set()

    def _forget_undocumented(self) -> None:
        """Forget what an earlier agent left of paths one of whose ends no document in force names any more."""
        gone = [path for path in self._known if not self._names.keys() >= set(path)]
        for path in gone:
            del self._known[path]
        self._unkept |= dict.fromkeys(gone)

    async def run(self) -> None:
        """Probe until cancelled."""
        self._errors = IcmpErrors(self._probing.paths, self._ports, self._heard)
        try:
            while True:
                try:
                    self._turn(self._now())
                except Exception as error:
                    self._loop_errors.failed("prober", error)
                    await asyncio.sleep(FAILED_SECONDS)
                else:
                    self._loop_errors.passed("prober")
                await self._sleep()
        finally:
            self._errors.close()
            for opened in self._sockets.values():
                opened.close()
            self._sockets.clear()

    def down_droplets(self) -> tuple[str, ...]:
        """Return the ids of the droplets that are down."""
        return tuple(sorted(self.name(address) for address in self._down))

    def is_down(self, address: bytes) -> bool:
        """Say whether another host's droplet, by its packed address, does not answer any more."""
        return address in self._down

    def narrow_paths(self) -> tuple[NarrowPath, ...]:
        """Return the paths that carry less than they should."""
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
        """Return a fault for each own droplet that nobody has ever answered; `hints` by interface: see `unanswered`."""
        uplinks = {
            source: unanswered.Uplink(name, hints.get(name, "")) for source, (name, _) in self._interfaces.items()
        }
        return unanswered.faults(self._probing.unanswered(self._answering), uplinks, self._ports[0])

    def views(self) -> Iterable[tuple[str, str, View]]:
        """Yield the peer's droplet, the own one, and what is known of each path; times are the event loop's."""
        for view in self._probing.views():
            yield self.name(view.path.peer), self.name(view.path.source), view

    def _now(self) -> float:
        return time.monotonic()

    def name(self, address: bytes) -> str:
        """Return the id of the droplet with a packed address, or the address in words where no document names it."""
        return self._names.get(address) or format_address(address)

    async def _sleep(self) -> None:
        """Wait until there is something to do. Answers that come in numbers are taken in together."""
        await asyncio.sleep(LEAST_SLEEP)
        at = self._probing.wake_at()
        rest = MOST_SLEEP if at is None else min(MOST_SLEEP, at - self._now())
        if rest > 0 and not self._woken.is_set():
            try:
                async with asyncio.timeout(rest):
                    await self._woken.wait()
            except TimeoutError:
                return
        self._woken.clear()

    def _turn(self, now: float) -> None:
        """Take in what came and what did not, and send what is due."""
        self._open_missing(now)
        for opened in self._sockets.values():
            opened.drain()
        self._probing.expire(now)
        if doubtful := self._probing.take_doubtful():
            self._ask_again(doubtful)
        if (cut_off := self._cut_off()) is not self._cut_off_seen:
            self._probing.cut_off(cut_off, now)
            self._cut_off_seen = cut_off
        for probe in self._probing.due(now):
            self._send(probe, now)
        self._leave_known(now)
        self._report_faults(now)
        if now >= self._watch_at and self._probing.version != self._told:
            self._hand_on()
            self._watch_at = now + REST * (self._now() - now)
        self._tell_news(now)

    def _send(self, probe: Probe, now: float) -> None:
        opened = self._sockets.get(probe.path.source)
        if opened is not None:
            sending = opened.send(probe.path.peer, probe.size, probe.nonce)
        else:
            sending = self._unopened.get(probe.path.source, Sending.NO_INTERFACE)
        self._send_errors.note(probe.path, sending)
        match sending:
            case Sending.SENT:
                pass
            case Sending.TOO_LONG:
                self._probing.refused(probe.nonce, now)
            case _ if sending.tells_of_path:
                self._probing.failed(probe.nonce, now, sending.value)
            case _:
                self._probing.unsent(probe.nonce, now)

    def _open_missing(self, now: float) -> None:
        if now < self._open_at:
            return
        self._open_at = now + OPEN_SECONDS
        for source in self._interfaces.keys() - self._sockets.keys():
            interface, _ = self._interfaces[source]
            try:
                self._sockets[source] = ProbeSocket(source, interface, self._ports[0], self._answered)
            except OSError as error:
                self._unopened[source] = sending_of(error.errno or 0)
            else:
                self._unopened.pop(source, None)

    def _report_faults(self, now: float) -> None:
        if now < self._report_at:
            return
        self._report_at = now + EVENT_SECONDS
        self._send_errors.keep(self._probing.paths)
        silent = self._errors.not_heard if self._errors is not None else []
        self._report("probes", [*self._send_errors.faults(self._place, self._ports[0]), *silent])

    def _place(self, source: bytes) -> tuple[str, str]:
        """Return the interface and the address of an own droplet, as text."""
        return self._interfaces[source][0] if source in self._interfaces else "", format_address(source)

    def _answered(self, path: Path, nonce: bytes) -> None:
        if self._probing.answered(path, nonce, self._now()):
            self._woken.set()

    def _heard(self, error: TunnelError) -> None:
        self._probing.heard(error, self._now())
        self._woken.set()

    def _leave_known(self, now: float) -> None:
        """Keep for the agent that starts next what changed; what cannot be kept now is tried again later."""
        self._unkept |= self._probing.take_to_keep()
        if self._keep is None:
            self._unkept = {}
        elif self._unkept and now >= self._keep_at:
            if self._keep(self._unkept):
                self._unkept = {}
            else:
                self._keep_at = now + KEEP_SECONDS

    def _hand_on(self) -> None:
        """Tell the neighbour watch the peers with what is known of them now."""
        self._told = self._probing.version
        ifindexes = {source: ifindex for source, (_, ifindex) in self._interfaces.items()}
        self._watch(judged(self._peers, self._probing.views(), ifindexes), self._senders)
        down = down_peers((view.path, view.life) for view in self._probing.views())
        if down != self._down:
            self._down = down
            self.down_changed.set()

    def _tell_news(self, now: float) -> None:
        for happening in self._probing.take_happenings():
            self._news.setdefault(happening.kind, []).append(happening)
        if now < self._tell_at or not self._news:
            return
        self._tell_at = now + EVENT_SECONDS
        news, self._news = self._news, {}
        for kind, happenings in news.items():
            lines = [self._line(happening) for happening in happenings[:EVENT_LINES]]
            if len(happenings) > EVENT_LINES:
                lines.append(f"and {len(happenings) - EVENT_LINES} more")
            self._log.warning(kind.value, detail=lines)
            self._tell(kind.value, tuple(lines))

    def _line(self, happening: Happening) -> str:
        path = happening.path
        words = (_WORDS_CUT_OFF if happening.cut_off else _WORDS)[happening.kind]
        if happening.unsent:
            words = f"cannot be sent to: {happening.unsent}"
        words = words.format(carries=happening.carries, size=happening.size)
        if happening.kind is Happened.NARROW and (happening.carries or 0) < (needed := needed_for_ipv6(path.peer)):
            words += f"; endpoints' IPv6 needs {needed}"
        return f"{self.name(path.peer)} ({format_address(path.peer)}) from {format_address(path.source)}: {words}"


def _is_narrow(view: View) -> bool:
    """Whether probes found so, or, where nobody answers probes, a router said so."""
    return view.usable < view.size and (
        view.life is Life.UNKNOWN or (view.life is Life.UP and view.carries is not None)
    )
