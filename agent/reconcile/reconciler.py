"""Applies documents to the kernel: resolves, plans, executes and acknowledges, one step at a time.

Decisions are made in `agent.core`, actions are executed by `agent.datapath`. The resync compares the whole kernel and
passes its findings in.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection, Iterable, Iterator, Sequence

import msgspec
import structlog

from agent.core.config.delivery import Delivery
from agent.core.config.desired_state import Desired
from agent.core.model.desired_entries import DesiredEntries
from agent.core.plan.actions import Action, EnsureVeth, Failure
from agent.core.plan.attribution import excluding, kernel_failure
from agent.core.plan.diff import KernelDiff
from agent.core.plan.planner import plan_change, plan_diff, removes_veths
from agent.core.uplinks.lost_addresses import served_now, with_served
from agent.reconcile.acknowledgements import Acknowledgements
from agent.reconcile.function_versions import FunctionVersions
from agent.reconcile.kernel_diff import diff_kernel, missing, recheck
from agent.reconcile.kernel_port import KernelPort
from agent.reconcile.kernel_results import KernelResults
from agent.reconcile.program_verdicts import ProgramVerdicts
from agent.reconcile.removals import RemovalGuard
from agent.reconcile.shortfalls import note_shortfalls, owners_of_lost
from agent.reconcile.underlay import Underlay

log = structlog.get_logger()


class Reconciler:
    """Applies the documents of one agent to the kernel. Call `start` first."""

    def __init__(
        self,
        desired: Desired,
        kernel: KernelPort,
        underlay: Underlay,
        results: KernelResults,
        acknowledgements: Acknowledgements,
        versions: FunctionVersions,
    ) -> None:
        self.desired = desired
        self.revision = 0
        """The newest stream sequence that was processed."""
        self.removals = RemovalGuard()
        self.results = results
        self.acknowledgements = acknowledgements
        self._kernel = kernel
        self._underlay = underlay
        self.programs = ProgramVerdicts(kernel)
        self._versions = versions
        self._step = asyncio.Lock()
        """Held by one step at a time, never together with the resync's. The data path has locks of its own below."""
        self._listed: set[str] = set()
        self._in_progress: set[str] | None = None
        """The documents being reconciled; kept if an exception ends a step early."""
        self._recordings: list[set[str]] = []

    @property
    def in_sync(self) -> bool:
        """Return whether the snapshot is complete."""
        return self.removals.in_sync

    async def start(self) -> None:
        """Create whatever is missing of the last good documents. Nothing is removed."""
        async with self._step:
            documents = len(self.desired.documents.entries)
            actions = self.removals.allowed(plan_diff(await diff_kernel(self._kernel, self.desired)))
            self.removals.started(has_documents=bool(documents))
            await self._execute(actions, self._answerable())
            self._versions.begin(self.desired)
            log.info("documents_restored", documents=documents, actions=len(actions))

    def namespaces(self) -> set[str]:
        """Return the namespaces of all wanted endpoints."""
        return {veth.namespace for veth in self.desired.veths.values()}

    # Documents

    async def begin_snapshot(self) -> None:
        """Prepare for a new delivery of every document."""
        async with self._step:
            self.removals.begin_snapshot()
            self.revision = 0  # a recreated stream counts from 1
            self._listed.clear()
            self.desired.documents.begin_replay()
            self.acknowledgements.forget()

    async def deliver(self, batch: Sequence[Delivery]) -> None:
        """Apply a batch of documents to the kernel, and acknowledge them.

        Documents with new programs of functions are pending until `check_program` has had the kernel check these.
        """
        async with self._step:
            self.programs.take(batch, self.desired)
            self.desired.documents.retry_blocked()  # this batch may free the names that these wait for
            for delivery in batch:
                self._take(delivery)
            names = {delivery.document for delivery in batch}
            await self._reconcile(names)
            self.programs.forget(names, self.desired)

    async def check_program(self) -> None:
        """Have the kernel check one of the programs that wait, and apply the documents that waited only for it."""
        one = self.programs.begin_next()
        if one is None:
            return
        found = await self.programs.check(one)
        async with self._step:
            names = self.programs.end(one, found, self.desired)
            self.desired.documents.touch(self.desired.documents.entries.keys() & names)
            await self._reconcile(names)
            if lacking := set(names).intersection(self.desired.documents.failing()):
                await self._retry(lacking)
            self.programs.forget(names, self.desired)

    async def watch_versions(self) -> None:
        """Let the version before run again of each function whose new one failed soon after it went live."""
        if self._versions.are_watched:
            async with self._step:
                if names := self._versions.look(self.desired):
                    await self._reconcile(names)

    def _take(self, delivery: Delivery) -> None:
        documents, name, revision = self.desired.documents, delivery.document, delivery.revision
        self.revision = max(self.revision, revision)
        if delivery.refusal is not None:
            documents.refuse(name, revision, (delivery.refusal,))
        elif delivery.body is None:
            documents.remove(name, revision)
            self._listed.discard(name)
            return
        else:
            documents.put(name, revision, delivery.body)
        if not self.in_sync:
            self._listed.add(name)  # a refused document is not known to be removed either

    async def snapshot_complete(self) -> None:
        """Record that every document has been listed: from now on, removed documents are removed from the kernel.

        An unlisted document stays unless a message removed it: the stream may have lost it (ADR 25). A call after one
        that raised continues it: the listing is evaluated only once, otherwise all documents would be absent.
        """
        async with self._step:
            documents = self.desired.documents
            if not self.in_sync:
                documents.end_replay(self._listed)
            self._listed.clear()
            self.removals.complete_snapshot()
            self._underlay.forget_inherited()
            documents.retry_blocked()  # objects that use their names may be removed from now on
            await self._reconcile(set(documents.absent))
            if self.removals.postponed:
                await self._repair_all()
                self.acknowledgements.send(self.desired, self.removals.take_postponed())
            counts = msgspec.structs.asdict(self.acknowledgements.tracker.counts)
            log.info("snapshot_applied", revision=self.revision, absent=len(documents.absent), **counts)

    async def sweep(self, names: Iterable[str], *, objects: bool = False) -> list[str] | None:
        """Remove documents that the stream does not list. If some of `names` are not absent, return these, remove none.

        Return None and remove nothing while the snapshot is incomplete. With `objects`, objects that no document
        explains may be removed from the kernel too. ObservationError: the documents are removed, but the kernel could
        not be read; the next resync removes the rest.
        """
        async with self._step:
            if not self.in_sync:
                return None
            documents, wanted = self.desired.documents, set(names)
            others = sorted(wanted - documents.absent)
            if others:
                return others
            documents.sweep(sorted(wanted))
            self.programs.remove(wanted, self.desired)
            if objects:
                self.removals.remove_unexplained()
            await self._reconcile(wanted)
            log.info("documents_swept", documents=sorted(wanted), objects=objects)
            if objects:
                await self._repair_all()
        return []

    # The host

    async def look_at_uplinks(self) -> None:
        """Read the uplinks and apply any change. Raises OSError: see `Underlay.look`."""
        async with self._step:
            resolved, before = self.desired.resolved, self._underlay.found
            found = await self._underlay.refresh(resolved.host_state)
            self.desired.documents.touch(owners_of_lost(self.desired, before, found))
            self.desired.set_host_state(with_served(found, served_now(resolved)))
            await self._reconcile(set())

    async def exclude_down(self, down: frozenset[str]) -> None:
        """Exclude bouncers and dividers that are down, if their network or VPC has others."""
        async with self._step:
            self.desired.set_down(down)
            await self._reconcile(set())

    # The kernel

    @contextlib.contextmanager
    def applied_meanwhile(self) -> Iterator[set[str]]:
        """Collect the names of documents that are applied from now on, or are being applied."""
        names = set(self._in_progress or ())
        self._recordings.append(names)
        try:
            yield names
        finally:
            self._recordings = [one for one in self._recordings if one is not names]

    async def recheck(self, diff: KernelDiff, meanwhile: Collection[str]) -> list[Action]:
        """Return the actions for persisting differences; `meanwhile`: see `applied_meanwhile`. Changes nothing."""
        async with self._step:
            return await recheck(self._kernel, self.desired, diff, meanwhile)

    async def repair(self, diff: KernelDiff, meanwhile: Collection[str]) -> list[Action]:
        """Repair the differences that persist; return the repairs of documents that had not failed before.

        Raises ObservationError if the kernel cannot be read again: then nothing is changed.
        """
        async with self._step:
            unknown = frozenset(meanwhile)
            found = await recheck(self._kernel, self.desired, diff, unknown)
            actions = self.removals.explained(self.removals.allowed(found))
            if not actions and not self.desired.documents.failing():
                return []
            return await self._apply_diff(actions, self._answerable() - unknown)

    async def repair_namespaces(self, namespaces: Collection[str]) -> list[Action]:
        """Retry refusals in namespaces and repair their endpoints: a namespace may be a new one of the same name."""
        async with self._step:
            documents = self.desired.documents
            documents.retry(self.results.waiting_in(namespaces))
            await self._reconcile(set())
            veths = {id_: veth for id_, veth in self.desired.veths.items() if veth.namespace in namespaces}
            found = await missing(self._kernel, self.desired, DesiredEntries(veths=veths))
            actions = [action for action in found if isinstance(action, EnsureVeth)]
            owners = {owner for id_ in veths if (owner := self.desired.owner_of_veth(id_)) is not None}
            return await self._apply_diff(actions, owners - self.results.remains.keys()) if actions else []

    async def reattach(self) -> list[Action]:
        """Attach transit XDP again where another process has just detached it; return the actions that succeeded."""
        async with self._step:
            actions = self._underlay.detached(self.desired.resolved)
            failures = await self._execute(actions, self._answerable()) if actions else []
            refused = [failure.action for failure in failures]
            return [action for action in actions if action not in refused]

    async def retry(self, names: Collection[str]) -> bool:
        """Retry what the kernel refused of the named documents. False: a full resync has to do the rest.

        Raises ObservationError if the kernel cannot be read.
        """
        async with self._step:
            await self._retry(names)
            return self.results.remains.keys().isdisjoint(names)

    async def _retry(self, names: Collection[str]) -> None:
        """Retry what the kernel refused of the named documents; the caller holds the step."""
        documents = self.desired.documents
        documents.retry(names)
        await self._reconcile(set())
        wanted, failing = DesiredEntries(), set()
        for name in names:
            entry = documents.entries.get(name)
            if entry is not None and entry.failures and entry.in_force is not None:
                wanted.add(self.desired.desired_entries(entry.in_force))
                failing.add(name)
        if failing:
            actions = self.removals.allowed(await missing(self._kernel, self.desired, wanted))
            await self._execute(actions, failing - self.results.remains.keys())

    async def _repair_all(self) -> None:
        """Compare the whole kernel and repair it while no document is applied; the caller holds the step."""
        actions = plan_diff(await diff_kernel(self._kernel, self.desired))
        await self._execute(self.removals.explained(actions), self._answerable())

    async def _apply_diff(self, actions: Sequence[Action], names: Collection[str]) -> list[Action]:
        failing = DesiredEntries()
        for name in self.desired.documents.failing():
            held = self.desired.documents.entries[name].in_force
            if held is not None:
                failing.add(self.desired.desired_entries(held))
        failures = await self._execute(actions, names)
        refused = [failure.action for failure in failures]
        return [action for action in excluding(actions, failing) if action not in refused]

    def _answerable(self) -> set[str]:
        """Return the documents to which refusals are attributed: those in force, and those not completely removed."""
        return {name for name, _ in self.desired.in_force()} | self.results.remains.keys()

    async def _execute(self, actions: Sequence[Action], names: Collection[str]) -> list[Failure]:
        """Execute a resync's actions; `names` are the documents that it compared."""
        failures = await self._kernel.executor.run(actions)
        self.results.take_repair(names, failures)
        self.programs.take_lost(failures, self.desired)
        self._record(name for name in names if self.results.fails(name))
        if removes_veths(actions):
            self.desired.documents.retry_blocked()
        await self._reconcile(names)
        return failures

    async def _reconcile(self, mentioned: Collection[str]) -> None:
        """Resolve, execute and record the results until nothing changes any more; then acknowledge.

        If an exception ended the last step early, its progress is unknown, so the kernel is compared first.
        """
        interrupted, affected = self._in_progress is not None, {*mentioned, *(self._in_progress or ())}
        self._in_progress = set(affected)
        had_droplet = bool(self.desired.resolved.own_droplets())
        affected |= await self._apply_changes()
        if interrupted:
            found = plan_diff(await diff_kernel(self._kernel, self.desired))
            failures = await self._kernel.executor.run(self.removals.explained(self.removals.allowed(found)))
            self.results.take({name for name, _ in self.desired.in_force()}, failures)
        self._underlay.follow(self.desired.resolved)
        if had_droplet != bool(self.desired.resolved.own_droplets()):
            affected |= self.desired.documents.entries.keys()
            self._in_progress |= affected
        if affected:
            await self._verify_attached(affected)
            note_shortfalls(self.desired, self._underlay.found, affected)
            self._versions.note_unaccepted(self.desired, affected)
        self.acknowledgements.send(self.desired, affected, self.removals.postponed)
        self._in_progress = None

    async def _apply_changes(self) -> set[str]:
        """Resolve and execute until nothing changes any more; return the examined documents."""
        examined: set[str] = set()
        retried = False
        while True:
            slots, indexes = self.desired.resolved.slots, self.desired.resolved.stage_indexes
            change = self.desired.resolve(removing=self.in_sync)
            if not change.affected:
                return examined
            examined |= change.affected
            self._in_progress = {*(self._in_progress or ()), *change.affected}
            self._record(change.affected)
            if self.desired.resolved.slots is not slots:
                for slot in set(self.desired.resolved.slots.values()).difference(slots.values()):
                    self._kernel.clear_endpoint_counters(slot)
            for place, index in self.desired.resolved.stage_indexes.items():
                if indexes.get(place) != index:
                    self._kernel.clear_function_counters(index)
            planned = plan_change(change.before, change.after, new_functions=change.new_functions)
            actions = self.removals.allowed(planned, change.affected)
            failures = await self._kernel.executor.run(actions)
            self.results.take_change(change, failures)
            self.programs.take_lost(failures, self.desired)
            self._versions.take(change, failures, self.desired)
            if not retried and removes_veths(actions):
                retried = True  # only once: what a fallback after another refusal takes back is removed too
                self.desired.documents.retry_blocked()

    def _record(self, names: Iterable[str]) -> None:
        found = set(names)
        for recording in self._recordings:
            recording |= found

    async def _verify_attached(self, names: Iterable[str]) -> None:
        """Attach transit XDP where it is missing; if that fails, no document may be acknowledged as realized."""
        failures = await self._underlay.attach_missing(self.desired.resolved)
        if failures:
            in_force = {name for name, _ in self.desired.in_force()}
            for name in in_force.intersection(names):
                self.desired.documents.fail(name, tuple(kernel_failure(failure) for failure in failures))
