"""Functions as programs at stage points, beside bare programs and other chains of programs, in the same rounds.

Owns what is loaded and where it runs; `stage_lines` says what, and `stage_sections` what the numbers mean. At XDP live
frames run through the programs, at tc a packet socket sends them, as for all other lines. One set of programs and maps
serves all chains of a hook: each turn first writes its own, as the agent would.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from agent.core.model import map_layout
from agent.core.model.hooks import (
    AGENT_RESUME,
    POINTS,
    TRANSIT,
    TRANSIT_AGENT,
    TRANSIT_ERRORS,
    TRANSIT_RESUME,
    Hook,
)
from agent.core.model.map_layout import STAGE_ARRAYS, STAGE_SLOTS, U32, MapName
from agent.datapath.bpf import syscall as bpf
from agent.datapath.bpf.compiler import CompiledObject
from agent.datapath.bpf.outcomes import Outcome
from agent.datapath.functions.compile import compile_source
from agent.datapath.functions.load import Place, load, temporary_maps
from agent.datapath.functions.user_program import UserProgram
from bench import frames as f
from bench import stage_lines as lines
from bench.contestants import Contestant, Loaded, compile_all
from bench.forwarding import BARE, FRAMES, Entry, Turns, bare_entries, counter, show
from bench.lines import EGRESS, INGRESS
from bench.map_contents import SLOT, MapContents
from bench.sent_frames import REDIRECT as REDIRECT_AT_TC
from bench.sent_frames import SentEntry, name_at
from bench.stage_peers import Peers, peers
from bench.wires import TAP, WIRE, Host, attach_tc

_UNLIMITED = 1_000_000
"""Instructions that the verifier may process of one program: as many as the kernel allows."""
_WENT_ON = 2
"""The place of `went_on` in struct function_traffic."""
_FLAGS = {"to_endpoint": map_layout.INTERFACE_STAGES_TO, "from_endpoint": map_layout.INTERFACE_STAGES_FROM}


@dataclass
class Found:
    """What is ready to run; `refusal` says why the dispatcher is not among it, empty where it is.

    `instructions` are those that the verifier processed, by the program's name, and then by hook and whether functions
    are compiled in.
    """

    entries: list[Turns] = field(default_factory=list)
    refusal: str = ""
    instructions: dict[str, dict[tuple[Hook, bool], int]] = field(default_factory=dict)


class Functions:
    """Users' functions behind the programs of one hook, for packets to and from the measured endpoint."""

    def __init__(self, loaded: Loaded, compiled: CompiledObject, users: Mapping[str, UserProgram]) -> None:
        self.loaded = loaded
        self._stack = ExitStack()
        self._shells = dict(zip(POINTS, compiled.shells, strict=True))
        self._kind = bpf.ProgramType.XDP if loaded.hook is Hook.XDP else bpf.ProgramType.SCHED_CLS
        self._programs: dict[tuple[str, int, str], int] = {}
        with ExitStack() as undo:
            undo.callback(self.close)
            for point in lines.POINTS.values():
                for chain in lines.CHAINS.values():
                    for slot, name in enumerate(chain):
                        if (point, slot, name) not in self._programs:
                            self._programs[point, slot, name] = self._load(point, slot, users[name])
            undo.pop_all()

    def _load(self, point: str, slot: int, user: UserProgram) -> int:
        own = self._stack.enter_context(temporary_maps(user, b""))
        place = Place(self._shells[point], self._kind, _index(point, slot))
        descriptor = load(user, place, {**self.loaded.maps, **own}, _UNLIMITED)
        self._stack.callback(os.close, descriptor)
        return descriptor

    def use(self, point: str, names: Sequence[str]) -> None:
        """Let the endpoint's packets meet these functions at one point, and none at others."""
        chain = 0
        for slot, name in enumerate(names):
            program = U32.pack(self._programs[point, slot, name])
            self.loaded.put(STAGE_ARRAYS[self.loaded.hook], U32.pack(_index(point, slot)), program)
            chain |= slot + 1 << map_layout.CHAIN_BITS * slot
        chains = (chain, 0) if point == "from_endpoint" else (0, chain)
        self.loaded.put(MapName.ENDPOINT_STAGES, U32.pack(SLOT), map_layout.ENDPOINT_STAGES.pack(*chains))
        key, size = U32.pack(SLOT), map_layout.INTERFACE.size
        old = bpf.lookup(self.loaded.maps[MapName.INTERFACES], key, size) or bytes(size)
        interface = map_layout.Interface(*map_layout.INTERFACE.unpack(old))
        others = interface.flags & ~sum(_FLAGS.values())
        interface = interface._replace(flags=others | (_FLAGS[point] if names else 0))
        self.loaded.put(MapName.INTERFACES, key, map_layout.INTERFACE.pack(*interface))

    def went_on(self, point: str, slot: int) -> int:
        """Return how many packets a function let go on."""
        counters = self.loaded.maps[MapName.FUNCTION_COUNTERS]
        values = bpf.lookup_percpu(counters, U32.pack(_index(point, slot)), map_layout.FUNCTION_TRAFFIC.size)
        return sum(map_layout.FUNCTION_TRAFFIC.unpack(value)[_WENT_ON] for value in values)

    def instructions(self) -> dict[str, int]:
        """Return what the verifier processed of each function with the program around it, by what is shown."""
        found = {}
        for (point, slot, name), descriptor in self._programs.items():
            if not slot:
                found[f"function `{name}` at {point}"] = bpf.verified_instructions(descriptor)
        return found

    def close(self) -> None:
        """Close programs and maps of the functions."""
        self._stack.close()


def _index(point: str, slot: int) -> int:
    return POINTS.index(point) * STAGE_SLOTS + slot


@contextmanager
def contestants(folder: Path, say: Callable[[str], None]) -> Iterator[Found]:
    """Build everything that the measurement needs, and take it down again."""
    say("compiling programs and functions")
    yardsticks = [Contestant(BARE, BARE), Contestant("restore", "restore")]
    yardsticks.append(Contestant(name_at(REDIRECT_AT_TC, Hook.TC), REDIRECT_AT_TC, hook=Hook.TC))
    ours = [one for pair in lines.CONTESTANTS.values() for one in pair]
    compiled = compile_all([*yardsticks, *ours], folder)
    users = _users(folder)
    found = Found()
    with ExitStack() as stack:
        setup = _Setup(stack, compiled, users, found)
        setup.add_xdp()
        setup.add_tc()
        say("building chains of other programs")
        made: Peers = stack.enter_context(peers(folder, setup.host, say))
        found.entries += made.entries
        found.refusal = made.refusal
        yield found


def _users(folder: Path) -> dict[str, UserProgram]:
    names = dict.fromkeys(name for chain in lines.CHAINS.values() for name in chain)
    cache = folder / "objects"
    return {name: asyncio.run(compile_source(lines.source(name), cache)) for name in names}


class _Setup:
    """Adds the entries of bare programs and ours; everything goes with `stack`."""

    def __init__(
        self, stack: ExitStack, compiled: dict[str, CompiledObject], users: dict[str, UserProgram], found: Found
    ) -> None:
        self._stack, self._compiled, self._users, self._found = stack, compiled, users, found
        self._hosts = 0
        self._far_end = self._load(Contestant("restore", "restore"))

    def host(self) -> Host:
        """Return a new host whose far ends drop frames by XDP."""
        host = self._new_host()
        host.drop_at_far_ends(self._far_end.programs["transit_xdp"])
        return host

    def _new_host(self) -> Host:
        self._hosts += 1
        return self._stack.enter_context(Host(f"bench{os.getpid()}g{self._hosts}"))

    def _load(self, contestant: Contestant) -> Loaded:
        loaded = Loaded(self._compiled[contestant.name], contestant.hook)
        self._stack.callback(loaded.close)
        return loaded

    def _ours(self, hook: Hook, hosts: tuple[Host, Host]) -> tuple[Loaded, Functions]:
        """Load and fill our programs without functions and with them, each for its host."""
        loaded = []
        for contestant, host in zip(lines.CONTESTANTS[hook], hosts, strict=True):
            one = self._load(contestant)
            one.fill_as_agent(MapContents().entries(host.place))
            for program, descriptor in one.programs.items():
                self._verified(program, hook, contestant.features.functions, bpf.verified_instructions(descriptor))
            loaded.append(one)
        without, with_functions = loaded
        compiled = self._compiled[lines.CONTESTANTS[hook][1].name]
        functions = Functions(with_functions, compiled, self._users)
        self._stack.callback(functions.close)
        for shown, number in functions.instructions().items():
            self._verified(shown, hook, True, number)
        return without, functions

    def _verified(self, program: str, hook: Hook, functions: bool, number: int) -> None:
        shown = SHOWN.get(program, program)
        self._found.instructions.setdefault(shown, {})[hook, functions] = number

    def add_xdp(self) -> None:
        """Add the lines at XDP: live frames."""
        host = self.host()
        bare = self._load(Contestant(BARE, BARE))
        bare.fill(bare_entries(host.place))
        self._found.entries += [self._live(BARE, direction, host, bare) for direction in lines.POINTS]
        without, functions = self._ours(Hook.XDP, (host, host))
        for direction, point in lines.POINTS.items():
            self._found.entries.append(self._live(lines.WITHOUT, direction, host, without, outcome(without, direction)))
            for name, chain in lines.CHAINS.items():
                use = partial(functions.use, point, chain)
                ended = passed(functions, direction, chain)
                self._found.entries.append(self._live(name, direction, host, functions.loaded, ended, use))

    def _live(
        self,
        name: str,
        direction: str,
        host: Host,
        loaded: Loaded,
        ended: Callable[[], int] | None = None,
        use: Callable[[], None] = lambda: None,
    ) -> Entry:
        outer = f.in_geneve(host.mac)

        def before() -> None:
            use()
            if ended:
                show(loaded, host, outer)

        ingress = direction == INGRESS
        program, interface = (TRANSIT, WIRE) if ingress else (TRANSIT_AGENT, TAP)
        return Entry(
            name,
            direction,
            host,
            loaded.programs[program[Hook.XDP]],
            outer if ingress else f.sent_by_endpoint(),
            host.ifindex[interface],
            host.delivered if ingress else host.sent,
            FRAMES,
            before,
            ended,
        )

    def add_tc(self) -> None:
        """Add the lines at tc: frames that a packet socket sends."""
        redirect = self._load(Contestant(name_at(REDIRECT_AT_TC, Hook.TC), REDIRECT_AT_TC, hook=Hook.TC))
        hosts = [self._new_host() for _ in range(3)]
        for slot, interface in enumerate((TAP, WIRE)):
            redirect.put("leave_by", U32.pack(slot), U32.pack(hosts[0].ifindex[interface]))
        without, functions = self._ours(Hook.TC, (hosts[1], hosts[2]))
        for host, loaded in zip(hosts, (redirect, without, functions.loaded), strict=True):
            host.receive_at_far_ends()
            for interface, program in ((WIRE, TRANSIT[Hook.TC]), (TAP, TRANSIT_AGENT[Hook.TC])):
                attach_tc(host.namespace, interface, loaded.programs[program])
        for direction, point in lines.POINTS.items():
            at_tc = partial(name_at, hook=Hook.TC)
            found = [sent(at_tc(REDIRECT_AT_TC), direction, hosts[0])]
            found.append(sent(at_tc(lines.WITHOUT), direction, hosts[1], outcome(without, direction)))
            for name, chain in lines.CHAINS.items():
                use = partial(functions.use, point, chain)
                found.append(sent(at_tc(name), direction, hosts[2], passed(functions, direction, chain), use))
            self._found.entries += found


SHOWN = {
    programs[hook]: name
    for name, programs in (
        ("transit", TRANSIT),
        ("transit agent", TRANSIT_AGENT),
        ("transit errors", TRANSIT_ERRORS),
        ("transit resume", TRANSIT_RESUME),
        ("agent resume", AGENT_RESUME),
    )
    for hook in Hook
}
"""How a program is called in the table, at both hooks."""


def sent(
    name: str,
    direction: str,
    host: Host,
    ended: Callable[[], int] | None = None,
    use: Callable[[], None] = lambda: None,
) -> SentEntry:
    """Return a line of frames that a packet socket sends."""
    outer = f.in_geneve(host.mac)
    frame, arrived = (outer, host.delivered) if direction == INGRESS else (f.sent_by_endpoint(), host.sent)
    return SentEntry(name, direction, host, frame, outer, arrived, ended, use)


def outcome(loaded: Loaded, direction: str) -> Callable[[], int]:
    """Return what counts the packets that end as they should."""
    return counter(loaded, Outcome.SENT_DIRECT if direction == EGRESS else Outcome.DELIVERED)


def passed(functions: Functions, direction: str, chain: Sequence[str]) -> Callable[[], int]:
    """Return what counts packets that end as they should: the mean with those that the last function let go on."""
    ended = outcome(functions.loaded, direction)
    if not chain:
        return ended
    return lambda: (ended() + functions.went_on(lines.POINTS[direction], len(chain) - 1)) // 2
