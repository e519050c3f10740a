"""Functions: users' programs at stage points. Their chains are rendered with endpoints, VPCs and a droplet."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from fnmatch import fnmatchcase
from typing import TypeAlias

from agent.core.functions.chains import with_endpoint_chains, with_host_chains, with_vpc_chains
from agent.core.functions.programs import content_of, form_of, verdict_key
from agent.core.functions.quotas import SlotQuota, map_errors, slot_error
from agent.core.functions.stages import POINTS, index_of, place_of
from agent.core.functions.versions import version_in_force
from agent.core.kinds.kind import NO_ERRORS, Assignment, Choice, Column, KernelNumbers, Kind, key_of
from agent.core.model import desired_entries
from agent.core.model.desired_entries import DesiredEntries
from agent.core.model.map_layout import STAGE_SLOTS, MapName
from agent.core.model.resolved_state import ResolvedState
from protocol.acknowledgements import Reference
from protocol.documents import Function
from protocol.errors import ErrorCode, FieldError

_UNCHECKED = "the program is being compiled and checked on this host; the document waits until that is done"
StageIndexes: TypeAlias = Mapping[tuple[str, int], int]
"""The index in the jump tables of each function at a point, by its id and the point."""


class Functions(Kind[Function]):
    """A function has a slot of its point on this host, as all endpoints and VPCs that it concerns share its program."""

    name = "functions"
    singular = "function"
    keys = (key_of("function", "id"),)
    maps = (MapName.ENDPOINT_STAGES, MapName.VPC_STAGES, MapName.HOST_STAGES)
    columns = (
        Column[Function]("FUNCTION", lambda one: one.id),
        Column[Function]("POINT", lambda one: one.point),
        Column[Function]("ORDER", lambda one: str(one.order), usual="0"),
        Column[Function]("VPC", lambda one: one.vpc or "-"),
        Column[Function]("SCOPE", lambda one: _scope(one)),
        Column[Function]("PROGRAM", lambda one: _program(one)),
        Column[Function]("CONFIGURATION", lambda one: f"{len(one.configuration)} bytes", usual="0 bytes", spare=True),
        Column[Function]("ON FAULT", lambda one: one.on_fault, usual="open"),
    )

    def references(self, objects: Sequence[Function]) -> Mapping[str, Set[str]]:
        """Return the VPCs and the networks. Endpoints of a scope may come and go."""
        return {
            "vpcs": {id_ for one in objects for id_ in (one.vpc, *one.scope.vpcs) if id_},
            "networks": {id_ for one in objects for id_ in one.scope.networks},
        }

    def dependents(self, ids: Set[str], states: Sequence[ResolvedState]) -> Iterator[Reference]:
        """Yield what this host's endpoints depend on if their chains may change."""
        return with_endpoint_chains(_found(ids, states), states)

    def rendered_in(self, ids: Set[str], states: Sequence[ResolvedState]) -> Iterator[Reference]:
        """Yield the VPCs whose chains may change, and the droplet that has the host's."""
        yield from with_vpc_chains(_found(ids, states), states)
        yield from with_host_chains(states)

    def not_permitted(
        self, objects: Sequence[Function], document: str, resolved: ResolvedState
    ) -> Iterator[FieldError]:
        """Yield programs in a form that this host does not accept, and functions of no VPC that need a right to it."""
        rules = resolved.host_state.functions
        for index, function in enumerate(objects):
            form = form_of(function.program)
            if not resolved.host_state.features.functions or form not in rules.accept:
                message = f'this host runs no functions given as {form}; add "{form}" to functions.accept'
                yield FieldError(
                    f"functions[{index}].program.{form}", ErrorCode.DISABLED, f"{message}, and start the agent again"
                )
        for index, function in enumerate(objects):
            if not function.vpc and not any(fnmatchcase(document, pattern) for pattern in rules.host_wide):
                message = (
                    f"functions of document {document!r} are limited to one VPC on this host: name it, or add the "
                    "document to functions.host_wide, and start the agent again"
                )
                yield FieldError(f"functions[{index}].vpc", ErrorCode.DISABLED, message)

    def validate(
        self, objects: Sequence[Function], resolved: ResolvedState, *, was_in_force: bool
    ) -> Iterator[FieldError]:
        """Yield networks outside of the function's VPC, and programs that cannot run here or are not checked yet."""
        for index, function in enumerate(objects):
            for position, id_ in enumerate(function.scope.networks):
                vpc = resolved.networks[id_].vpc
                if function.vpc not in ("", vpc):
                    message = f"network {id_!r} is in VPC {vpc!r}; the function is limited to VPC {function.vpc!r}"
                    yield FieldError(f"functions[{index}].scope.networks[{position}]", ErrorCode.OUT_OF_RANGE, message)
        for index, function in enumerate(objects) if not was_in_force else ():
            key = verdict_key(function.program, function.point)
            path = f"functions[{index}].program.{form_of(function.program)}"
            verdict = resolved.host_state.verdicts.get(key)
            if key in resolved.host_state.unchecked:
                yield FieldError(path, ErrorCode.UNCHECKED, _UNCHECKED)
            elif verdict is not None and verdict.refusal:
                yield FieldError(path, ErrorCode.INVALID, verdict.refusal)

    def not_taken_over(
        self, released: Sequence[Function], taken: Sequence[Function], resolved: ResolvedState
    ) -> Iterator[FieldError]:
        """Yield the functions that would be missing until the programs of the other document are checked."""
        ids = {one.id for one in released}
        for one in taken:
            if one.id in ids and verdict_key(one.program, one.point) in resolved.host_state.unchecked:
                message = f"function {one.id!r} moves to another document, whose program is being compiled and checked"
                yield FieldError("functions", ErrorCode.UNCHECKED, f"{message}; this document waits until that is done")

    def numbers_in(self, kernel: KernelNumbers) -> StageIndexes:
        """Return the indexes of the programs that are in the jump tables."""
        return kernel.stage_indexes

    def assign(
        self, choices: Iterable[Choice[Function]], old: ResolvedState, resolved: ResolvedState, *, removing: bool
    ) -> Assignment:
        """Assign a slot of its point to every function. One that becomes free is not assigned in the same step.

        A VPC's functions get as many slots, and as much memory for their maps, as the settings allow.
        """
        if not (resolved.functions or old.stage_indexes):
            return Assignment(resolved, NO_ERRORS)
        choices = list(choices)
        if too_large := map_errors({one.document: one.now for one in choices}, old, resolved):
            return Assignment(resolved, too_large)
        wanted = {(one.id, int(POINTS[one.point])) for one in resolved.functions.values()}
        moved = {(id_, point) for id_, point in wanted & old.stage_indexes.keys() if _has_moved(id_, old, resolved)}
        if wanted == old.stage_indexes.keys() and not moved:
            return Assignment(resolved, NO_ERRORS)
        taken = set(old.stage_indexes.values())
        kept = {place: index for place, index in old.stage_indexes.items() if place in wanted or not removing}
        most = resolved.host_state.functions.vpc_slots
        having = (resolved.functions[id_] for id_, point in (kept.keys() & wanted) - moved)
        quota = SlotQuota(having, most)
        without = {id_: False for id_, _ in sorted(moved) if not quota.take(resolved.functions[id_])}
        for id_, point in sorted(wanted - kept.keys()):
            index = next((one for slot in range(STAGE_SLOTS) if (one := index_of(point, slot)) not in taken), None)
            if index is None or not quota.take(resolved.functions[id_]):
                without[id_] = index is None
            else:
                taken.add(index)
                kept[id_, point] = index
        return Assignment(resolved.with_numbers(self.name, kept), _full(choices, without, most))

    def render(self, objects: Sequence[Function], resolved: ResolvedState, into: DesiredEntries, revision: int) -> None:
        """Add the program of each function in its slot: that of this revision, or of the version before it."""
        histories = resolved.host_state.histories
        for function in objects:
            point, slot = place_of(resolved.stage_indexes[function.id, POINTS[function.point]])
            listed = desired_entries.Function(
                function.id,
                point,
                slot,
                content_of(function.program, resolved.host_state.verdicts, function.point),
                function.program,
                function.configuration,
                on_fault_closed=function.on_fault == "closed",
                vpc=function.vpc,
            )
            into.functions[listed.place] = version_in_force(listed, revision, histories.get(listed.place))


def _found(ids: Set[str], states: Sequence[ResolvedState]) -> list[Function]:
    """Return the functions with these ids in both states."""
    return [one for state in states for id_ in ids if (one := state.functions.get(id_)) is not None]


def _full(choices: Iterable[Choice[Function]], without: Mapping[str, bool], most: int) -> dict[str, FieldError]:
    """Return the error of each document with a function without a slot: `without` says whether all slots are taken.

    `most` are the slots that the functions of one VPC may have at a point.
    """
    errors: dict[str, FieldError] = {}
    for choice in choices if without else ():
        for index, function in enumerate(choice.now):
            if function.id in without and not without[function.id]:
                errors[choice.document] = slot_error(index, function, most)
            elif function.id in without:
                message = (
                    f"no free slot for function {function.id!r}: {STAGE_SLOTS} functions can be at {function.point} on "
                    "one host; remove another one first"
                )
                errors[choice.document] = FieldError(f"functions[{index}].point", ErrorCode.OUT_OF_RANGE, message)
    return errors


def _scope(function: Function) -> str:
    scope = function.scope
    listed = [f"{kind} {' '.join(ids)}" for kind in scope.__struct_fields__ if (ids := getattr(scope, kind))]
    return ", ".join(listed) or ("all of the VPC" if function.vpc else "all of the host")


def _program(function: Function) -> str:
    form = form_of(function.program)
    return function.program.file if form == "file" else form


FUNCTIONS = Functions()


def _has_moved(id_: str, old: ResolvedState, resolved: ResolvedState) -> bool:
    """Return whether a function is of another VPC than before."""
    return id_ in old.functions and old.functions[id_].vpc != resolved.functions[id_].vpc
