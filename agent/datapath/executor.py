"""Executes a plan: one action after another, and collects the kernel's refusals.

A refused action does not stop unrelated ones. Decides nothing, and remembers only which refusals it has logged: the
next observation shows what the kernel then holds.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import structlog

from agent.core.functions.stages import Point
from agent.core.model.map_layout import DIRECT_PATH, MapName
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
from agent.core.plan.recurring_failures import RecurringFailures
from agent.core.plan.remedies import explain, step_of
from agent.core.plan.slot_guard import SlotGuard
from agent.datapath.attach.transit import Transit
from agent.datapath.bpf.maps import Map, Refused
from agent.datapath.function_port import FunctionPort
from agent.datapath.mode_follower import ModeFollower
from agent.datapath.net.threads import in_thread
from agent.datapath.veth.pairs import Links
from agent.errors import explain_error

AT_ONCE = 4096
"""Entries that are changed without leaving the event loop: a few milliseconds at most."""

_T = TypeVar("_T")

log = structlog.get_logger()


class Executor:
    """The only place where actions become kernel calls."""

    def __init__(
        self,
        maps: dict[MapName, Map],
        links: Links,
        transit: Transit,
        follower: ModeFollower,
        functions: FunctionPort | None = None,
    ) -> None:
        """Work on open maps and the parts of the kernel; `functions` is None where functions are off."""
        self._maps = maps
        self._links = links
        self._transit = transit
        self._follower = follower
        self._functions = functions
        self._recurring = RecurringFailures()
        self._slots = SlotGuard()

    async def run(self, actions: Iterable[Action]) -> list[Failure]:
        """Execute the actions in order; return the refusals, empty if all succeeded."""
        failures: list[Failure] = []
        for action in actions:
            before = len(failures)
            try:
                failures += await self._carry_out(action)
            except OSError as error:
                failures.append(_failure(action, error))
            except Exception as error:  # whatever it was, the action must not count as done
                failure = _failure(action, OSError(errno.EIO, f"{type(error).__name__}: {error}"))
                if self._recurring.new([failure]):
                    log.exception("action_failed", object=failure.object)
                failures.append(failure)
            self._slots.done(action, failures[before:])
            self._recurring.done(action, object_of(action), failures[before:])
        for failure in self._recurring.new(failures):
            log.warning(
                "kernel_refused",
                object=failure.object,
                errno=failure.errno,
                message=failure.message,
                keys=len(failure.keys),
            )
        return failures

    async def _carry_out(self, action: Action) -> list[Failure]:
        match action:
            case PutEntries(name, _):
                refused = await _apply(self._maps[name].put, self._slots.allowed(action).entries)
                return [_refused(action, one) for one in refused]
            case DeleteEntries(name, keys):
                refused = await _apply(self._maps[name].delete, keys)
                if name is MapName.DROPLETS:
                    await self._forget_paths_to(set(keys))
                return [_refused(action, one) for one in refused]
            case EnsureVeth(veth):
                await self._links.ensure_veth(veth)
            case DeleteVeth(endpoint, ifindex):
                await self._links.delete_veth(endpoint, ifindex)
            case AttachTransit(ifindex):
                await self._attach_transit(ifindex)
            case DetachTransit(ifindex):
                await self._transit.detach(ifindex)
            case EnsureFunction():
                await self._ensure_function(action)
            case DeleteFunction(id_, point, slot):
                port = self._port(self._functions)
                self._slots.check(action, await in_thread(self._suspects))
                await port.remove(id_, point, slot)
        return []

    async def _ensure_function(self, action: EnsureFunction) -> None:
        port, function = self._port(self._functions), action.function
        try:
            await port.ensure(function)
        finally:
            if port.is_filled(function.point, function.slot):
                self._slots.is_filled(function)
            else:
                self._slots.is_empty(function, is_new=action.is_new)

    def _suspects(self) -> dict[MapName, dict[bytes, bytes]]:
        return {name: self._maps[name].find(keys) for name, keys in self._slots.suspects().items()}

    @staticmethod
    def _port(functions: FunctionPort | None) -> FunctionPort:
        if functions is None:
            raise OSError(errno.EOPNOTSUPP, "functions are off")
        return functions

    async def _attach_transit(self, ifindex: int) -> None:
        """Attach transit XDP, then decide the mode again: some drivers report what they support only then."""
        attached = await self._transit.attach(ifindex)
        await self._follower.follow()
        await self._transit.detach_refused(ifindex)
        log.info("transit_attached", ifindex=ifindex, at=attached)

    async def _forget_paths_to(self, hosts: set[bytes]) -> None:
        """Remove direct paths to droplets that are no longer known: a fresh path counts as proof of a known droplet."""
        direct = self._maps[MapName.DIRECT]
        paths = await in_thread(direct.dump)
        await _apply(direct.delete, [key for key, value in paths.items() if DIRECT_PATH.unpack(value)[0] in hosts])


async def _apply(change: Callable[[Sequence[_T]], list[Refused]], items: Sequence[_T]) -> list[Refused]:
    """Change a map here, or in a thread if it would delay heartbeats; wait for its end in any case."""
    return change(items) if len(items) <= AT_ONCE else await in_thread(change, items)


def object_of(action: Action) -> str:
    """Describe an action's object for people."""
    match action:
        case PutEntries(name, _) | DeleteEntries(name, _):
            return f"map {name}"
        case EnsureVeth(veth):
            return f"interface {veth.peer_name} of endpoint {veth.endpoint} in namespace {veth.namespace}"
        case DeleteVeth(endpoint, ifindex):
            return f"interface of endpoint {endpoint} (ifindex {ifindex})"
        case AttachTransit(ifindex) | DetachTransit(ifindex):
            return f"transit XDP on the interface with ifindex {ifindex}"
        case EnsureFunction(function):
            return f"function {function.id} at {Point(function.point).label}"
        case DeleteFunction(id_, point, _):
            return f"function {id_} at {Point(point).label}"


def _failure(action: Action, error: OSError) -> Failure:
    message = explain_error(error, step_of(action), object_of(action))
    return Failure(action, error.errno or errno.EIO, object_of(action), message)


def _refused(action: Action, refused: Refused) -> Failure:
    detail = f"{os.strerror(refused.errno)} for {len(refused.keys)} entries"
    message = explain(step_of(action), refused.errno, detail, object_of(action))
    return Failure(action, refused.errno, object_of(action), message, refused.keys)
