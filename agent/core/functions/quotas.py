"""How much of a host the functions of one VPC may take: slots of a point, and memory of maps. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from agent.core.functions.programs import content_of, form_of, verdict_key
from agent.core.functions.stages import POINTS
from agent.core.model.resolved_state import HostState, ResolvedState
from protocol.documents import Function
from protocol.errors import ErrorCode, FieldError


class SlotQuota:
    """The slots that functions of each VPC have at each point."""

    def __init__(self, having: Iterable[Function], most: int) -> None:
        """Start with the functions that have a slot already, which nothing takes from them."""
        self._taken = Counter((one.vpc, one.point) for one in having if one.vpc)
        self._most = most

    def take(self, function: Function) -> bool:
        """Return whether a function may have a slot, and count it."""
        if not function.vpc:
            return True
        key = function.vpc, function.point
        if self._taken[key] >= self._most:
            return False
        self._taken[key] += 1
        return True


def slot_error(index: int, function: Function, most: int) -> FieldError:
    """Return the error of a function whose VPC has as many slots as it may."""
    message = (
        f"functions of VPC {function.vpc!r} have {most} slots at {function.point} on this host, the limit: remove one "
        "of them, or raise functions.vpc_slots in the settings"
    )
    return FieldError(f"functions[{index}].vpc", ErrorCode.OUT_OF_RANGE, message)


def map_bytes(function: Function, host: HostState) -> int:
    """Return what the maps of a function take when they are full, 0 if that is not known."""
    verdict = host.verdicts.get(verdict_key(function.program, function.point))
    if verdict is not None and verdict.map_bytes:
        return verdict.map_bytes
    return host.map_bytes.get(content_of(function.program, host.verdicts, function.point), 0)


def map_errors(
    changed: Mapping[str, Sequence[Function]], before: ResolvedState, resolved: ResolvedState
) -> dict[str, FieldError]:
    """Return an error for each document whose functions need more memory for maps than before, and there is not enough.

    `changed` are the functions of documents that are examined. What an earlier agent left in a slot stays.
    """
    host, rules = resolved.host_state, resolved.host_state.functions
    of_vpc: Counter[str] = Counter()
    for one in resolved.functions.values():
        of_vpc[one.vpc] += map_bytes(one, host)
    too_much = {vpc for vpc, total in of_vpc.items() if vpc and total > rules.vpc_map_bytes}
    of_host = of_vpc.total()
    errors: dict[str, FieldError] = {}
    for document, functions in changed.items() if too_much or of_host > rules.map_bytes else ():
        for index, one in enumerate(functions):
            old = before.functions.get(one.id)
            left = old is None and (one.id, int(POINTS[one.point])) in before.stage_indexes
            had = map_bytes(old, host) if old is not None and old.vpc == one.vpc else 0
            if left or map_bytes(one, host) <= had:
                continue
            if one.vpc in too_much:
                errors[document] = _map_error(index, one, f"VPC {one.vpc!r}", of_vpc[one.vpc], "vpc_map_bytes", host)
            elif of_host > rules.map_bytes:
                errors[document] = _map_error(index, one, "all VPCs", of_host, "map_bytes", host)
    return errors


def _map_error(index: int, function: Function, whose: str, total: int, setting: str, host: HostState) -> FieldError:
    most = getattr(host.functions, setting)
    message = (
        f"the maps of functions of {whose} would need {total:,} bytes on this host when they are full, "
        f"{map_bytes(function, host):,} of them for this function; the limit is {most:,}: make its maps smaller, "
        f"remove other functions, or raise functions.{setting} in the settings"
    )
    return FieldError(f"functions[{index}].program.{form_of(function.program)}", ErrorCode.OUT_OF_RANGE, message)
