"""Attributes failed actions to the documents that asked for them."""

from __future__ import annotations

from collections.abc import Iterable

from agent.core.model.desired_entries import DesiredEntries
from agent.core.model.errno_names import errno_name
from agent.core.plan.actions import (
    Action,
    AttachTransit,
    DeleteEntries,
    DeleteFunction,
    DeleteVeth,
    DetachTransit,
    EnsureFunction,
    EnsureVeth,
    Failure,
    PutEntries,
)
from protocol.acknowledgements import KernelFailure


def attribute_failures(
    failures: Iterable[Failure], documents: Iterable[tuple[str, DesiredEntries]]
) -> dict[str, tuple[KernelFailure, ...]]:
    """Return the failures of each document that asked for something that failed.

    For removals, pass the documents' former entries.
    """
    failures = list(failures)
    found: dict[str, tuple[KernelFailure, ...]] = {}
    for name, entries in documents:
        own = tuple(kernel_failure(failure) for failure in failures if _concerns(failure, entries))
        if own:
            found[name] = own
    return found


def _concerns(failure: Failure, entries: DesiredEntries) -> bool:
    match failure.action:
        case EnsureVeth(veth):
            return veth.endpoint in entries.veths
        case DeleteVeth(endpoint, _):
            return endpoint in entries.veths
        case AttachTransit(ifindex) | DetachTransit(ifindex):
            return ifindex in entries.transit
        case EnsureFunction(function):
            return function.place in entries.functions
        case DeleteFunction(id_, point, _):
            return (id_, point) in entries.functions
        case PutEntries(name, _) | DeleteEntries(name, _):
            return any(key in entries.entries.get(name, ()) for key in failure.keys)


def is_removal(failure: Failure) -> bool:
    """Return whether the refused action would have removed something."""
    return isinstance(failure.action, DeleteEntries | DeleteVeth | DetachTransit | DeleteFunction)


def excluding(actions: Iterable[Action], wanted: DesiredEntries) -> list[Action]:
    """Return the actions without those parts that would create entries of `wanted`."""
    rest: list[Action] = []
    for action in actions:
        match action:
            case EnsureVeth(veth) if veth.endpoint in wanted.veths:
                continue
            case EnsureFunction(function) if function.place in wanted.functions:
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


def kernel_failure(failure: Failure) -> KernelFailure:
    """Return a failure as acknowledgements report it."""
    return KernelFailure(failure.errno, errno_name(failure.errno), failure.object, failure.message)
