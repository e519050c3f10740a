"""Finds the documents behind what the kernel refused."""

from __future__ import annotations

import errno
from collections.abc import Iterable

from agent.core.actions import AttachTransit, DeleteEntries, DeleteVeth, DetachTransit, EnsureVeth, Failure, PutEntries
from agent.core.layout import U32, MapName
from agent.core.realize import Realization
from protocol.acknowledgements import KernelFailure


def blame(
    failures: Iterable[Failure], documents: Iterable[tuple[str, Realization]]
) -> dict[str, tuple[KernelFailure, ...]]:
    """Return, for each document that asks for something that was refused, what that was.

    A refusal that no document asks for (a removal) has no name here: the next comparison with the kernel finds it.
    """
    failures = list(failures)
    found: dict[str, tuple[KernelFailure, ...]] = {}
    for name, realization in documents:
        own = tuple(told(failure) for failure in failures if _concerns(failure, realization))
        if own:
            found[name] = own
    return found


def _concerns(failure: Failure, realization: Realization) -> bool:
    match failure.action:
        case EnsureVeth(veth):
            return veth.endpoint in realization.veths
        case DeleteVeth(endpoint, _):
            return endpoint in realization.veths
        case AttachTransit() | DetachTransit():
            return U32.pack(0) in realization.entries.get(MapName.LOCAL_DROPLET, ())
        case PutEntries(name, _) | DeleteEntries(name, _):
            return any(key in realization.entries.get(name, ()) for key in failure.keys)


def told(failure: Failure) -> KernelFailure:
    """Return a refusal as an acknowledgement tells it."""
    name = errno.errorcode.get(failure.errno, str(failure.errno))
    return KernelFailure(failure.errno, name, failure.object, failure.message)
