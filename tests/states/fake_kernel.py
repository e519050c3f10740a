"""A kernel of dictionaries that carries out the plan's actions, under the rules that the real one has.

Each rule here is proven on the real kernel in `tests/netns`: a full map refuses what is new (E2BIG), an interface's
index is given once (EEXIST), a namespace must be there (ENOENT).
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from agent.core.functions.endpoint_slots import function_slots
from agent.core.functions.programs import UncheckedProgram, hash_of
from agent.core.functions.stages import CHAIN_MAPS, Point, index_of, slots_of
from agent.core.kinds import catalogue
from agent.core.model.desired_entries import Function, Veth
from agent.core.model.endpoint_slots import IFINDEX_BASE
from agent.core.model.features import Features, Verdict
from agent.core.model.hooks import Hook
from agent.core.model.map_layout import ENDPOINT, HOST_STAGES, INTERFACE, LOCAL_DROPLET, U32, MapName
from agent.core.model.process_bindings import Bindings
from agent.core.model.uplinks import Uplink
from agent.core.nexthop.next_hops import Peer
from agent.core.nexthop.peers import Droplets, senders
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
from agent.core.plan.diff import Suspects
from agent.core.plan.observed import Observed, ObservedFunction, ObservedPeer, ObservedVeth
from agent.core.plan.slot_guard import SlotGuard
from protocol.addresses import parse_address

OWN_ADDRESS = bytes([10, 0, 0, 1])
ETH0 = Uplink(
    *("eth0", 2, bytes.fromhex("020000000101"), 1500),
    addresses=(OWN_ADDRESS, bytes([10, 0, 0, 101]), parse_address("2001:db8::1")),
    ingress=(2,),
    egress=2,
    carrier=2,
)
BOND0 = Uplink(
    *("bond0", 5, bytes.fromhex("020000000105"), 9000),
    addresses=(bytes([10, 5, 0, 1]),),
    ingress=(5, 3, 4),
    egress=5,
    carrier=5,
)

Refuse = Callable[[Action], int]
"""Returns the errno with which the kernel refuses an action, 0 to let it pass."""


class FakeKernel:
    """What `agent.reconcile` uses of `agent.datapath.kernel.Kernel`, and the state behind it."""

    def __init__(self, sizes: Mapping[MapName, int] | None = None) -> None:
        self.maps: dict[MapName, dict[bytes, bytes]] = {name: {} for name in (*catalogue.KINDS.maps, MapName.DIRECT)}
        self.veths: dict[str, Veth] = {}
        self.transit: set[int] = set()
        """The interfaces that our program is attached to."""
        self.namespaces: set[str] | None = None
        """The namespaces that exist; None: all."""
        self.interfaces: tuple[Uplink, ...] = (ETH0, BOND0)
        self.functions: dict[tuple[int, int], Function] = {}
        """The functions in the jump tables, by stage point and slot."""
        self.files: dict[str, bytes] = {}
        """The operator's folder of programs."""
        self.guard = SlotGuard()
        self.lacking: set[tuple[int, int]] = set()
        """Points and slots of functions in force whose programs the kernel refused."""
        self.sizes_of_maps: dict[str, int] = {}
        """What the maps of a program take, by its content."""
        self.checked: list[str] = []
        """The keys of the programs that were checked."""
        self.features = Features(functions=True)
        self.endpoint_hook = Hook.XDP
        self.refuse: Refuse = lambda action: 0
        self.actions: list[Action] = []
        self.cleared: list[int] = []
        self.cleared_functions: list[int] = []
        self.faults: dict[int, int] = {}
        """How often the function at an index of the jump tables failed."""
        self.tended = 0
        self.followed: Sequence[Uplink] = ()
        """The uplinks whose mode the attached programs follow."""
        self.executor = self.neighbours = self
        self.bindings = Bindings()
        self.peers: dict[bytes, Peer] = {}
        self.senders: dict[tuple[int, int], int] = {}
        self._sizes = sizes or {}
        self._seen: list[dict[Any, Any]] | None = None

    # What the reconciler calls.

    async def run(self, actions: Iterable[Action]) -> list[Failure]:
        failures: list[Failure] = []
        guard = self.guard
        for action in actions:
            self.actions.append(action)
            before = len(failures)
            failures += self._carry_out(action, guard)
            guard.done(action, failures[before:])
            self._check_chains()
            if self._seen is not None:
                self._seen.append(self.contents())
        return failures

    def _carry_out(self, action: Action, guard: SlotGuard) -> list[Failure]:
        refused = self.refuse(action)
        if isinstance(action, DeleteFunction) and not refused:
            try:
                suspects = guard.suspects().items()
                held = {name: {k: v for k, v in self.maps[name].items() if k in keys} for name, keys in suspects}
                guard.check(action, held)
            except OSError as error:
                refused = error.errno or errno.EIO
        found = [self._failure(action, refused)] if refused else []
        if not refused:
            found = self._do(guard.allowed(action) if isinstance(action, PutEntries) else action)
        if isinstance(action, EnsureFunction):
            if (action.function.point, action.function.slot) in self.functions:
                guard.is_filled(action.function)
            else:
                guard.is_empty(action.function, is_new=action.is_new)
                self.lacking |= set() if action.is_new else {(action.function.point, action.function.slot)}
        return found

    def _check_chains(self) -> None:
        """No packet may ever meet a chain that names a slot without a program, unless it could not be loaded again."""
        for name in CHAIN_MAPS:
            for key, value in self.maps[name].items():
                for point, slots in chains_in(name, value).items():
                    for slot in slots:
                        assert (point, slot) in self.functions.keys() | self.lacking, (
                            f"{name} {key!r} names slot {slot} of {point.label}"
                        )

    async def observe(self, namespaces: Mapping[str, str]) -> Observed:
        del namespaces
        veths = {id_: self._as_observed(veth) for id_, veth in self.veths.items()}
        maps = {name: dict(self.maps[name]) for name in catalogue.KINDS.maps}
        functions = {one.place: self._function_as_observed(one) for one in self.functions.values()}
        return Observed(await self.uplinks(), veths, maps, functions)

    async def observe_some(self, suspects: Suspects, namespaces: Mapping[str, str]) -> Observed:
        whole = await self.observe(namespaces)
        veths = {id_: veth for id_, veth in whole.veths.items() if id_ in suspects.endpoints}
        maps = {name: {k: v for k, v in whole.maps[name].items() if k in keys} for name, keys in suspects.keys.items()}
        functions = {place: one for place, one in whole.functions.items() if place in suspects.functions}
        return Observed(whole.uplinks, veths, maps, functions)

    async def check(self, programs: Sequence[UncheckedProgram]) -> Mapping[str, Verdict]:
        """Check as a compiler for which only `BAD` is wrong would."""
        self.checked += [one.key for one in programs]
        found = {}
        for one in programs:
            program = one.program
            form = "file" if program.file else "source" if program.source else "object"
            content = (
                self.files.get(program.file, b"BAD") if program.file else program.source.encode() or program.object
            )
            refusal = "line 1: BAD" if b"BAD" in content else ""
            known = hash_of(form, content)
            found[one.key] = Verdict("" if refusal else known, refusal, self.sizes_of_maps.get(known, 0))
        return found

    def map_bytes(self, contents: Iterable[str]) -> dict[str, int]:
        return {content: self.sizes_of_maps.get(content, 0) for content in contents}

    def tend(self, observed: Observed) -> None:
        self.tended += 1

    def is_transit_attached(self, ifindex: int) -> bool:
        return ifindex in self.transit

    async def uplinks(self) -> tuple[Uplink, ...]:
        return tuple(replace(one, transit=one.carrier in self.transit) for one in self.interfaces)

    async def follow_modes(self, uplinks: Sequence[Uplink]) -> None:
        self.followed = uplinks

    def clear_endpoint_counters(self, slot: int) -> None:
        self.cleared.append(slot)

    def function_faults(self, indexes: Iterable[int]) -> dict[int, int]:
        return {index: self.faults.get(index, 0) for index in indexes}

    def clear_function_counters(self, index: int) -> None:
        self.cleared_functions.append(index)

    def take_droplets(self, droplets: Droplets) -> None:
        self.peers, self.senders = dict(droplets.peers), dict(senders(droplets.resolved))

    # The rules.

    def _do(self, action: Action) -> list[Failure]:
        match action:
            case PutEntries(name, entries):
                return self._put(action, name, entries)
            case DeleteEntries(name, keys):
                for key in keys:
                    self.maps[name].pop(key, None)
            case EnsureVeth(veth):
                return self._ensure(action, veth)
            case DeleteVeth(endpoint, ifindex):
                if endpoint in self.veths and self.veths[endpoint].ifindex == ifindex:
                    del self.veths[endpoint]
            case AttachTransit(ifindex):
                self.transit.add(ifindex)
            case DetachTransit(ifindex):
                self.transit.discard(ifindex)
            case EnsureFunction() | DeleteFunction():
                self._change_function(action)
        return []

    def _change_function(self, action: EnsureFunction | DeleteFunction) -> None:
        match action:
            case EnsureFunction(function):
                self.functions[function.point, function.slot] = function
            case DeleteFunction(_, point, slot):
                self.functions.pop((point, slot), None)

    def _put(self, action: Action, name: MapName, entries: Iterable[tuple[bytes, bytes]]) -> list[Failure]:
        table, refused = self.maps[name], []
        for key, value in entries:
            assert isinstance(key, bytes)
            assert isinstance(value, bytes)
            if key not in table and len(table) >= self._sizes.get(name, 1 << 30):
                refused.append(key)
            else:
                table[key] = value
        return [self._failure(action, errno.E2BIG, tuple(refused))] if refused else []

    def _ensure(self, action: Action, veth: Veth) -> list[Failure]:
        if self.namespaces is not None and veth.namespace not in self.namespaces:
            return [self._failure(action, errno.ENOENT)]
        holders = {other.ifindex: id_ for id_, other in self.veths.items()}
        if holders.get(veth.ifindex, veth.endpoint) != veth.endpoint:
            return [self._failure(action, errno.EEXIST)]
        places = {(other.namespace, other.peer_name): id_ for id_, other in self.veths.items()}
        if places.get((veth.namespace, veth.peer_name), veth.endpoint) != veth.endpoint:
            return [self._failure(action, errno.EEXIST)]
        self.veths[veth.endpoint] = veth  # in the place of one with another index, whose removal was refused
        return []

    @staticmethod
    def _failure(action: Action, number: int, keys: tuple[bytes, ...] = ()) -> Failure:
        if isinstance(action, PutEntries) and not keys:
            keys = tuple(key for key, _ in action.entries)
        return Failure(action, number, "a fake's object", errno.errorcode[number], keys)

    @staticmethod
    def _as_observed(veth: Veth) -> ObservedVeth:
        peer = ObservedPeer(veth.peer_name, veth.peer_mac, veth.mtu, True, veth.addresses, veth.gateways)
        return ObservedVeth(veth.endpoint, veth.ifname, veth.ifindex, True, True, veth.mtu, True, peer)

    @staticmethod
    def _function_as_observed(one: Function) -> ObservedFunction:
        known = one.id, one.point, one.slot, one.content, one.configuration, one.on_fault_closed
        return ObservedFunction(*known, vpc=one.vpc)

    # What tests read.

    def contents(self) -> dict[Any, Any]:
        """Return everything as one flat dictionary."""
        flat: dict[Any, Any] = {(name, k): v for name in catalogue.KINDS.maps for k, v in self.maps[name].items()}
        flat.update({("veth", id_): veth for id_, veth in self.veths.items()})
        flat.update({("transit", ifindex): True for ifindex in self.transit})
        flat.update({("function", place): one for place, one in self.functions.items()})
        return flat

    def portrait(self) -> dict[Any, Any]:
        """Return `contents` with ids and addresses in place of indexes and slots, which depend on who came first."""
        named = function_slots(self.maps[MapName.INTERFACES], set())
        ids = {IFINDEX_BASE + slot: name for name, slot in named.items()}
        ids |= {veth.ifindex: id_ for id_, veth in self.veths.items()}
        flat: dict[Any, Any] = {}
        for key, value in self.contents().items():
            match key:
                case (MapName.ENDPOINTS, _):
                    host, ifindex, *rest = ENDPOINT.unpack(value)
                    flat[key] = (host, ids[ifindex] if ifindex else None, *rest)
                case (MapName.INTERFACES, packed):
                    vni, droplet, *rest = INTERFACE.unpack(value)
                    leaves_by = LOCAL_DROPLET.unpack(self.maps[MapName.LOCAL_DROPLETS][U32.pack(droplet)])
                    flat[MapName.INTERFACES, ids[IFINDEX_BASE + U32.unpack(packed)[0]]] = (vni, leaves_by, *rest)
                case (MapName.LOCAL_DROPLETS, _):
                    flat[MapName.LOCAL_DROPLETS, value] = True
                case (name, packed) if name in CHAIN_MAPS:
                    slot = ids[IFINDEX_BASE + U32.unpack(packed)[0]] if name is MapName.ENDPOINT_STAGES else packed
                    flat[name, slot] = self._portrait_of_chains(name, value)
                case ("function", _):
                    flat["function", value.place] = replace(value, slot=0, retained=None)
                case ("veth", _):
                    flat[key] = (value.ifname, value.namespace, value.peer_name, value.peer_mac, value.mtu)
                    flat[key] += (value.addresses, value.gateways)
                case _:
                    flat[key] = value
        return flat

    def _portrait_of_chains(self, name: MapName, value: bytes) -> Any:
        chains = {
            point: tuple(self.functions[point, slot].id for slot in slots)
            for point, slots in chains_in(name, value).items()
        }
        if name is not MapName.HOST_STAGES:
            return chains
        vnis, _, _, are_open = HOST_STAGES.unpack(value)
        found = {one.id for (point, slot), one in self.functions.items() if are_open >> index_of(point, slot) & 1}
        return chains, vnis, frozenset(found)

    def begin_watch(self) -> None:
        """From here on, remember the contents after every action."""
        self._seen = [self.contents()]

    def end_watch(self, *, of_one_step: bool = True) -> list[str]:
        """Return what was missing in between, though both ends have it, and who sent by a droplet of neither end.

        Other values may be those of neither side: an entry takes fields from several documents, which come one by one.
        So may the droplet be, unless all of it was one step; but there always is one.
        """
        assert self._seen is not None
        seen, self._seen = self._seen, None
        first, last = seen[0], seen[-1]
        things = [_things(step) for step in seen]
        missing = [f"{key}" for step in things for key in things[0] & things[-1] if key not in step]
        before, after = _senders(first), _senders(last)
        ends = before.keys() | after.keys() if of_one_step else ()
        return missing + [
            f"{sender} sends by {droplet!r}"
            for step in seen
            for sender, droplet in _senders(step).items()
            if droplet is None or (sender in ends and droplet not in (before.get(sender), after.get(sender)))
        ]


def chains_in(name: MapName, value: bytes) -> dict[Point, tuple[int, ...]]:
    """Return the slots of each chain in an entry."""
    layout, points = CHAIN_MAPS[name]
    fields = layout.unpack(value)
    return {point: slots_of(fields[index]) for index, point in points.items()}


def _things(contents: Mapping[Any, Any]) -> set[Any]:
    """Return the keys of contents, with the functions that packets meet in place of slots and chains of slots."""
    found = {key for key in contents if key[0] != "function" and key[0] not in CHAIN_MAPS}
    found |= {("function", *one.place) for key, one in contents.items() if key[0] == "function"}
    for key, value in contents.items():
        if key[0] in CHAIN_MAPS:
            for point, slots in chains_in(key[0], value).items():
                found |= {(*key, point, contents["function", (point, slot)].id) for slot in slots}
    return found


def _senders(contents: Mapping[Any, Any]) -> dict[str, bytes | None]:
    """Return the entry of `local_droplets` by which each endpoint (by its MAC) sends; None where there is none."""
    found = [INTERFACE.unpack(value) for key, value in contents.items() if key[0] is MapName.INTERFACES]
    return {one[4].hex(): contents.get((MapName.LOCAL_DROPLETS, U32.pack(one[1]))) for one in found}
