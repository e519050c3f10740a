"""The chains of functions at stage points: which functions in force a packet meets, in their order. Pure.

Functions of several documents share a chain. So chains are no entries of functions: an endpoint's are rendered with the
endpoint, a VPC's with the VPC, and the host's with its first droplet.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from agent.core.functions.stages import POINTS, Point, chain_of, vnis_mask
from agent.core.model.map_layout import HOST_STAGES, STAGE_SLOTS, VPC_STAGES
from agent.core.model.resolved_state import ResolvedState
from protocol.acknowledgements import Reference
from protocol.documents import Endpoint, Function, Network


class Chains:
    """The chains of everything on this host in one state."""

    def __init__(self, resolved: ResolvedState) -> None:
        self._resolved = resolved
        self._at = {point: functions_at(resolved, point) for point in Point} if resolved.functions else {}

    def of_endpoint(self, endpoint: Endpoint, network: Network) -> tuple[int, int]:
        """Return the chains of an endpoint at `from_endpoint` and `to_endpoint`, 0 for none."""
        if not self._at:
            return 0, 0
        sent, received = (
            self._chain(one for one in self._at[point] if _has_endpoint(one, endpoint, network)) for point in _ENDPOINT
        )
        return sent, received

    def vpc_entry(self, vpc: str) -> bytes | None:
        """Return the value of `vpc_stages` for a VPC, None if no function gets its packets there."""
        if not self._at:
            return None
        chains = [self._chain(one for one in self._at[point] if _has_vpc(one, vpc)) for point in _VPC]
        return VPC_STAGES.pack(*chains) if any(chains) else None

    def host_entry(self) -> bytes | None:
        """Return the value of `host_stages`, None if it would be all zeros."""
        if not self._at:
            return None
        vnis = vnis_mask(vpc.vni for id_, vpc in self._resolved.vpcs.items() if self.vpc_entry(id_) is not None)
        passed, dropped = (self._chain(one for one in self._at[point] if not is_limited(one)) for point in _HOST)
        indexes = self._resolved.stage_indexes
        running = (one for functions in self._at.values() for one in functions if one.on_fault == "open")
        are_open = sum(1 << indexes[one.id, POINTS[one.point]] for one in running)
        return HOST_STAGES.pack(vnis, passed, dropped, are_open) if vnis or passed or dropped or are_open else None

    def _chain(self, functions: Iterable[Function]) -> int:
        indexes = self._resolved.stage_indexes
        return chain_of(indexes[one.id, POINTS[one.point]] % STAGE_SLOTS for one in functions)


_ENDPOINT = (Point.FROM_ENDPOINT, Point.TO_ENDPOINT)
_VPC = (Point.FORWARDED, Point.FROM_UNDERLAY, Point.DROPPED)
_HOST = (Point.PASSED, Point.DROPPED)


def functions_at(resolved: ResolvedState, point: Point) -> list[Function]:
    """Return the functions in force at a point in the order in which they run: first those that no VPC owns.

    A tenant's function may send a packet elsewhere, past those behind it.
    """
    here = [one for one in resolved.functions.values() if one.point == point.label]
    return sorted(here, key=lambda one: (bool(one.vpc), one.order, one.id))


def is_limited(function: Function) -> bool:
    """Return whether a function gets less than all packets at its point."""
    return bool(function.vpc or _is_scoped(function))


def _is_scoped(function: Function) -> bool:
    scope = function.scope
    return bool(scope.vpcs or scope.networks or scope.endpoints)


def _has_vpc(function: Function, vpc: str) -> bool:
    """Return whether a function gets the packets of all endpoints of a VPC."""
    if function.vpc not in ("", vpc):
        return False
    return vpc in function.scope.vpcs or not _is_scoped(function)


def _has_endpoint(function: Function, endpoint: Endpoint, network: Network) -> bool:
    if function.vpc not in ("", network.vpc):
        return False
    scope = function.scope
    return _has_vpc(function, network.vpc) or network.id in scope.networks or endpoint.id in scope.endpoints


def host_droplet(resolved: ResolvedState) -> str:
    """Return the id of this host's first droplet, with which the host's own chains are rendered. Empty for none."""
    return next(iter(resolved.own), "")


def with_host_chains(states: Sequence[ResolvedState]) -> Iterator[Reference]:
    """Yield the droplets with which the host's own chains are or were rendered, if there are functions."""
    if any(state.functions for state in states):
        yield from (Reference("droplets", id_) for id_ in {host_droplet(state) for state in states} if id_)


def with_vpc_chains(functions: Iterable[Function], states: Sequence[ResolvedState]) -> Iterator[Reference]:
    """Yield the VPCs whose chains may hold any of some functions."""
    vpcs: set[str] = set()
    for function in functions:
        if function.point not in {point.label for point in _VPC}:
            continue
        if not is_limited(function):
            yield from (Reference("vpcs", id_) for id_ in {id_ for state in states for id_ in state.vpcs})
            return
        vpcs |= {function.vpc, *function.scope.vpcs} - {""}
    yield from (Reference("vpcs", id_) for id_ in vpcs)


def with_endpoint_chains(functions: Iterable[Function], states: Sequence[ResolvedState]) -> Iterator[Reference]:
    """Yield this host's droplets, to which its endpoints refer, if their chains may hold any of some functions."""
    if any(function.point in {point.label for point in _ENDPOINT} for function in functions):
        yield from (Reference("droplets", id_) for id_ in {id_ for state in states for id_ in state.own})
