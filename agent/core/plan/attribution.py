"""Finds the documents behind what the kernel refused."""

from __future__ import annotations

from collections.abc import Iterable

from agent.core.model.errno_names import errno_name
from agent.core.plan.actions import (
    Action,
    AttachTransit,
    DeleteEntries,
    DeleteVeth,
    DetachTransit,
    EnsureVeth,
    Failure,
    PutEntries,
)
from agent.core.plan.render import Realization
from protocol.acknowledgements import KernelFailure


def blame(
    failures: Iterable[Failure], documents: Iterable[tuple[str, Realization]]
) -> dict[str, tuple[KernelFailure, ...]]:
    """Return, for each document that asks for something that was refused, what that was.

    For a removal, hand in what the documents asked for before.
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
        case AttachTransit(ifindex) | DetachTransit(ifindex):
            return ifindex in realization.transit
        case PutEntries(name, _) | DeleteEntries(name, _):
            return any(key in realization.entries.get(name, ()) for key in failure.keys)


def is_removal(failure: Failure) -> bool:
    """Say whether what was refused would have removed something."""
    return isinstance(failure.action, DeleteEntries | DeleteVeth | DetachTransit)


def apart_from(actions: Iterable[Action], wanted: Realization) -> list[Action]:
    """Return the actions, or the parts of them, that do not put in place what some documents want."""
    rest: list[Action] = []
    for action in actions:
        match action:
            case EnsureVeth(veth) if veth.endpoint in wanted.veths:
                continue
            case AttachTransit(ifindex) if ifindex in wanted.transit:
                continue
            case PutEntries(name, entries):
                known = wanted.entries.get(name, {})
                entries = tuple(entry for entry in entries if entry[0] not in known)
                rest += [PutEntries(name, entries)] if entries else []
            case _:
                rest.append(action)
    return rest


def told(failure: Failure) -> KernelFailure:
    """Return a refusal as an acknowledgement tells it."""
    return KernelFailure(failure.errno, errno_name(failure.errno), failure.object, failure.message)
