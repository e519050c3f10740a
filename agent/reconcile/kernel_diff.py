"""Compares the kernel with the desired entries in slices, so that heartbeats, queries and documents are not delayed.

Only reads. The caller may or may not block documents meanwhile: differences that were found while documents were
applied are only suspects, which `recheck` observes again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable

from agent.core.config.desired_state import Desired
from agent.core.model.desired_entries import DesiredEntries
from agent.core.plan.actions import Action
from agent.core.plan.diff import KernelDiff, Suspects
from agent.core.plan.planner import plan_all
from agent.reconcile.kernel_port import KernelPort

SLICE = 1000
"""Entries that are compared before other tasks run: a few milliseconds."""


async def diff_kernel(kernel: KernelPort, desired: Desired) -> KernelDiff:
    """Compare all documents in force with the kernel. Raises ObservationError."""
    diff = KernelDiff(await kernel.observe(_namespaces(desired)))
    await _take(diff, desired, list(desired.documents.entries))
    return diff


async def recheck(kernel: KernelPort, desired: Desired, diff: KernelDiff, meanwhile: Collection[str]) -> list[Action]:
    """Return the actions for the differences that persist, without documents that were applied meanwhile.

    No document may be applied during the call. It observes only the suspects; usually there are none. An entry that no
    document wanted at the time of the comparison may be wanted by another one now. Raises ObservationError.
    """
    if diff.has_unexpected:
        await _take(diff, desired, meanwhile)
    diff.discard(meanwhile)
    if diff.is_empty:
        return []
    observed = await kernel.observe_some(diff.suspects(), _namespaces(desired))
    attached = DesiredEntries(transit=desired.resolved.carriers())
    return plan_all([*diff.wanted.values(), attached], observed)


async def missing(kernel: KernelPort, desired: Desired, wanted: DesiredEntries) -> list[Action]:
    """Return the actions for those of the `wanted` entries and interfaces that differ in the kernel; reads only these.

    No document may be applied during the call. Raises ObservationError.
    """
    keys = {name: entries.keys() for name, entries in wanted.entries.items()}
    namespaces = {id_: veth.namespace for id_, veth in wanted.veths.items()}
    observed = await kernel.observe_some(Suspects(keys, wanted.veths.keys(), wanted.functions.keys()), namespaces)
    return plan_all([wanted, DesiredEntries(transit=desired.resolved.carriers())], observed)


async def _take(diff: KernelDiff, desired: Desired, names: Iterable[str]) -> None:
    done = 0
    for name in names:
        for part in desired.parts(name):
            diff.add(name, part)
            done = await _pause(done + sum(map(len, part.entries.values())))
        done = await _pause(done + 1)


async def _pause(done: int) -> int:
    """Let other tasks run when a slice is complete; return the progress in the next one."""
    if done < SLICE:
        return done
    await asyncio.sleep(0)
    return 0


def _namespaces(desired: Desired) -> dict[str, str]:
    return {id_: veth.namespace for id_, veth in desired.veths.items()}
