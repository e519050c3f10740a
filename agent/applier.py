"""Carries documents to the kernel and verdicts back: settle, plan, execute, confirm, keep, tell; one step at a time.

Owns the order of these steps and nothing else. What is decided, `agent.core` decides; what is done, the kernel does.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

import msgspec
from structlog.typing import FilteringBoundLogger

from agent.bound_processes import BoundProcesses
from agent.bus.documents import Delivery
from agent.comparing import compare, prove
from agent.core.actions import Action, EnsureVeth, Failure
from agent.core.blame import apart_from, blame, is_removal, told
from agent.core.comparison import Comparison, Suspects
from agent.core.desired import Desired
from agent.core.faults import ReportFaults
from agent.core.layout import MapName
from agent.core.ledger import Ledger
from agent.core.lost_addresses import lost, served_before, served_now, with_served
from agent.core.narrow_uplinks import cramped_endpoints, is_narrow
from agent.core.next_hops import Peer
from agent.core.observed import Observed
from agent.core.paths import NOTHING_KNOWN, KnownPaths, down_at_start
from agent.core.peers import senders
from agent.core.places import places_of
from agent.core.plan import additions, describe, plan_all, plan_change, plan_comparison, removes_veths
from agent.core.realize import IFINDEX_BASE, Realization
from agent.core.registry import Verdict
from agent.core.remedies import Step
from agent.core.world import Here, World
from agent.datapath.kernel import Kernel
from agent.datapath.observe import ObservationError
from agent.datapath.told import in_words
from agent.settings import Settings
from agent.store import Kept, Store, StoreError, not_saved
from agent.substrate import Substrate, TellPeers, here_of
from protocol.acknowledgements import KernelFailure
from protocol.status import Fault

Tell = Callable[[Verdict, float], None]
"""Takes a verdict and when it came about, in seconds since the epoch."""
TellRepair = Callable[[Sequence[str]], None]


MOST_PATIENCE = 6
"""Calls of `retry` between two tries, at the most."""
STRANGERS = ""
"""Stands among the documents that wait for removals when there is something to remove that is no document's."""


def slots_of(observed: Observed) -> dict[str, int]:
    """Return the numbers of the endpoints whose interfaces were seen."""
    veths = observed.veths.items()
    return {id_: seen.ifindex - IFINDEX_BASE for id_, seen in veths if seen.ifindex >= IFINDEX_BASE}


def remembered(here: Here, observed: Observed, kept: Iterable[Kept], known: KnownPaths = NOTHING_KNOWN) -> Desired:
    """Return what the kept documents ask for on the host as it was observed, where an agent before this one put it."""
    local = observed.maps[MapName.LOCAL_DROPLETS]
    desired = Desired(with_served(here, served_before(local, here.uplinks)), slots_of(observed), places_of(local))
    for name, revision, body in kept:
        desired.documents.restore(name, revision, body)
    desired.settle()
    desired.set_down(down_at_start(desired.world, known))
    desired.settle()
    return desired


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
        tell_peers: TellPeers | None = None,
        known: KnownPaths = NOTHING_KNOWN,
        report: ReportFaults = lambda _source, _faults: None,
    ) -> None:
        """Tell the peers to `tell_peers`, or without it to the kernel's neighbour watch as they are.

        `known` is what the agent before this one knew of paths.
        """
        self.ledger = Ledger()
        self.substrate = Substrate(settings, kernel, tell_peers or self._watch)
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
        self._processes = BoundProcesses(kernel.bindings, store, log)
        self._lock = asyncio.Lock()
        self._comparing = asyncio.Lock()
        """Held by a comparison that goes on while documents are settled; it is taken before `_lock`."""
        self._meanwhile: set[str] = set()
        """The documents that were settled since such a comparison began."""
        self._listed: set[str] = set()
        self.unreadable = ""
        """Why the last look at the kernel failed, empty when it did not."""
        self.patience = 1
        """How many calls of `retry` pass until the next try."""
        self._calls = 0
        self._remains: dict[str, Realization] = {}
        self._postponed: set[str] = set()
        self._waiting: dict[str, set[str]] = {}
        """The documents of which the kernel refused an endpoint, by its namespace as they spell it."""
        self.waiting_changed = asyncio.Event()
        """Set when `waiting_for` returns something else than before; whoever waits clears it."""
        self._under_way = False
        self._unkept: set[str] = set()
        self._inherited: frozenset[bytes] = frozenset()
        self._removes_rest = False
        """Whether objects in the kernel that no document explains may be removed: not where this agent found some and
        no documents were kept, so that it is not known what an earlier one put in place."""
        self.unexplained = 0
        """How many of them were left where they were."""
        self._known = known
        self._report = report
        self._found: Here
        """The host as it was last seen; what is desired goes by it with the addresses that are lost for now."""
        self.desired: Desired

    async def start(self) -> None:
        """Read the kernel and the last good documents, and put in place what is missing. Nothing is removed."""
        async with self._lock:
            observed = await self._kernel.observe({})
            self._kernel.tend(observed)
            self._inherited = frozenset(observed.maps[MapName.DROPLETS])
            kept = self._store.load()
            self._processes.restore(kept)
            self._found = here_of(self._settings, observed.uplinks, self._kernel.features)
            self.desired = remembered(self._found, observed, kept, self._known)
            del observed  # the comparison reads all of it anew, and one copy is enough
            actions = self._allowed(await self._compare())
            self._removes_rest = bool(kept) or not self._postponed
            await self._execute(actions)
            self._log.info("last good documents restored", documents=len(kept), actions=len(actions))

    def _watch(self, world: World, peers: Mapping[bytes, Peer]) -> None:
        self._kernel.neighbours.set_peers(peers, senders(world))

    async def begin_snapshot(self) -> None:
        """Prepare for every document to come again."""
        async with self._lock:
            self.in_sync = False
            self.revision = 0  # a stream that was made anew counts from 1
            self._listed.clear()
            self.desired.documents.begin_replay()
            self.ledger.forget()

    async def deliver(self, batch: Sequence[Delivery]) -> None:
        """Take documents in, have the kernel hold what follows, and tell the verdicts."""
        async with self._lock:
            documents = self.desired.documents
            documents.retry_blocked()  # what has the names of these may let go of them in this very batch
            for delivery in batch:
                self.revision = max(self.revision, delivery.revision)
                if delivery.refusal is not None:
                    documents.refuse(delivery.document, delivery.revision, (delivery.refusal,))
                    if not self.in_sync:
                        self._listed.add(delivery.document)  # it is not known to be gone
                elif delivery.body is None:
                    documents.remove(delivery.document, delivery.revision)
                    self._listed.discard(delivery.document)
                else:
                    documents.put(delivery.document, delivery.revision, delivery.body)
                    if not self.in_sync:
                        self._listed.add(delivery.document)
            await self._settle({delivery.document for delivery in batch})

    async def snapshot_complete(self) -> None:
        """Know that every document is listed: from here on, what was removed goes.

        A document that is not listed stays, unless a message removed it: the stream may have lost it (ADR 25). Called
        again after it raised, it goes on: what was listed counts once, or all would be absent.
        """
        async with self._lock:
            documents = self.desired.documents
            if not self.in_sync:
                documents.end_replay(self._listed)
            self._listed.clear()
            self.in_sync = True
            self._inherited = frozenset()
            self.substrate.forget_inherited()
            documents.retry_blocked()  # what is in the way may be removed from here on
            await self._settle(set(documents.absent))
            if self._postponed:
                await self._execute(self._explained(await self._compare()))
                postponed, self._postponed = self._postponed, set()
                self._tell_verdicts(postponed)
            counts = msgspec.structs.asdict(self.ledger.counts)
            self._log.info("snapshot_applied", revision=self.revision, absent=len(documents.absent), **counts)

    async def sweep(self, names: Iterable[str], *, objects: bool = False) -> list[str] | None:
        """Remove documents that the stream does not list, and return those that are not among them: then none is.

        None, and nothing is removed, while the snapshot is not complete. With `objects`, what no document explains may
        be removed from the kernel too.
        """
        async with self._lock:
            if not self.in_sync:
                return None
            documents, wanted = self.desired.documents, set(names)
            others = sorted(wanted - documents.absent)
            if others:
                return others
            documents.sweep(sorted(wanted))
            await self._settle(wanted)
            self._log.info("documents_swept", documents=sorted(wanted), objects=objects)
            if objects:
                self._removes_rest = True
                await self._execute(self._explained(await self._compare()))
        return []

    def _explained(self, actions: list[Action]) -> list[Action]:
        """Leave out removals where it is not known what explains the objects in the kernel."""
        kept = actions if self._removes_rest else additions(actions)
        self.unexplained = len(actions) - len(kept)
        self._removes_rest = self._removes_rest or (self.in_sync and not self.unexplained)
        return kept

    async def repair(self) -> None:
        """Compare the kernel with what is wanted and mend what somebody else changed; tell what that was."""
        try:
            async with self._lock:
                await self._look_at_uplinks()
        except (ObservationError, OSError) as error:
            self._tell_unreadable(error)
            return
        async with self._comparing:
            try:
                comparison = await self._compare_meanwhile()
                self._kernel.tend(comparison.observed)
            except (ObservationError, OSError) as error:
                self._tell_unreadable(error)
                return
            async with self._lock:
                await self._mend(comparison)

    def _tell_unreadable(self, error: Exception) -> None:
        if isinstance(error, OSError):
            self.unreadable = in_words(error, Step.READ, "this host's interfaces")
        else:
            self.unreadable = str(error)
        remedy = "mend what is named; nothing is changed in the kernel until it can be read"
        self._report("kernel", [Fault("kernel_unreadable", self._settings.host, self.unreadable, remedy)])

    async def _mend(self, comparison: Comparison) -> None:
        """Mend what is different still."""
        try:
            actions = self._explained(self._allowed(await self._proven(comparison)))
        except ObservationError as error:
            self._tell_unreadable(error)
            return
        self.unreadable = ""
        if self.in_sync:
            claims = self.desired.documents.claims
            self._processes.forget_unless(lambda endpoint: claims.owner("endpoint", endpoint) is not None)
        self._report("kernel", [])
        failing = self._asked_for_by(self.desired.documents.failing())
        if not actions and not self.desired.documents.failing():
            return
        failures = await self._execute(actions, unknown=frozenset(self._meanwhile))
        refused = [failure.action for failure in failures]
        self._tell_mended([one for one in apart_from(actions, failing) if one not in refused])

    def _asked_for_by(self, names: Iterable[str]) -> Realization:
        wanted, failing = Realization(), set(names)
        for name, held in self.desired.in_force():
            if name in failing:
                wanted.add(self.desired.realization(held))
        return wanted

    def _tell_mended(self, actions: Sequence[Action]) -> None:
        if not actions:
            return
        mended = [describe(action) for action in actions]
        self.repairs += 1
        self._log.warning("repaired what was changed from outside", actions=mended)
        self._tell_repair(mended)

    async def retry(self) -> None:
        """Try again what the kernel refused: at every call at first, then at fewer and fewer of them."""
        failing = self.desired.documents.failing()
        self._calls += 1
        if not failing:
            self.patience = 1
        if not failing or self._calls < self.patience:
            return
        self._calls, self.patience = 0, min(self.patience * 2, MOST_PATIENCE)
        async with self._lock:
            self.desired.documents.retry(failing)
            await self._settle(set())
        if self.desired.documents.failing():
            await self.repair()

    def waiting_for(self) -> set[str]:
        """Return the namespaces in which the kernel refused an endpoint."""
        return set(self._waiting)

    def namespaces(self) -> set[str]:
        """Return the namespaces in which endpoints are wanted."""
        return {veth.namespace for veth in self.desired.veths.values()}

    async def namespaces_appeared(self, appeared: Collection[str]) -> None:
        """Try what was refused in some namespaces, and mend what is wanted there: they may be new under their names."""
        async with self._lock:
            documents = self.desired.documents
            documents.retry(set().union(*(self._waiting.get(one, ()) for one in appeared)))
            await self._settle(set())
            veths = {id_: veth for id_, veth in self.desired.veths.items() if veth.namespace in appeared}
            namespaces = {id_: veth.namespace for id_, veth in veths.items()}
            observed = await self._kernel.look_up(Suspects({}, veths.keys()), namespaces)
            found = plan_all([Realization(veths=veths)], observed)
            actions: list[Action] = [action for action in found if isinstance(action, EnsureVeth)]
            if not actions:
                return
            failing = self._asked_for_by(documents.failing())
            owners = {documents.claims.owner("endpoint", id_) for id_ in veths}
            failures = await self._execute(actions, unknown=documents.entries.keys() - owners)
            refused = [failure.action for failure in failures]
            self._tell_mended([one for one in apart_from(actions, failing) if one not in refused])

    async def retry_now(self) -> None:
        """Try again at once: what stood in the way of a document is gone, or may be."""
        self._calls = self.patience = 1
        await self.retry()

    async def leave_out(self, down: frozenset[str]) -> None:
        """Send nothing to bouncers and dividers that are down, where their network or VPC has others."""
        async with self._lock:
            self.desired.set_down(down)
            await self._settle(set())

    async def plan(self) -> list[str]:
        """Return what a comparison with the kernel would change now, one action a line. Changes nothing."""
        async with self._comparing:
            comparison = await self._compare_meanwhile()
            async with self._lock:
                return [describe(action) for action in await self._proven(comparison)]

    async def _look_at_uplinks(self) -> None:
        """Take in what the interfaces in the substrate look like now, and what follows from that."""
        world, documents = self.desired.world, self.desired.documents
        found = await self.substrate.look(world.here)
        before, now = lost(self._found, world), lost(found, world)
        for droplet in before.keys() ^ now.keys():
            owner = documents.claims.owner("droplet", droplet)
            documents.touch({owner} if owner is not None else ())
        self._found = found
        self.desired.set_here(with_served(found, served_now(world)))
        await self._settle(set())

    async def _compare(self) -> list[Action]:
        """Return what would make the kernel hold what is wanted, and nothing else of ours; the lock is held."""
        comparison = await compare(self._kernel, self.desired)
        return plan_comparison(comparison)

    async def _compare_meanwhile(self) -> Comparison:
        """Compare while documents are settled. What that finds, `_proven` must prove."""
        async with self._lock:
            self._meanwhile.clear()
        return await compare(self._kernel, self.desired)

    async def _proven(self, comparison: Comparison) -> list[Action]:
        return await prove(self._kernel, self.desired, comparison, self._meanwhile)

    def _allowed(self, actions: list[Action], names: Iterable[str] = ()) -> list[Action]:
        """Return what may be done now: before all documents are known, nothing is removed.

        The documents named wait with their answer until it is.
        """
        if self.in_sync:
            return actions
        kept = additions(actions)
        if len(kept) < len(actions):
            self._postponed |= {STRANGERS, *names}
        return kept

    async def _settle(self, mentioned: set[str]) -> None:
        """Decide, do and take in the outcome until nothing changes any more; then tell the verdicts.

        When the last settling broke off by an exception, nobody knows how far it came: the kernel is read first.
        """
        concerned = set(mentioned)
        broken_off, self._under_way = self._under_way, True
        had_droplet = bool(self.desired.world.own_droplets())
        retried = False
        while True:
            slots = self.desired.world.slots
            change = self.desired.settle(removing=self.in_sync)
            if not change.concerned:
                break
            concerned |= change.concerned
            if self._comparing.locked():
                self._meanwhile |= change.concerned
            for endpoint in change.after.veths.keys() - change.before.veths.keys():
                slot = change.after.veths[endpoint].ifindex - IFINDEX_BASE
                if slots.get(endpoint) != slot:  # else its interface is put again, and its counters go on
                    self._kernel.clear_endpoint_counters(slot)
            actions = self._allowed(plan_change(change.before, change.after), change.concerned)
            failures = await self._kernel.executor.run(actions)
            blamed = blame(filter(is_removal, failures), change.left.items())
            self._take_in(change.concerned, failures, blamed)
            self._remains.update((name, change.left[name]) for name in blamed)
            if not retried and removes_veths(actions):
                retried = True  # once: what is taken back after another refusal is removed too
                self.desired.documents.retry_blocked()
        if broken_off:
            actions = self._explained(self._allowed(await self._compare()))
            failures = await self._kernel.executor.run(actions)
            self._take_in({name for name, _ in self.desired.in_force()}, failures)
        self.substrate.follow(self.desired.world, self._inherited)
        if had_droplet != bool(self.desired.world.own_droplets()):
            concerned |= self.desired.documents.entries.keys()
        if concerned:
            await self._prove_attached(concerned)
            self._note_what_lacks(concerned)
        self._tell_verdicts(concerned)
        self._under_way = False

    async def _execute(self, actions: Sequence[Action], unknown: Collection[str] = ()) -> list[Failure]:
        """Carry out a comparison's actions; all that are in force or not wholly gone answer for refusals.

        Of the documents that are unknown the comparison says nothing: what was told of them stands.
        """
        failures = await self._kernel.executor.run(actions)
        remains = {name: left for name, left in self._remains.items() if name not in unknown}
        blamed = blame(failures, remains.items())
        for name in remains.keys() - blamed.keys():
            del self._remains[name]
        names = ({name for name, _ in self.desired.in_force()} | remains.keys()).difference(unknown)
        self._take_in(names, failures, blamed)
        if removes_veths(actions):
            self.desired.documents.retry_blocked()
        await self._settle(names)
        return failures

    def _take_in(
        self, names: Iterable[str], failures: Sequence[Failure], blamed: Mapping[str, tuple[KernelFailure, ...]] = {}
    ) -> None:
        """Hold some documents to what the kernel made of them, and keep those that it took whole.

        `blamed` are those that answer for what was not removed.
        """
        documents = self.desired.documents
        names = {name for name in names if name in documents.entries}
        refused = dict(blamed)
        if failures:
            held = ((name, held) for name, held in self.desired.in_force() if name in names)
            refused |= blame(failures, ((name, self.desired.realization(one)) for name, one in held))
        for name in names & refused.keys():
            documents.fail(name, refused[name])
        self._unkept |= documents.confirm(names - refused.keys())
        self._note_waiting(failures)
        self._unkept |= {name for name in names if documents.entries[name].removed}
        self._keep()

    def _note_waiting(self, failures: Iterable[Failure]) -> None:
        """Take in the namespaces in which endpoints were refused, and forget those of documents that fail no more."""
        before, documents = self.waiting_for(), self.desired.documents
        for failure in failures:
            if isinstance(failure.action, EnsureVeth):
                veth = failure.action.veth
                owner = documents.claims.owner("endpoint", veth.endpoint)
                self._waiting.setdefault(veth.namespace, set()).update({owner} if owner is not None else ())
        still = {one: {name for name in names if self._fails(name)} for one, names in self._waiting.items()}
        self._waiting = {one: names for one, names in still.items() if names}
        if self.waiting_for() != before:
            self.waiting_changed.set()

    def _fails(self, name: str) -> bool:
        entry = self.desired.documents.entries.get(name)
        return entry is not None and bool(entry.failures)

    def _keep(self) -> None:
        """Write what is good to the store. A store that cannot be written is told, and stops nothing.

        A document that is kept without its bindings would be bound to no process after a restart: they come first.
        """
        if not self._processes.keep() or not self._unkept:
            return
        entries = self.desired.documents.entries
        good = {name: entries[name].good for name in self._unkept if name in entries}
        kept = [Kept(name, held.revision, held.body) for name, held in good.items() if held is not None]
        try:
            self._store.keep(kept, self._unkept - {one.name for one in kept})
        except StoreError as error:
            self._report("store", [not_saved("documents_not_saved", str(error))])
        else:
            self._report("store", [])
            self._unkept.clear()

    async def _prove_attached(self, names: Iterable[str]) -> None:
        """See that transit XDP is where the maps are used: where it is not, no document may be told as realized."""
        failures = await self.substrate.attach_missing(self.desired.world)
        if failures:
            in_force = {name for name, _ in self.desired.in_force()}
            for name in in_force.intersection(names):
                self.desired.documents.fail(name, tuple(told(failure) for failure in failures))

    def _note_what_lacks(self, names: set[str]) -> None:
        """Take in what the interfaces lack for documents in force, an address or room; the kernel refused nothing."""
        world, documents = self.desired.world, self.desired.documents
        lost_by: dict[str | None, tuple[KernelFailure, ...]] = {}
        for droplet, failure in lost(self._found, world).items():
            owner = documents.claims.owner("droplet", droplet)
            lost_by[owner] = (*lost_by.get(owner, ()), failure)
        narrow = is_narrow(world)
        for name in names & documents.entries.keys():
            entry, lacking = documents.entries[name], lost_by.get(name, ())
            if narrow and entry.in_force is not None and entry.in_force.endpoints:
                lacking += cramped_endpoints(entry.in_force.document(), world)
            if lacking != entry.lacking:
                words = lacking[0].message if lacking else "its interfaces lack nothing any more"
                self._log.warning(words, document=name, lacking=len(lacking))
            entry.lacking = lacking

    def _tell_verdicts(self, names: set[str]) -> None:
        documents = self.desired.documents
        told_now = (names - self._postponed) & documents.entries.keys()
        now = time.time()
        for name in sorted(told_now, key=documents.newest):
            verdict = self.desired.verdict(name)
            if self.ledger.enter(verdict, now):
                self._tell(verdict, now)
            documents.forget(name)
