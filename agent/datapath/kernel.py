"""All kernel objects of one agent: opened together, used by the daemon through one object, left in place on close.

Closing only closes descriptors: pins, attached programs and interfaces stay, so that traffic flows without the agent.
`agent.datapath.uninstall` removes everything.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import structlog

from agent.core.faults.log_once import LogOnce
from agent.core.functions.programs import UncheckedProgram
from agent.core.model.desired_entries import FunctionPlace
from agent.core.model.features import Features, Verdict
from agent.core.model.hooks import TRANSIT, TRANSIT_AGENT, Hook
from agent.core.model.map_layout import MapName
from agent.core.model.process_bindings import Bindings
from agent.core.model.uplinks import Uplink
from agent.core.plan.diff import Suspects
from agent.core.plan.observed import Observed
from agent.core.plan.remedies import Step
from agent.core.uplinks.hook_choice import HookSettings, endpoint_hook, loaded_hooks
from agent.core.uplinks.linux_version import version_of
from agent.datapath.attach.attach_modes import AttachModes
from agent.datapath.attach.tc import TcIngress
from agent.datapath.attach.transit import Transit
from agent.datapath.attach.transit_agent import TransitAgent
from agent.datapath.attach.transit_xdp import TransitXdp
from agent.datapath.attach.tunnel_gro import TunnelGro
from agent.datapath.attach.uplinks import names_of, read_uplinks
from agent.datapath.attach.xdp import AttachMode, ProgramOwnership
from agent.datapath.attach.xdp_features import FeatureEvents
from agent.datapath.attached_programs import find, foreign_users, is_ours, other_instance, owner_of
from agent.datapath.bpf import programs
from agent.datapath.bpf import syscall as bpf
from agent.datapath.bpf.compiler import EVERYTHING
from agent.datapath.bpf.lost_frame_counter import LostFrameCounter
from agent.datapath.bpf.map_queries import MapQueries
from agent.datapath.bpf.maps import MapSizes
from agent.datapath.bpf.pin_places import pinned_elsewhere
from agent.datapath.bpf.pins import Pins, ensure_bpffs, pinned_program_ids
from agent.datapath.executor import Executor
from agent.datapath.foreign_programs import foreign_faults
from agent.datapath.function_loading import FunctionConfig, functions_of
from agent.datapath.loading import Loaded, load_hooks
from agent.datapath.mode_follower import ModeFollower
from agent.datapath.net.device_statistics import unsent_frames
from agent.datapath.net.ethtool import leave_tags_on
from agent.datapath.net.interface_query import InterfaceQuery
from agent.datapath.net.link_query import LinkQuery
from agent.datapath.net.namespaces import open_control_socket, open_netlink_socket
from agent.datapath.net.netlink import DUMP_ATTEMPTS, DUMP_PAUSE, Netlink
from agent.datapath.nexthop.neighbours import NeighbourWatch
from agent.datapath.observe import Subject, observe, observe_some
from agent.datapath.process_functions import ProcessFunctions, ProcessHost
from agent.datapath.veth.pairs import Links
from agent.errors import kernel_step
from protocol.status import Fault, ServedFunction

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class KernelConfig:
    """The settings that one agent needs for its part of the kernel."""

    host: str
    instance: str
    interfaces: tuple[str, ...]
    cache: Path
    bpffs: Path = Path("/sys/fs/bpf")
    attach_mode: AttachMode = AttachMode.AUTO
    hooks: HookSettings = field(default_factory=HookSettings)
    count_lost_frames: bool = True
    sizes: MapSizes = field(default_factory=MapSizes)
    features: Features = EVERYTHING
    """The features without those that the uplinks decide: see `with_uplinks`."""
    functions: FunctionConfig = field(default_factory=FunctionConfig)

    @property
    def pins(self) -> Pins:
        """Where its maps and programs are pinned."""
        return Pins(self.bpffs, self.instance)


def with_uplinks(features: Features, uplinks: Sequence[Uplink]) -> Features:
    """Return the features that the programs need for these uplinks."""
    return replace(features, vlan_tags=any(uplink.vlan for uplink in uplinks))


class Kernel:
    """One agent's maps, programs, interfaces and neighbours. Made by `Kernel.open`."""

    def __init__(self, config: KernelConfig, netlink: Netlink, loaded: Loaded, uplinks: tuple[Uplink, ...]) -> None:
        self.maps = loaded.maps
        self.queries = MapQueries(loaded.maps)
        """Reads counters, and entries for an address, while traffic flows."""
        self.config = config
        self._netlink = netlink
        self._loaded = loaded
        self._old_pins = LogOnce()
        self.foreign: dict[int, Fault] = {}
        """A fault for each interface with another owner's program in the place of ours, by ifindex, as last read."""
        self.features = with_uplinks(config.features, uplinks)
        """The features that the programs are compiled with."""
        self.modes = AttachModes(config.attach_mode)
        """The mode in which programs run at XDP, as far as the uplinks support it."""
        self.bindings = Bindings()
        """The processes that stand for endpoints' namespaces."""
        version = version_of(os.uname().release)
        self.hook_choice = endpoint_hook(config.hooks, version, [one.gso for one in uplinks])
        """The hook of this host's endpoints, and why."""
        pins = config.pins
        own = ProgramOwnership(
            *(self._owns, bpf.program_by_id, partial(owner_of, pins=pins), partial(other_instance, pins=pins))
        )
        self._query = LinkQuery()
        tc = TcIngress(netlink, self._query, own)
        self.agents = TransitAgent(
            *(netlink, tc, loaded.attachable(TRANSIT_AGENT), own, self.modes, self.endpoint_hook)
        )
        """Attaches the programs for frames of endpoints."""
        self.links = Links(netlink, config.instance, self.agents, self.bindings)
        transit = loaded.attachable(TRANSIT)
        xdp = TransitXdp(
            *(netlink, transit[Hook.XDP], own, self.modes, self._query, self._load_for_card, self._leave_tags_on)
        )
        map_ids = [one.info.id for one in loaded.maps.values()]
        self.transit = Transit(xdp, tc, transit, map_ids, config.hooks, version)
        self.transit.take(uplinks)
        self._gro = TunnelGro(netlink, config.instance, config.features)
        self._follower = ModeFollower(netlink, self.modes, self.transit, self.links, self._owns, uplinks)
        self._functions = self._compose_functions(tc)
        self.function_reader = self._functions.reader if self._functions is not None else None
        """Reads functions' maps and programs for queries; None where functions are off."""
        self.executor = Executor(loaded.maps, self.links, self.transit, self._follower, self._functions)
        self.neighbours = NeighbourWatch(uplinks, loaded.maps[MapName.NEXT_HOPS])
        self._feature_events: FeatureEvents | None = None
        compiled = loaded.hooks[Hook.XDP].compiled
        self.failures = LostFrameCounter(compiled, loaded.maps, config.pins, config.count_lost_frames)
        """Counts frames that are dropped after a verdict of the programs."""
        self._subject = Subject(
            *(config.interfaces, config.instance, loaded.maps, self.transit.is_current, self.agents.is_right),
            functions=self._functions,
        )

    def _compose_functions(self, tc: TcIngress) -> ProcessFunctions | None:
        config = self.config
        found = functions_of(self._loaded, config.pins, config.instance, config.cache, config.functions)
        if found is None:
            return None
        folder, hang = config.functions.sockets, config.functions.hang
        host = ProcessHost(self._netlink, tc, self._loaded, config.instance, self.endpoint_hook, folder, hang)
        return ProcessFunctions(found, host)

    def process_faults(self) -> list[Fault]:
        """Return a fault for each function that should be a process and is none."""
        return self._functions.faults() if self._functions is not None else []

    def served_functions(self) -> Mapping[FunctionPlace, ServedFunction]:
        """Return the functions whose packets reach a process, with its queues."""
        return self._functions.served() if self._functions is not None else {}

    @classmethod
    async def open(cls, config: KernelConfig) -> Kernel:
        """Compile if necessary, open or create maps and programs. Attaches nothing, and does not affect traffic.

        Raises CompileError, LayoutMismatchError, OperatorError (with the verifier's log), or OSError (ENODEV, EPERM).
        """
        ensure_bpffs(config.bpffs)
        with contextlib.ExitStack() as undo:
            netlink = Netlink()
            undo.callback(netlink.close)
            uplinks = await read_uplinks(netlink, config.interfaces)
            left = await find(netlink, config.pins, config.interfaces)
            features = with_uplinks(config.features, uplinks)
            hooks = loaded_hooks(config.hooks, version_of(os.uname().release))
            loaded = await load_hooks(
                *(hooks, features, config.cache, config.pins, config.sizes, config.instance, left)
            )
            undo.callback(loaded.close)
            kernel = cls(config, netlink, loaded, uplinks)
            undo.pop_all()
        try:
            await kernel._follower.look()
        except BaseException:
            await kernel.close()
            raise
        return kernel

    @property
    def endpoint_hook(self) -> Hook:
        """Where the programs of endpoints are attached."""
        return self.hook_choice.hook

    async def start(self) -> None:
        """Begin to follow neighbours and the uplinks' XDP features, and move programs to the mode that they allow."""
        if elsewhere := pinned_elsewhere(self.config.pins, {one.info.id for one in self.maps.values()}):
            log.warning("pins_elsewhere", paths=[str(path) for path in elsewhere], bpffs=str(self.config.bpffs))
        await self.neighbours.start()
        self._feature_events = await FeatureEvents.start(self._indexes, self.neighbours.uplinks_changed.set)
        with contextlib.closing(InterfaceQuery(open_netlink_socket())) as query:
            await self._gro.remove_others(await query.links(DUMP_ATTEMPTS, DUMP_PAUSE))
        await self._gro.ensure(self.transit.needs_gro)
        await self._follower.follow()

    async def close(self) -> None:
        """Close descriptors and sockets and end the neighbour watch. Everything that forwards traffic stays."""
        if self._functions is not None:
            await self._functions.close()
        if self._feature_events is not None:
            self._feature_events.close()
        await self.neighbours.close()
        self.links.name_watch.close()
        self._query.close()
        self._follower.close()
        self._netlink.close()
        self._loaded.close()

    async def observe(self, namespaces: Mapping[str, str]) -> Observed:
        """Read everything back, and change nothing; `namespaces`: endpoint id -> its own. Raises ObservationError."""
        return await observe(self._netlink, self._subject, namespaces)

    async def observe_some(self, suspects: Suspects, namespaces: Mapping[str, str]) -> Observed:
        """Read a few things back, and the uplinks; otherwise as `observe`."""
        return await observe_some(self._netlink, self._subject, namespaces, suspects)

    async def check(self, programs: Sequence[UncheckedProgram]) -> Mapping[str, Verdict]:
        """Return what the compiler and the verifier say of functions' programs, by key; nothing is installed."""
        return await self._functions.check(programs) if self._functions is not None else {}

    def map_bytes(self, contents: Iterable[str]) -> Mapping[str, int]:
        """Return what the maps of programs that were checked before take, by content, as far as it is known."""
        return self._functions.map_bytes(contents) if self._functions is not None else {}

    def tend(self, observed: Observed) -> None:
        """Maintain kernel objects of no document; `observed` is the kernel as it was just read.

        The jump table is filled for tail calls. Next hops are read again. Removed pins are restored, and those of older
        programs are removed once the current ones run everywhere. Raises OperatorError if pins cannot be maintained,
        after all else was done, and any other OSError.
        """
        pins = self.config.pins
        self._loaded.fill_program_arrays()
        self._take(observed.uplinks)
        self.neighbours.rescan()
        self.foreign = foreign_faults(observed, pins, self._owns, self.transit, self.agents)
        outdated = any(self.transit.is_outdated(one.carrier) for one in observed.uplinks)
        with kernel_step(Step.PIN, f"maps and programs in {pins.bpffs}"):
            if ensure_bpffs(pins.bpffs):
                log.warning("bpf_file_system_remounted", path=str(pins.bpffs))
            self._loaded.restore_pins(pins)
            self._count_failures()
            if not outdated:
                self._forget_old_pins(observed)

    def _forget_old_pins(self, observed: Observed) -> None:
        """Remove the pins of older programs if the current ones run everywhere."""
        pins = self.config.pins
        if any(one.transit for one in observed.uplinks) and all(veth.transit_agent for veth in observed.veths.values()):
            kept = pins.forget_others(self._loaded.contents, self._loaded.maps, partial(foreign_users, pins=pins))
            if kept and self._old_pins.is_new("pins", str(kept)):
                log.warning("old_pins_kept", reasons={str(path): reason for path, reason in kept.items()})

    def clear_endpoint_counters(self, slot: int) -> None:
        """Set one slot's counters to zero, for a slot that is reused for another endpoint."""
        self.queries.clear_endpoint_counters(slot)

    def function_faults(self, indexes: Iterable[int]) -> dict[int, int]:
        """Return the faults of functions by their indexes in the jump tables, since their slots were assigned."""
        return {index: one.faults for index, one in self.queries.read_function_counters(indexes).items()}

    def clear_function_counters(self, index: int) -> None:
        """Set the counters of one index in the jump tables to zero, for a slot that is assigned anew."""
        self.queries.clear_function_counters(index)

    async def uplinks(self) -> tuple[Uplink, ...]:
        """Read the uplinks, and change nothing; OSError (ENODEV) when one is gone."""
        return await read_uplinks(self._netlink, self.config.interfaces, self.transit.is_current)

    async def follow_modes(self, uplinks: Sequence[Uplink]) -> None:
        """Move all attached programs to the mode that these uplinks allow; OSError (ENODEV) if one is gone.

        Their hardware is also set to leave VLAN tags in frames where the programs need these.
        """
        self._take(uplinks)
        await self._gro.ensure(self.transit.needs_gro)
        await self._follower.follow()

    def read_device_losses(self) -> dict[str, int]:
        """Return how many redirected frames the uplinks' drivers report as not sent, by uplink, if any."""
        found = {}
        for uplink in self._uplinks:
            with contextlib.suppress(OSError):  # it is gone
                (name,) = names_of([uplink.egress])
                if frames := unsent_frames(name):
                    found[uplink.name] = frames
        return found

    def _count_failures(self) -> None:
        """Count frames that the kernel drops after a verdict of this instance's programs, including its older ones."""
        own = pinned_program_ids(self.config.pins) | self.transit.ids
        self.failures.tend(own, self._indexes())

    def _indexes(self) -> set[int]:
        """Return the interfaces that the uplinks' frames arrive on and leave by, including members of bonds."""
        return {one for uplink in self._uplinks for one in (uplink.carrier, *uplink.ingress)}

    @property
    def _uplinks(self) -> Sequence[Uplink]:
        return self._follower.uplinks

    def _take(self, uplinks: Sequence[Uplink]) -> None:
        self._follower.uplinks = uplinks
        self.transit.take(uplinks)
        at_xdp = [uplink for uplink in uplinks if self.transit.hook_of(uplink.carrier) is Hook.XDP]
        for carrier in {uplink.carrier for uplink in at_xdp if uplink.transit}:
            with contextlib.suppress(OSError):  # already reported on attaching
                self._leave_tags_on(carrier)

    def _leave_tags_on(self, carrier: int) -> None:
        """Make the hardware leave VLAN tags in frames if the interface carries a VLAN uplink."""
        indexes = {
            one for uplink in self._uplinks if uplink.vlan and uplink.carrier == carrier for one in uplink.ingress
        }
        if indexes:
            with open_control_socket() as control:
                for name in names_of(sorted(indexes)):
                    leave_tags_on(control, name)

    def is_transit_attached(self, ifindex: int) -> bool:
        """Return whether our current transit XDP runs on an interface now; OSError (ENODEV) if it is gone."""
        return self.transit.is_attached(ifindex)

    def transit_modes(self) -> dict[str, str]:
        """Return how transit XDP runs for each uplink now, by name: `native`, `generic`, `offload` or `none`."""
        return {uplink.name: self.transit.mode(uplink.carrier) for uplink in self._uplinks}

    def transit_hooks(self) -> dict[str, str]:
        """Return where the program for each uplink runs now, by name: `xdp`, `tcx`, `clsact` or `none`."""
        return {uplink.name: self.transit.hook(uplink.carrier) for uplink in self._uplinks}

    def _owns(self, program_id: int) -> bool:
        """Return whether an attached program is one of this instance's: loaded by this agent, or as `is_ours`."""
        if program_id in self._loaded.ids or program_id in self.transit.ids:
            return True
        return is_ours(program_id, self.config.pins)

    def _load_for_card(self, ifindex: int) -> int:
        compiled, maps = self._loaded.hooks[Hook.XDP].compiled, self._loaded.descriptors()
        return programs.load_for_card(compiled, TRANSIT[Hook.XDP], maps, ifindex, self.config.instance)
