"""Answers queries about functions: the entries of their maps, and what is known of their programs."""

from __future__ import annotations

from typing import NamedTuple

from agent.bus.rpc import RpcError
from agent.core.config.desired_state import Desired
from agent.core.functions.programs import verdict_key
from agent.core.functions.stages import POINTS, Point, index_of, slots_of
from agent.core.kinds.functions import FUNCTIONS
from agent.core.model.resolved_state import ResolvedState
from agent.datapath.functions.reader import FunctionReader, UnknownMapError
from protocol.documents import Function
from protocol.rpc import FunctionLogReply, FunctionLogRequest, FunctionMapsReply, FunctionMapsRequest, PathFunction


class NewestFunction(NamedTuple):
    """A function as the newest revision of its document lists it; that may not be in force."""

    document: str
    revision: int
    function: Function


def newest(desired: Desired, id_: str) -> NewestFunction | None:
    """Return the newest revision of a function, None if no document lists it."""
    owner = desired.documents.owner(FUNCTIONS, id_)
    for held in desired.documents.entries[owner].kept() if owner is not None else ():
        found = next((one for one in held.document().functions if one.id == id_), None)
        if owner is not None and found is not None:
            return NewestFunction(owner, held.revision, found)
    return None


def path_functions(resolved: ResolvedState, sent: int, received: int) -> tuple[PathFunction, ...]:
    """Return the functions of a packet's chains at from_endpoint and to_endpoint, in their order."""
    names = {index: id_ for (id_, _), index in resolved.stage_indexes.items()}
    return tuple(
        PathFunction(names.get(index_of(point, slot), f"slot {slot}"), point.label)
        for point, chain in ((Point.FROM_ENDPOINT, sent), (Point.TO_ENDPOINT, received))
        for slot in slots_of(chain)
    )


async def function_maps(
    desired: Desired, reader: FunctionReader | None, request: FunctionMapsRequest
) -> FunctionMapsReply:
    """Return a function's maps, and a page of entries."""
    function = desired.resolved.functions.get(request.function)
    if function is None:
        raise _unknown(desired, request.function)
    try:
        found = await reader.read_maps(function.id, POINTS[function.point], request) if reader is not None else None
    except UnknownMapError as error:
        text = f"map: function {function.id!r} has no map {request.map!r}; its maps are: {error}"
        raise RpcError(400, text) from None
    except OSError as error:
        raise RpcError(500, f"the maps of function {function.id!r} cannot be read: {error}") from None
    if found is None:
        raise RpcError(
            404, f"nothing of function {function.id!r} is installed; its document's acknowledgement says why"
        )
    return found


async def function_log(
    desired: Desired, reader: FunctionReader | None, request: FunctionLogRequest
) -> FunctionLogReply:
    """Return what is installed of a function, and what was said of its newest program if that is refused."""
    found = newest(desired, request.function)
    if found is None:
        raise _unknown(desired, request.function)
    now = desired.resolved.functions.get(request.function, found.function)
    try:
        installed = await reader.describe(now.id, POINTS[now.point]) if reader is not None else ""
    except OSError as error:
        raise RpcError(500, f"the programs of function {now.id!r} cannot be read: {error}") from None
    refused = _refusal(desired, reader, found.function)
    return FunctionLogReply(found.document, found.revision, found.function.point, installed, refused)


def _refusal(desired: Desired, reader: FunctionReader | None, function: Function) -> str:
    """Return all that was said of a refused program, or at least why it is refused; empty if it is not."""
    key = verdict_key(function.program, function.point)
    verdict = desired.verdicts.get(key)
    if verdict is None or not verdict.refusal:
        return ""
    return (reader.log_of(key) if reader is not None else "") or verdict.refusal


def _unknown(desired: Desired, id_: str) -> RpcError:
    if newest(desired, id_) is not None:
        return RpcError(404, f"function {id_!r} is not in force; its document's acknowledgement says why")
    return RpcError(404, f"there is no function {id_!r} on this host")
