"""Reads one agent's maps while traffic flows: counters, and entries for an address."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import NamedTuple

from agent.core.model.map_layout import (
    DIRECT_PATH,
    ENDPOINT,
    ENDPOINT_STAGES,
    ENDPOINT_TRAFFIC,
    FUNCTION_TRAFFIC,
    INTERFACE,
    INTERFACE_STAGES_FROM,
    INTERFACE_STAGES_TO,
    LOCAL_DROPLET,
    NETWORK,
    NEXT_HOP,
    NEXT_HOP_BY_OTHER,
    NEXT_HOP_KEY,
    OVERLAY_KEY,
    STAGE_REASONS,
    TRAFFIC,
    U32,
    U64,
    VPC,
    AddressSet,
    Endpoint,
    Interface,
    LocalDroplet,
    MapName,
    NextHop,
    mapped,
    network_key,
    split_set,
    unmapped,
)
from agent.datapath.bpf import syscall as bpf
from agent.datapath.bpf.maps import Map
from agent.datapath.bpf.outcomes import Outcome
from agent.datapath.bpf.ticks import seconds_since


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


class FunctionCounters(NamedTuple):
    """One function's counters, of all CPUs: struct function_traffic, and drops by the function's own reason."""

    received: Traffic
    went_on: int
    dropped: int
    sent_back: int
    sent_to: int
    handed_over: int
    faults: int
    samples: int
    sampled_ns: int
    reasons: dict[int, int]


class NetworkEntry(NamedTuple):
    """The network of an address: its gateway, flags and bouncers (16-byte addresses)."""

    gateway: bytes
    bouncers: AddressSet


class DirectPath(NamedTuple):
    """Where an address was last heard from directly (16 bytes), its flags, and how long ago in seconds."""

    host: bytes
    flags: int
    age: float


class MapQueries:
    """The open maps of one agent, with queries."""

    def __init__(self, maps: dict[MapName, Map]) -> None:
        self.maps = maps

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
        """Set one slot's counters to zero, for a slot that is reused for another endpoint."""
        zero = bytes(bpf.percpu_stride(ENDPOINT_TRAFFIC.size) * bpf.possible_cpus())
        bpf.update(self.maps[MapName.ENDPOINT_COUNTERS].descriptor, U32.pack(slot), zero)

    def read_function_counters(self, indexes: Iterable[int]) -> dict[int, FunctionCounters]:
        """Return the counters of functions by their indexes in the jump tables; empty where functions are off."""
        counters = self.maps.get(MapName.FUNCTION_COUNTERS)
        if counters is None:
            return {}
        found: dict[int, FunctionCounters] = {}
        for index in indexes:
            values = [FUNCTION_TRAFFIC.unpack(value) for value in counters.lookup_percpu(U32.pack(index))]
            total = [sum(column) for column in zip(*values, strict=True)]
            if total:
                reasons = self._read_reasons(index)
                found[index] = FunctionCounters(Traffic(*total[:2]), *total[2:], reasons)  # type: ignore[call-arg]
        return found

    def _read_reasons(self, index: int) -> dict[int, int]:
        """Return a function's drops by its own reason, those that occurred."""
        reasons = self.maps[MapName.FUNCTION_REASONS]
        keys = {reason: U32.pack(index * STAGE_REASONS + reason) for reason in range(STAGE_REASONS)}
        counts = {
            reason: sum(U64.unpack(value)[0] for value in reasons.lookup_percpu(key)) for reason, key in keys.items()
        }
        return {reason: packets for reason, packets in counts.items() if packets}

    def clear_function_counters(self, index: int) -> None:
        """Set the counters of one index to zero, for a slot that is assigned to another function."""
        counters, reasons = self.maps.get(MapName.FUNCTION_COUNTERS), self.maps.get(MapName.FUNCTION_REASONS)
        if counters is None or reasons is None:
            return
        cpus = bpf.possible_cpus()
        zero = bytes(bpf.percpu_stride(FUNCTION_TRAFFIC.size) * cpus)
        bpf.update(counters.descriptor, U32.pack(index), zero)
        none = bytes(bpf.percpu_stride(U64.size) * cpus)
        for reason in range(STAGE_REASONS):
            bpf.update(reasons.descriptor, U32.pack(index * STAGE_REASONS + reason), none)

    def lookup_endpoint(self, vni: int, address: bytes) -> Endpoint | None:
        """Return the entry of an overlay address (packed, 4 or 16 bytes), None if this droplet does not know it."""
        value = self.maps[MapName.ENDPOINTS].lookup(OVERLAY_KEY.pack(vni, mapped(address)))
        return None if value is None else Endpoint(*ENDPOINT.unpack(value))

    def lookup_interface(self, slot: int) -> Interface | None:
        """Return the sender on the interface of a slot, None if there is none."""
        value = self.maps[MapName.INTERFACES].lookup(U32.pack(slot))
        found = None if value is None else Interface(*INTERFACE.unpack(value))
        return found if found and found.vni else None

    def lookup_chains(self, slot: int) -> tuple[int, int]:
        """Return the chains that frames of an endpoint's slot run at from_endpoint and to_endpoint, 0 for none."""
        interface, stages = self.lookup_interface(slot), self.maps.get(MapName.ENDPOINT_STAGES)
        value = stages.lookup(U32.pack(slot)) if stages is not None else None
        if interface is None or value is None:
            return 0, 0
        sent, received = ENDPOINT_STAGES.unpack(value)
        flags = interface.flags
        return sent if flags & INTERFACE_STAGES_FROM else 0, received if flags & INTERFACE_STAGES_TO else 0

    def lookup_next_hop(self, droplet: int, host: bytes) -> NextHop | None:
        """Return the next hop to a host (16 bytes) from one of `local_droplets`: find_hop() in bpf/lib/next_hop.h."""
        local = self._lookup_local(droplet)
        found = self.maps[MapName.NEXT_HOPS].lookup(NEXT_HOP_KEY.pack(host, local.interface)) if local else None
        if local is None or found is None:
            return None
        hop = NextHop(*NEXT_HOP.unpack(found))
        if hop.flags & NEXT_HOP_BY_OTHER or len(unmapped(local.address)) != len(unmapped(host)):
            local = self._lookup_local(hop.droplet)
        return hop if local and len(unmapped(local.address)) == len(unmapped(host)) else None

    def _lookup_local(self, index: int) -> LocalDroplet | None:
        value = self.maps[MapName.LOCAL_DROPLETS].lookup(U32.pack(index))
        found = LocalDroplet(*LOCAL_DROPLET.unpack(value)) if value is not None else None
        return found if found and found.interface else None

    def lookup_direct(self, vni: int, address: bytes) -> DirectPath | None:
        """Return the direct path to an overlay address, fresh or not, None if none was learnt."""
        value = self.maps[MapName.DIRECT].lookup(OVERLAY_KEY.pack(vni, mapped(address)))
        if value is None:
            return None
        host, flags, confirmed, _ = DIRECT_PATH.unpack(value)
        return DirectPath(host, flags, seconds_since(confirmed))

    def lookup_network(self, vni: int, address: bytes) -> NetworkEntry | None:
        """Return the network of a VPC that contains an overlay address."""
        bits = ipaddress.ip_address(address).max_prefixlen
        value = self.maps[MapName.NETWORKS].lookup(network_key(vni, address, bits))
        if value is None:
            return None
        gateway, flags, count, _, packed = NETWORK.unpack(value)
        return NetworkEntry(gateway, AddressSet(flags, split_set(packed, count)))

    def lookup_vpc(self, vni: int) -> AddressSet | None:
        """Return a VPC's flags and dividers."""
        value = self.maps[MapName.VPCS].lookup(U32.pack(vni))
        if value is None:
            return None
        flags, count, packed = VPC.unpack(value)
        return AddressSet(flags, split_set(packed, count))


def _traffic(values: Iterable[bytes]) -> Traffic:
    pairs = [TRAFFIC.unpack(value) for value in values]
    return Traffic(sum(packets for packets, _ in pairs), sum(size for _, size in pairs))
