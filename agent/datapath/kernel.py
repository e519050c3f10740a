"""All of one agent's kernel: opened together, used by the daemon through one object, left running when it closes.

Closing closes descriptors only: pins, attached programs and interfaces stay, so that traffic flows without the agent.
`remove` is the way to leave nothing behind.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import structlog

from agent.core.layout import (
    DIRECT_PATH,
    ENDPOINT,
    ENDPOINT_TRAFFIC,
    NETWORK,
    OVERLAY_KEY,
    TRAFFIC,
    U32,
    VPC,
    AddressSet,
    Endpoint,
    MapName,
    mapped,
    network_key,
    split_set,
)
from agent.core.observed import Observed, ObservedInterface
from agent.datapath import bpf_syscall as bpf
from agent.datapath import programs
from agent.datapath.compiler import compile_programs
from agent.datapath.links import Links, TransitAgent, is_unfinished, marked_endpoint
from agent.datapath.maps import Map, MapSizes, close_maps, open_maps
from agent.datapath.neighbours import NeighbourWatch, release_all
from agent.datapath.netlink import Netlink
from agent.datapath.observe import Subject, observe, read_interface
from agent.datapath.outcomes import Outcome
from agent.datapath.pins import Pins, ensure_bpffs
from agent.datapath.transit import Transit
from agent.datapath.xdp import AttachMode, Ownership, Program, detach
from agent.executor import Executor

TRANSIT_XDP, TRANSIT_AGENT = "transit_xdp", "transit_agent"
TRANSIT_SLOT = 0
"""Where the transit agent's tail call finds transit XDP in the map `programs`."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class KernelConfig:
    """What one agent needs to know to own its part of the kernel."""

    host: str
    instance: str
    interface: str
    cache: Path
    bpffs: Path = Path("/sys/fs/bpf")
    attach_mode: AttachMode = AttachMode.AUTO
    sizes: MapSizes = field(default_factory=MapSizes)

    @property
    def pins(self) -> Pins:
        """Where its maps and programs are pinned."""
        return Pins(self.bpffs, self.instance)


class Traffic(NamedTuple):
    """Packets and bytes, of all CPUs."""

    packets: int
    bytes: int


class EndpointCounters(NamedTuple):
    """One endpoint's counters, of all CPUs; bytes are those of inner Ethernet frames."""

    sent: Traffic
    direct: Traffic
    delivered: Traffic
    dropped: Traffic


class NetworkEntry(NamedTuple):
    """The network that an address falls into: its gateway, and its flags and bouncers (16-byte addresses)."""

    gateway: bytes
    bouncers: AddressSet


class DirectPath(NamedTuple):
    """Where an address was last heard from directly (16 bytes), and how long ago in seconds."""

    host: bytes
    age: float


class Kernel:
    """One agent's maps, programs, interfaces and neighbours. Made by `Kernel.open`."""

    def __init__(
        self,
        config: KernelConfig,
        netlink: Netlink,
        maps: dict[MapName, Map],
        loaded: dict[str, programs.Program],
        ifindex: int,
    ) -> None:
        self.config = config
        self.maps = maps
        self._netlink = netlink
        self._loaded = loaded
        own = Ownership(self._owns, bpf.program_by_id)
        transit_xdp, transit_agent = (_program(loaded[name]) for name in (TRANSIT_XDP, TRANSIT_AGENT))
        map_ids = [one.info.id for one in maps.values()]
        self.links = Links(netlink, config.instance, TransitAgent(transit_agent, own, config.attach_mode))
        self.transit = Transit(netlink, transit_xdp, own, config.attach_mode, map_ids)
        self.executor = Executor(maps, self.links, self.transit)
        self.neighbours = NeighbourWatch(ifindex, maps[MapName.NEXT_HOPS])
        self._subject = Subject(
            config.interface, config.instance, maps, transit_xdp.program_id, transit_agent.program_id
        )

    @classmethod
    async def open(cls, config: KernelConfig) -> Kernel:
        """Compile where needed, open or make maps and programs. Attaches nothing, and changes no traffic.

        Raises CompileError, VerifierError, LayoutMismatchError, or OSError (ENODEV: no such interface; EPERM).
        """
        ensure_bpffs(config.bpffs)
        compiled = await compile_programs(config.cache)
        with contextlib.ExitStack() as undo:
            netlink = Netlink()
            undo.callback(netlink.close)
            link = await netlink.link(ifname=config.interface)
            if link is None:
                raise OSError(errno.ENODEV, "no such interface", config.interface)
            maps = open_maps(config.pins.maps, compiled.maps, config.sizes)
            undo.callback(close_maps, maps)
            descriptors = {name.value: one.descriptor for name, one in maps.items()}
            loaded = programs.ensure_programs(compiled, descriptors, config.pins.programs)
            undo.callback(programs.close, loaded)
            _fill_program_array(maps[MapName.PROGRAMS], loaded[TRANSIT_XDP])
            kernel = cls(config, netlink, maps, loaded, int(link["index"]))
            kernel._hash = compiled.hash
            undo.pop_all()
            return kernel

    _hash = ""

    async def close(self) -> None:
        """Close descriptors and sockets and end the neighbour watch. All that forwards traffic stays."""
        await self.neighbours.close()
        self.transit.close()
        self._netlink.close()
        programs.close(self._loaded)
        close_maps(self.maps)

    async def observe(self, namespaces: Mapping[str, str]) -> Observed:
        """Read everything back; `namespaces`: endpoint id -> its namespace. Raises ObservationError."""
        self._restore_pins()
        _fill_program_array(self.maps[MapName.PROGRAMS], self._loaded[TRANSIT_XDP])
        self.neighbours.look_again()
        return await observe(self._netlink, self._subject, namespaces)

    async def interface(self) -> ObservedInterface:
        """Read the droplet's interface only; OSError (ENODEV) when it is gone."""
        link = await self._netlink.link(ifname=self.config.interface)
        if link is None:
            raise OSError(errno.ENODEV, "no such interface", self.config.interface)
        return await read_interface(self._netlink, link, self._subject.transit_xdp)

    def is_transit_attached(self, ifindex: int) -> bool:
        """Say whether our current transit XDP is what runs on an interface now; OSError (ENODEV) when it is gone."""
        return self.transit.is_attached(ifindex)

    def read_outcomes(self) -> dict[str, Traffic]:
        """Return every outcome's packets and bytes, by its name."""
        outcomes = self.maps[MapName.OUTCOMES]
        return {one.name.lower(): _traffic(outcomes.lookup_percpu(U32.pack(one.value))) for one in Outcome}

    def read_endpoint_counters(self, slots: Iterable[int]) -> dict[int, EndpointCounters]:
        """Return the counters of endpoints by their slots; a slot beyond the map's end is left out."""
        counters = self.maps[MapName.ENDPOINT_COUNTERS]
        found: dict[int, EndpointCounters] = {}
        for slot in slots:
            values = [ENDPOINT_TRAFFIC.unpack(value) for value in counters.lookup_percpu(U32.pack(slot))]
            if values:
                total = [sum(column) for column in zip(*values, strict=True)]
                found[slot] = EndpointCounters(*(Traffic(*total[at : at + 2]) for at in range(0, 8, 2)))
        return found

    def clear_endpoint_counters(self, slot: int) -> None:
        """Set one slot's counters to zero: for a slot that passes to another endpoint."""
        zero = bytes(bpf.percpu_stride(ENDPOINT_TRAFFIC.size) * bpf.possible_cpus())
        bpf.update(self.maps[MapName.ENDPOINT_COUNTERS].descriptor, U32.pack(slot), zero)

    def lookup_endpoint(self, vni: int, address: bytes) -> Endpoint | None:
        """Return where an overlay address is (packed, 4 or 16 bytes), None when this droplet does not know."""
        value = self.maps[MapName.ENDPOINTS].lookup(OVERLAY_KEY.pack(vni, mapped(address)))
        return None if value is None else Endpoint(*ENDPOINT.unpack(value))

    def lookup_direct(self, vni: int, address: bytes) -> DirectPath | None:
        """Return the direct path to an overlay address, fresh or not, None when none was learnt."""
        value = self.maps[MapName.DIRECT].lookup(OVERLAY_KEY.pack(vni, mapped(address)))
        if value is None:
            return None
        host, confirmed = DIRECT_PATH.unpack(value)
        return DirectPath(host, max(0, time.clock_gettime_ns(time.CLOCK_MONOTONIC) - confirmed) / 1e9)

    def lookup_network(self, vni: int, address: bytes) -> NetworkEntry | None:
        """Return the network of a VPC that an overlay address falls into."""
        bits = ipaddress.ip_address(address).max_prefixlen
        value = self.maps[MapName.NETWORKS].lookup(network_key(vni, address, bits))
        if value is None:
            return None
        gateway, flags, count, packed = NETWORK.unpack(value)
        return NetworkEntry(gateway, AddressSet(flags, split_set(packed, count)))

    def lookup_vpc(self, vni: int) -> AddressSet | None:
        """Return a VPC's flags and dividers."""
        value = self.maps[MapName.VPCS].lookup(U32.pack(vni))
        if value is None:
            return None
        flags, count, packed = VPC.unpack(value)
        return AddressSet(flags, split_set(packed, count))

    def _owns(self, program_id: int) -> bool:
        """Whether an attached program is one of this instance's: pinned by it, or working on its maps."""
        if program_id in {one.id for one in self._loaded.values()} | pinned_program_ids(self.config.pins):
            return True
        descriptor = bpf.program_by_id(program_id)
        try:
            used = set(bpf.program_info(descriptor).map_ids)
        finally:
            os.close(descriptor)
        return bool(used & {one.info.id for one in self.maps.values()})

    def _restore_pins(self) -> None:
        """Pin again what somebody unpinned: without its pin, a restarted agent would begin with empty maps."""
        pins = self.config.pins
        wanted = {pins.maps / name.value: one.descriptor for name, one in self.maps.items()}
        wanted |= {pins.programs / self._hash / one.name: one.fd for one in self._loaded.values()}
        for path, descriptor in wanted.items():
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                bpf.pin(descriptor, path)
                log.warning("pin_restored", path=str(path))


async def remove(config: KernelConfig) -> None:
    """Take everything of this instance off the host: its program, interfaces, neighbours and pins.

    Needs neither compiler nor agent; what is not there is no error, what is another's stays.
    """
    own_ids = pinned_program_ids(config.pins)
    own = Ownership(own_ids.__contains__, bpf.program_by_id)
    async with Netlink() as netlink:
        for link in await netlink.links():
            if marked_endpoint(link, config.instance) is not None or is_unfinished(link):
                with contextlib.suppress(FileNotFoundError):
                    await netlink.request("link", "del", index=link["index"])
        interface = await netlink.link(ifname=config.interface)
        if interface is not None:
            try:
                await detach(netlink, interface["index"], own)
            except OSError as error:
                if error.errno != errno.EEXIST:
                    raise
                log.warning("foreign_program_kept", interface=config.interface)
            await release_all(netlink, interface["index"])
    config.pins.remove()


def pinned_program_ids(pins: Pins) -> set[int]:
    """Return the ids of all programs that this instance has pinned."""
    found = set()
    for path in pins.all_programs():
        with contextlib.suppress(FileNotFoundError):
            descriptor = bpf.open_pin(path)
            try:
                found.add(bpf.program_info(descriptor).id)
            finally:
                os.close(descriptor)
    return found


def _program(loaded: programs.Program) -> Program:
    return Program(loaded.fd, loaded.id, loaded.name)


def _fill_program_array(array: Map, transit_xdp: programs.Program) -> None:
    """Put transit XDP where the transit agent's tail call looks; reading such a map gives a program's id."""
    key = U32.pack(TRANSIT_SLOT)
    if array.lookup(key) != U32.pack(transit_xdp.id):
        bpf.update(array.descriptor, key, U32.pack(transit_xdp.fd))


def _traffic(values: Iterable[bytes]) -> Traffic:
    pairs = [TRAFFIC.unpack(value) for value in values]
    return Traffic(sum(packets for packets, _ in pairs), sum(size for _, size in pairs))
