"""Chains and the programs in their slots stay together where the kernel refuses a part of a plan."""

from __future__ import annotations

import asyncio
import errno
from typing import Any

import pytest

from agent.core.functions.stages import Point, chain_of
from agent.core.model.desired_entries import Function
from agent.core.model.map_layout import ENDPOINT_STAGES, MapName
from agent.core.plan.actions import DeleteEntries, DeleteFunction, EnsureFunction, PutEntries
from agent.core.plan.slot_guard import SlotGuard
from agent.datapath.bpf.maps import Refused
from agent.datapath.executor import Executor
from protocol.documents import FunctionProgram

FUNCTION = Function("f", Point.FROM_ENDPOINT, 2, "12", FunctionProgram(source="x"))
KEY = bytes(4)
CHAINS = PutEntries(MapName.ENDPOINT_STAGES, ((KEY, ENDPOINT_STAGES.pack(chain_of((2, 1)), 0)),))
WITHOUT = ((KEY, ENDPOINT_STAGES.pack(chain_of((1,)), 0)),)
REMOVAL = DeleteFunction("f", Point.FROM_ENDPOINT, 2)


class Slots:
    """Programs in slots, where the kernel may refuse new ones."""

    def __init__(self, *filled: tuple[int, int], refuses: bool = False) -> None:
        self.filled = set(filled)
        self.refuses = refuses

    async def ensure(self, function: Function) -> None:
        if self.refuses:
            raise OSError(errno.EACCES, "R1 invalid mem access")
        self.filled.add((function.point, function.slot))

    async def remove(self, id_: str, point: int, slot: int) -> None:
        self.filled.discard((point, slot))

    def is_filled(self, point: int, slot: int) -> bool:
        return (point, slot) in self.filled


class Chains:
    """The map `endpoint_stages`."""

    def __init__(self, refuses: int = 0) -> None:
        self.entries: dict[bytes, bytes] = {}
        self.refuses = refuses

    def put(self, entries: Any) -> list[Refused]:
        if self.refuses:
            return [Refused(self.refuses, tuple(key for key, _ in entries))]
        self.entries.update(entries)
        return []

    def delete(self, keys: Any) -> list[Refused]:
        if self.refuses:
            return [Refused(self.refuses, tuple(keys))]
        for key in keys:
            self.entries.pop(key, None)
        return []

    def find(self, keys: Any) -> dict[bytes, bytes]:
        return {key: self.entries[key] for key in keys if key in self.entries}


def executor(slots: Any, chains: Any = None) -> Executor:
    unused: Any = None
    return Executor({MapName.ENDPOINT_STAGES: chains}, unused, unused, unused, slots)


def run(worker: Executor, *actions: Any) -> list[Any]:
    return asyncio.run(worker.run(actions))


def test_a_chain_passes_over_a_slot_that_could_not_be_filled() -> None:
    chains, slots = Chains(), Slots(refuses=True)
    (failure,) = run(executor(slots, chains), EnsureFunction(FUNCTION, is_new=True), CHAINS)
    assert (failure.action, failure.errno) == (EnsureFunction(FUNCTION), errno.EACCES)
    assert failure.message.startswith("R1 invalid mem access (EACCES) while installing function f at from_endpoint: ")
    assert tuple(chains.entries.items()) == WITHOUT


def test_a_chain_names_the_older_program_where_a_newer_one_is_refused() -> None:
    chains, slots = Chains(), Slots((Point.FROM_ENDPOINT, 2), refuses=True)
    assert len(run(executor(slots, chains), EnsureFunction(FUNCTION, is_new=True), CHAINS)) == 1
    assert tuple(chains.entries.items()) == CHAINS.entries


def test_chains_name_a_slot_again_that_was_filled_at_last() -> None:
    chains, slots = Chains(), Slots(refuses=True)
    worker = executor(slots, chains)
    run(worker, EnsureFunction(FUNCTION, is_new=True), CHAINS)
    slots.refuses = False
    assert run(worker, EnsureFunction(FUNCTION, is_new=True), CHAINS) == []
    assert tuple(chains.entries.items()) == CHAINS.entries


REMOVED = DeleteEntries(MapName.ENDPOINT_STAGES, (KEY,))


@pytest.mark.parametrize("action", [PutEntries(MapName.ENDPOINT_STAGES, WITHOUT), REMOVED])
def test_a_slot_stays_filled_while_a_chain_that_could_not_be_changed_names_it(action: Any) -> None:
    slots, chains = Slots((Point.FROM_ENDPOINT, 2)), Chains()
    worker = executor(slots, chains)
    assert run(worker, CHAINS) == []
    chains.refuses = errno.EPERM
    refused = run(worker, action, REMOVAL)
    assert [failure.errno for failure in refused] == [errno.EPERM, errno.EBUSY]
    assert [failure.errno for failure in run(worker, REMOVAL)] == [errno.EBUSY], "a later plan with no chain"
    assert slots.filled
    chains.refuses = 0
    assert run(worker, action, REMOVAL) == []
    assert not slots.filled


def test_a_slot_is_emptied_if_the_chain_that_could_not_be_written_does_not_name_it() -> None:
    slots = Slots((Point.FROM_ENDPOINT, 2))
    assert [failure.errno for failure in run(executor(slots, Chains(errno.EPERM)), CHAINS, REMOVAL)] == [errno.EPERM]
    assert not slots.filled


def test_chains_of_later_plans_pass_over_a_slot_that_is_still_empty() -> None:
    chains, slots = Chains(), Slots(refuses=True)
    worker = executor(slots, chains)
    run(worker, EnsureFunction(FUNCTION, is_new=True))
    assert run(worker, CHAINS) == []
    assert tuple(chains.entries.items()) == WITHOUT


def test_chains_name_the_slot_of_a_function_in_force_that_cannot_be_loaded_again() -> None:
    """It decides by `on_fault` what becomes of packets, also if the kernel refused it before it was in force."""
    chains, slots = Chains(), Slots(refuses=True)
    worker = executor(slots, chains)
    run(worker, EnsureFunction(FUNCTION, is_new=True))
    run(worker, EnsureFunction(FUNCTION), CHAINS)
    assert tuple(chains.entries.items()) == CHAINS.entries


def test_functions_are_refused_where_they_are_off() -> None:
    failures = run(executor(None), EnsureFunction(FUNCTION), REMOVAL)
    assert [failure.errno for failure in failures] == [errno.EOPNOTSUPP] * 2
    assert "functions.accept" in failures[0].message


def test_entries_of_other_maps_are_left_alone() -> None:
    guard = SlotGuard()
    guard.is_empty(FUNCTION, is_new=True)
    other = PutEntries(MapName.VPCS, ((KEY, b"x"),))
    assert guard.allowed(other) is other
