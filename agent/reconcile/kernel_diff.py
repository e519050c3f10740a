"""Holds the kernel against what is wanted, a slice at a time, so that heartbeats, questions and documents go on.

Reads and changes nothing. Whoever calls holds the documents up or does not: what is found while they are settled is a
suspicion, which `prove` looks at again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable

from agent.core.config.desired_state import Desired
from agent.core.plan.actions import Action
from agent.core.plan.diff import KernelDiff, Suspects
from agent.core.plan.planner import plan_all
from agent.core.plan.render import DesiredEntries
from agent.datapath.kernel import Kernel

SLICE = 1000
"""Entries that are looked at before others go on: a few milliseconds."""


async def diff_kernel(kernel: Kernel, desired: Desired) -> KernelDiff:
    """Hold all documents in force against the kernel. Raises ObservationError."""
    diff = KernelDiff(await kernel.observe(_namespaces(desired)))
    await _take(diff, desired, list(desired.documents.entries))
    return diff


async def recheck(kernel: Kernel, desired: Desired, diff: KernelDiff, meanwhile: Collection[str]) -> list[Action]:
    """Return what of a diff is still different, and nothing of the documents that were settled meanwhile.

    Nothing may be settled during this. It looks at the suspects alone, and mostly there are none. What nobody wanted
    when it was looked at may have passed to another document since. Raises ObservationError.
    """
    if diff.has_unexpected:
        await _take(diff, desired, meanwhile)
    diff.discard(meanwhile)
    if diff.is_empty:
        return []
    observed = await kernel.observe_some(diff.suspects(), _namespaces(desired))
    attached = DesiredEntries(transit=desired.resolved.carriers())
    return plan_all([*diff.wanted.values(), attached], observed)


async def missing(kernel: Kernel, desired: Desired, wanted: DesiredEntries) -> list[Action]:
    """Return what of some entries and interfaces is not in the kernel as it is wanted; only these are looked at.

    Nothing may be settled during this. Raises ObservationError.
    """
    keys = {name: entries.keys() for name, entries in wanted.entries.items()}
    namespaces = {id_: veth.namespace for id_, veth in wanted.veths.items()}
    observed = await kernel.observe_some(Suspects(keys, wanted.veths.keys()), namespaces)
    return plan_all([wanted, DesiredEntries(transit=desired.resolved.carriers())], observed)


async def _take(diff: KernelDiff, desired: Desired, names: Iterable[str]) -> None:
    done = 0
    for name in names:
        for part in desired.parts(name):
            diff.add(name, part)
            done = await _pause(done + sum(map(len, part.entries.values())))
        done = await _pause(done + 1)


async def _pause(done: int) -> int:
    """Let others go on when a slice is done; return how much of the next one is."""
    if done < SLICE:
        return done
    await asyncio.sleep(0)
    return 0


def _namespaces(desired: Desired) -> dict[str, str]:
    return {id_: veth.namespace for id_, veth in desired.veths.items()}
