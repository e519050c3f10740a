"""Carries documents to the kernel and verdicts back: settle, plan, execute, confirm, keep, tell; one step at a time.

Owns the order of these steps and nothing else. What is decided, `agent.core` decides; what is done, the kernel does.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable, Iterable, Mapping, Sequence

from structlog.typing import FilteringBoundLogger

from agent.bus.documents import Delivery
from agent.core.actions import Action, AttachTransit, Failure
from agent.core.blame import blame, told
from agent.core.desired import Desired
from agent.core.layout import MapName, unmapped
from agent.core.ledger import Ledger
from agent.core.observed import Observed, ObservedInterface
from agent.core.plan import additions, describe, plan_all, plan_change
from agent.core.realize import IFINDEX_BASE
from agent.core.registry import Verdict
from agent.core.world import Here
from agent.datapath.kernel import Kernel
from agent.datapath.observe import ObservationError
from agent.settings import Settings
from agent.store import Kept, Store
from protocol.acknowledgements import KernelFailure
from protocol.addresses import parse_address
from protocol.documents import Droplet

Tell = Callable[[Verdict], None]
TellRepair = Callable[[Sequence[str]], None]


class InterfaceReplacedError(RuntimeError):
    """The droplet's interface is another one than at the start: only a new start can serve it."""


def here_of(settings: Settings, interface: ObservedInterface) -> Here:
    """Return the host as the core sees it."""
    return Here(settings.host, settings.instance, interface.ifindex, interface.mac, interface.mtu, interface.addresses)


def slots_of(observed: Observed) -> dict[str, int]:
    """Return the numbers of the endpoints whose interfaces were seen."""
    veths = observed.veths.items()
    return {id_: seen.ifindex - IFINDEX_BASE for id_, seen in veths if seen.ifindex >= IFINDEX_BASE}


class Applier:
    """The documents of one agent on their way to the kernel. `start` comes first."""

    def __init__(
        self,
        settings: Settings,
        kernel: Kernel,
        store: Store,
        tell: Tell,
        tell_repair: TellRepair,
        log: FilteringBoundLogger,
    ) -> None:
        self.ledger = Ledger()
        self.in_sync = False
        self.revision = 0
        """The newest stream sequence that was taken in."""
        self.repairs = 0
        self._settings = settings
        self._kernel = kernel
        self._store = store
        self._tell = tell
        self._tell_repair = tell_repair
        self._log = log
        self._lock = asyncio.Lock()
        self._listed: set[str] = set()
        self._postponed = False
        self._watched: Mapping[str, Droplet] | None = None
        self._inherited: frozenset[bytes] = frozenset()
        self.desired: Desired

    async def start(self) -> None:
        """Read the kernel and the last good documents, and put in place what is missing. Nothing is removed."""
        async with self._lock:
            observed = await self._kernel.observe({})
            slots = slots_of(observed)
            self._inherited = frozenset(observed.maps[MapName.DROPLETS])
            self.desired = Desired(here_of(self._settings, observed.interface), slots)
            kept = self._store.load()
            for name, revision, body in kept:
                self.desired.documents.restore(name, revision, body)
            self.desired.settle()
            actions = await self._compare()
            await self._execute(actions)
            self._log.info("last good documents restored", documents=len(kept), actions=len(actions))

    async def begin_snapshot(self) -> None:
        """Prepare for every document to come again."""
        async with self._lock:
            self.in_sync = False
            self._listed.clear()
            self.desired.documents.begin_replay()
            self.ledger.forget()

    async def deliver(self, batch: Sequence[Delivery]) -> None:
        """Take documents in, have the kernel hold what follows, and tell the verdicts."""
        async with self._lock:
            documents = self.desired.documents
            for delivery in batch:
                self.revision = max(self.revision, delivery.revision)
                if delivery.body is None:
                    documents.remove(delivery.document, delivery.revision)
                    self._listed.discard(delivery.document)
                else:
                    documents.put(delivery.document, delivery.revision, delivery.body)
                    if not self.in_sync:
                        self._listed.add(delivery.document)
            await self._settle({delivery.document for delivery in batch})

    async def snapshot_complete(self) -> None:
        """Know that every document is listed: from here on, what is not wanted goes."""
        async with self._lock:
            swept = self.desired.documents.sweep(self._listed)
            self._listed.clear()
            self.in_sync = True
            self._inherited, self._watched = frozenset(), None
            await self._settle(set(swept))
            if self._postponed:
                self._postponed = False
                await self._execute(await self._compare())
            self._log.info(
                "in sync", documents=len(self.desired.documents.names()), swept=len(swept), revision=self.revision
            )

    async def repair(self) -> None:
        """Compare the kernel with what is wanted and mend what somebody else changed; tell what that was."""
        async with self._lock:
            try:
                await self._look_at_interface()
                actions = await self._compare()
            except (ObservationError, OSError) as error:
                self._log.warning("the kernel could not be read; nothing is changed", reason=str(error))
                return
            failing = self.desired.documents.failing()
            if not actions and not failing:
                return
            failures = await self._execute(actions)
            if not failing and not failures:
                self._tell_mended(actions)

    def _tell_mended(self, actions: Sequence[Action]) -> None:
        mended = [describe(action) for action in actions]
        self.repairs += 1
        self._log.warning("repaired what was changed from outside", actions=mended)
        self._tell_repair(mended)

    async def retry(self) -> None:
        """Try again what the kernel refused."""
        failing = self.desired.documents.failing()
        if not failing:
            return
        async with self._lock:
            self.desired.documents.retry(failing)
            await self._settle(set())
        if self.desired.documents.failing():
            await self.repair()

    async def plan(self) -> list[str]:
        """Return what a comparison with the kernel would change now, one action a line. Changes nothing."""
        async with self._lock:
            return [describe(action) for action in await self._compare()]

    async def _look_at_interface(self) -> None:
        """Take in what the droplet's interface looks like now, and what follows from that."""
        here = here_of(self._settings, await self._kernel.interface())
        if here.ifindex != self.desired.world.here.ifindex:
            raise InterfaceReplacedError(f"interface {self._settings.interface} was replaced by another of that name")
        self.desired.set_here(here)
        await self._settle(set())

    async def _compare(self) -> list[Action]:
        """Return what would make the kernel hold what is wanted; removals only once everything wanted is known."""
        namespaces = {id_: veth.namespace for id_, veth in self.desired.veths.items()}
        observed = await self._kernel.observe(namespaces)
        parts = (self.desired.realization(held) for _, held in self.desired.in_force())
        return self._allowed(plan_all(parts, observed))

    def _allowed(self, actions: list[Action]) -> list[Action]:
        if self.in_sync:
            return actions
        kept = additions(actions)
        self._postponed |= len(kept) < len(actions)
        return kept

    async def _settle(self, mentioned: set[str]) -> None:
        """Decide, do and take in the outcome until nothing changes any more; then tell the verdicts."""
        concerned = set(mentioned)
        while True:
            change = self.desired.settle()
            if not change.concerned:
                break
            concerned |= change.concerned
            for endpoint in change.after.veths.keys() - change.before.veths.keys():
                self._kernel.clear_endpoint_counters(change.after.veths[endpoint].ifindex - IFINDEX_BASE)
            actions = self._allowed(plan_change(change.before, change.after))
            self._take_in(change.concerned, await self._kernel.executor.run(actions))
        self._watch_neighbours()
        if concerned:
            await self._prove_attached()
        self._tell_verdicts(concerned)

    async def _execute(self, actions: Sequence[Action]) -> list[Failure]:
        """Carry out a comparison's actions; every document in force answers for what was refused."""
        failures = await self._kernel.executor.run(actions)
        names = {name for name, _ in self.desired.in_force()}
        self._take_in(names, failures)
        await self._settle(names)
        return failures

    def _take_in(self, names: Iterable[str], failures: Sequence[Failure]) -> None:
        """Hold some documents to what the kernel made of them, and keep those that it took whole."""
        documents = self.desired.documents
        names = {name for name in names if name in documents.entries}
        blamed: dict[str, tuple[KernelFailure, ...]] = {}
        if failures:
            held = ((name, held) for name, held in self.desired.in_force() if name in names)
            blamed = blame(failures, ((name, self.desired.realization(one)) for name, one in held))
        for name, refused in blamed.items():
            documents.fail(name, refused)
        good = documents.confirm(names - blamed.keys())
        gone = [name for name in names if documents.entries[name].removed]
        if good or gone:
            self._store.keep([Kept(name, held.revision, held.body) for name, held in good], gone)

    async def _prove_attached(self) -> None:
        """See that transit XDP is where the maps are used: only then is anything realized."""
        own = self.desired.world.own_droplets()
        owner = self.desired.documents.claims.owner("droplet", own[0].id) if own else None
        if owner is None:
            return
        attach = AttachTransit(self.desired.world.here.ifindex)
        try:
            if self._kernel.is_transit_attached(attach.ifindex):
                return
            failures = await self._kernel.executor.run([attach])
        except OSError as error:
            failures = [Failure(attach, error.errno or errno.EIO, f"interface {self._settings.interface}", str(error))]
        if failures:
            self.desired.documents.fail(owner, tuple(told(failure) for failure in failures))

    def _watch_neighbours(self) -> None:
        """Have the next hops of all droplets followed; before the snapshot also those that were there at the start."""
        droplets = self.desired.world.droplets
        if droplets is not self._watched:
            self._watched = droplets
            others = (d for d in droplets.values() if d.host != self._settings.host)
            wanted = {parse_address(droplet.address) for droplet in others}
            self._kernel.neighbours.set_droplets(wanted | {unmapped(address) for address in self._inherited})

    def _tell_verdicts(self, names: set[str]) -> None:
        documents = self.desired.documents
        for name in sorted(names & documents.entries.keys(), key=documents.newest):
            verdict = documents.verdict(name)
            if self.ledger.enter(verdict):
                self._tell(verdict)
            documents.forget(name)
