"""Packs and unpacks the keys and values of the BPF maps, byte for byte as `bpf/structs.h` lays them out.

Opens no map. `tests/unit/test_map_layout.py` compiles the C header and compares every size and offset with this
file. Addresses have 16 bytes, IPv4 mapped into IPv6 (RFC 4291, 2.5.5.2).
"""

from __future__ import annotations

import struct
from enum import IntEnum, StrEnum
from typing import NamedTuple

from agent.core.model.hooks import AGENT_RESUME, TRANSIT, TRANSIT_ERRORS, TRANSIT_RESUME, Hook

LAYOUT_VERSION = 10
MAX_SET = 16
NETWORK_LOCAL_BOUNCER = 1
NETWORK_PINNED = 2
NETWORK_LABELS = 4
VPC_LOCAL_DIVIDER = 1
ENDPOINT_VXLAN = 1
ENDPOINT_PINNED = 2
ENDPOINT_LABELS = 4
INTERFACE_PINNED = 1
INTERFACE_STAGES_FROM = 2
INTERFACE_STAGES_TO = 4
INTERFACE_FUNCTION = 8
INTERFACE_LABELS = 16
STAGE_POINTS, STAGE_SLOTS, STAGE_REASONS = 6, 8, 16
PROCESS_QUEUES, PROCESS_REASONS = 16, 2
CHAIN_BITS = 4
PATH_PINNED = 1
PATH_LABELS = 16
DROPLET_ZERO_CHECKSUM = 1
NEXT_HOP_DOWN = 1
NEXT_HOP_ZERO_CHECKSUM = 2
NEXT_HOP_BY_OTHER = 4
MAX_LOCAL_DROPLETS = 16
WATCHED_PROGRAM = 1
WATCHED_INTERFACE = 2
FAILURE_REDIRECT = 1
FAILURE_TRANSMIT = 2
FAILURE_EXCEPTION = 3
GENERATION_NEXT_HOPS = 0
GENERATION_ENDPOINTS = 1
GENERATION_PATHS = 2
CACHED_PATHS_BITS, CACHED_HOPS_BITS, CACHED_SLOTS_BITS = 9, 8, 10
CACHED_PATHS, CACHED_HOPS, CACHED_SLOTS = 1 << CACHED_PATHS_BITS, 1 << CACHED_HOPS_BITS, 1 << CACHED_SLOTS_BITS
DIRECT_LIFETIME = 10.0
"""Seconds for which a learnt direct path is used after it was last confirmed: DIRECT_LIFETIME in `constants.h`."""
GATEWAY_MAC = bytes.fromhex("02d201e70001")
"""The Ethernet address of every network's gateway: the same on every host, so that an endpoint can move."""


class MapName(StrEnum):
    """The BPF maps, by their names in `bpf/maps.h`."""

    ENDPOINTS = "endpoints"
    INTERFACES = "interfaces"
    NETWORKS = "networks"
    VPCS = "vpcs"
    DROPLETS = "droplets"
    NEXT_HOPS = "next_hops"
    LOCAL_DROPLETS = "local_droplets"
    DIRECT = "direct"
    GENERATIONS = "generations"
    PATH_CACHES = "path_caches"
    HOP_CACHES = "hop_caches"
    SLOT_CACHES = "slot_caches"
    DETOURS = "detours"
    FRAGMENTS = "fragments"
    ICMP_RATELIMIT = "icmp_ratelimit"
    OUTCOMES = "outcomes"
    ENDPOINT_COUNTERS = "endpoint_counters"
    PROGRAMS = "programs"
    TC_PROGRAMS = "tc_programs"
    """The map `programs` of tc: a jump table holds programs of one type."""
    ENDPOINT_STAGES = "endpoint_stages"
    VPC_STAGES = "vpc_stages"
    HOST_STAGES = "host_stages"
    STAGE_PROGRAMS = "stage_programs"
    TC_STAGE_PROGRAMS = "tc_stage_programs"
    """The map `stage_programs` of tc."""
    FUNCTION_COUNTERS = "function_counters"
    FUNCTION_REASONS = "function_reasons"
    FUNCTION_PROCESSES = "function_processes"
    FRAME_STATES = "frame_states"
    SCRATCHES = "scratches"
    KERNEL_LAYOUTS = "kernel_layouts"
    WATCHED = "watched"
    FAILURES = "failures"


class ProgramSlot(IntEnum):
    """The slots of the map `programs`: enum program_slot in `bpf/slots.h`."""

    SAME_HOST = 0
    ERRORS = 1
    AGENT_RESUME = 2
    TRANSIT_RESUME = 3


STAGE_ARRAYS = {Hook.XDP: MapName.STAGE_PROGRAMS, Hook.TC: MapName.TC_STAGE_PROGRAMS}
"""The jump tables of users' functions, by hook."""
PROGRAM_ARRAYS = {Hook.XDP: MapName.PROGRAMS, Hook.TC: MapName.TC_PROGRAMS}
"""The jump tables, by hook."""


def called_programs(hook: Hook, *, functions: bool = False) -> dict[ProgramSlot, str]:
    """Return the programs of a hook that are reached by tail call, also behind users' functions if those may run."""
    called = {ProgramSlot.SAME_HOST: TRANSIT[hook], ProgramSlot.ERRORS: TRANSIT_ERRORS[hook]}
    if functions:
        called |= {ProgramSlot.AGENT_RESUME: AGENT_RESUME[hook], ProgramSlot.TRANSIT_RESUME: TRANSIT_RESUME[hook]}
    return called


GENERATION_OF = {
    MapName.NEXT_HOPS: GENERATION_NEXT_HOPS,
    MapName.ENDPOINTS: GENERATION_ENDPOINTS,
    MapName.DIRECT: GENERATION_PATHS,
}
"""The maps that the programs copy entries from, with their entries in the map `generations`."""

ENDPOINT_STAGES = struct.Struct("=II")
"""struct endpoint_stages { u32 from_endpoint, to_endpoint }."""
VPC_STAGES = struct.Struct("=III4x")
"""struct vpc_stages { u32 forwarded, from_underlay, dropped; pad }."""
HOST_STAGES = struct.Struct("=QIIQ")
"""struct host_stages { u64 vnis; u32 passed, dropped; u64 open }."""
FUNCTION_TRAFFIC = struct.Struct("=10Q")
"""struct function_traffic { traffic received; u64 went_on, dropped, sent_back, sent_to, handed_over, faults, samples,
sampled_ns }."""
FUNCTION_PROCESS = struct.Struct(f"={4 * PROCESS_QUEUES}sIIII{8 * PROCESS_REASONS}s")
"""struct function_process { u32 ifindex[PROCESS_QUEUES], lane, longest, flags, queues; u64 reasons[PROCESS_REASONS]
}."""
PROCESS_SERVED, PROCESS_ANSWERS_TC, PROCESS_HANDED = 1, 2, 4
ALL_REASONS = (1 << 64 * PROCESS_REASONS) - 1
OVERLAY_KEY = struct.Struct("=I16s")
"""struct overlay_key { u32 vni; address }."""
ENDPOINT = struct.Struct("=16sIHH6s2x")
"""struct endpoint { address host; u32 ifindex; u16 flags; u16 mtu; u8 mac[6]; pad[2] }."""
INTERFACE = struct.Struct("=II16s4s6sHHBxI")
"""struct interface { u32 vni; u32 droplet; address ipv6; be32 ipv4; u8 mac[6]; u16 flags; u16 mtu; u8 tos; pad;
u32 label }."""
NETWORK_KEY = struct.Struct("=II16s")
"""struct network_key { u32 prefixlen; u32 vni; address }."""
NETWORK = struct.Struct(f"=16sII4s4x{16 * MAX_SET}s")
"""struct network { address gateway; u32 flags; u32 count; be32 broadcast; pad; address bouncers[MAX_SET] }."""
VPC = struct.Struct(f"=II{16 * MAX_SET}s")
"""struct vpc { u32 flags; u32 count; address dividers[MAX_SET] }."""
DROPLET = struct.Struct("=II")
"""struct droplet { u32 flags; u32 host }."""
NEXT_HOP_KEY = struct.Struct("=16sI")
"""struct next_hop_key { address; u32 interface }."""
NEXT_HOP = struct.Struct("=6sHHH")
"""struct next_hop { u8 mac[6]; u16 mtu; u16 flags; u16 droplet }."""
LOCAL_DROPLET = struct.Struct("=16sIII6sHI")
"""struct local_droplet { address; u32 interface, rx_ifindex, tx_ifindex; u8 mac[6]; be16 vlan; u32 flags }."""
DIRECT_PATH = struct.Struct("=16sQQQ")
"""struct direct_path { address host; u64 flags; u64 confirmed_ns; u64 confirmed_tick }."""
CACHED_PATH = struct.Struct("=I16sI16sQQ")
"""struct cached_path { overlay_key key; u32 flags; address host; u64 generation; u64 expires_tick }."""
PATH_CACHE = struct.Struct(f"={CACHED_PATHS * CACHED_PATH.size}s")
"""struct path_cache { cached_path path[CACHED_PATHS] }. The agent neither reads nor writes the caches."""
CACHED_HOP = struct.Struct("=16sI6sHHHQQ")
"""struct cached_hop { next_hop_key key; next_hop hop; u64 generation; u64 expires_tick }."""
HOP_CACHE = struct.Struct(f"={CACHED_HOPS * CACHED_HOP.size}s")
"""struct hop_cache { cached_hop hop[CACHED_HOPS] }."""
CACHED_SLOT = struct.Struct("=QQI4x")
"""struct cached_slot { u64 generation; u64 expires_tick; u32 slot; pad }."""
SLOT_CACHE = struct.Struct(f"={CACHED_SLOTS * CACHED_SLOT.size}s")
"""struct slot_cache { cached_slot slot[CACHED_SLOTS] }."""
DETOUR_KEY = struct.Struct("=16sI16s")
"""struct detour_key { address from; overlay_key to }."""
DETOUR = struct.Struct("=16sQQ")
"""struct detour { address misdirected_by; u64 attempt; u64 tick }."""
FRAGMENT_KEY = struct.Struct("=I4s16sI")
"""struct fragment_key { u32 slot; be32 identity; address to; u32 protocol }."""
FRAGMENT = struct.Struct("=I")
"""struct fragment { u32 flow }."""
TOKEN_BUCKET = struct.Struct("=QQ")
"""struct token_bucket { u64 tick; u64 used }."""
TRAFFIC = struct.Struct("=QQ")
"""struct traffic { u64 packets; u64 bytes }."""
ENDPOINT_TRAFFIC = struct.Struct("=8Q")
"""struct endpoint_traffic { traffic sent, direct, delivered, dropped }."""
PACKET = struct.Struct("=I16s4xI16sHHBB6x")
"""struct packet { overlay_key from; pad; overlay_key to; u16 length; u16 kind; u8 tos; u8 ttl; pad[6] }."""
TUNNEL = struct.Struct("=16sII16sHHHHHBBBBBBH2xI")
"""struct tunnel { next_hop_key peer; u32 vni; address origin; u16 headers, length, probe, mtu; be16 source_port;
u8 tos, ttl, bounces, flags, rts, attempt; u16 longest; pad[2]; u32 label }."""
TRANSPORT = struct.Struct("=II4sBBBx")
"""struct transport { u32 offset; u32 protocol; be32 identity; u8 fragment, later, extended; pad }."""
OUTER = struct.Struct("=16sQHH2sBx")
"""struct outer { address to; u64 pseudo; u16 udp; u16 ip_payload; be16 vlan; u8 summed; u8 unsure }."""
OPTIONS = struct.Struct("=HHHH")
"""struct options { u16 rts; u16 probe; u16 returned; u16 label }."""
FRAME_STATE = struct.Struct(
    f"={PACKET.format[1:]}{TUNNEL.format[1:]}{TRANSPORT.format[1:]}IIIIHB3xH{OUTER.format[1:]}{OPTIONS.format[1:]}IIIIIBBBBII80s"
)
"""struct frame_state { packet; tunnel; transport; u32 called, length, reason, receiver; u16 local; u8 received_flags;
pad[3]; u16 packets; outer; options; u32 chain, outcome, flow,
changed, sends; u8 on_path, processed, sent, handed; u32 rx_ifindex, answers; u64 stage[STAGE_WORDS] }. The agent
neither reads nor writes it."""
SCRATCH = struct.Struct("=2048s")
"""struct scratch { u8 bytes[2048] }. The agent neither reads nor writes it."""
KERNEL_LAYOUT = struct.Struct("=Q5I4x")
"""struct kernel_layout { u64 cookie; u32 device_ifindex, device_net, net_cookie, program_aux, aux_id; pad }."""
WATCHED_KEY = struct.Struct("=II")
"""struct watched_key { u32 kind; u32 id }."""
WATCHED_MARK = struct.Struct("=I")
"""struct watched_mark { u32 present }."""
FAILURE_KEY = struct.Struct("=III")
"""struct failure_key { u32 kind; u32 error; u32 ifindex }."""
FAILURE_COUNT = struct.Struct("=Q")
"""struct failure_count { u64 frames }."""
GENERATION = struct.Struct("=Q56x")
"""struct generation { u64 number; pad[7] }."""
U32 = struct.Struct("=I")
U64 = struct.Struct("=Q")
"""A VNI or an array's index as a key."""

V4_MAPPED = bytes(10) + b"\xff\xff"


class FunctionProcess(NamedTuple):
    """One value of the map `function_processes`, unpacked: an interface for each queue; `reasons` is a mask."""

    ifindexes: tuple[int, ...]
    lane: int
    longest: int
    flags: int
    reasons: int


_WORD = (1 << 64) - 1
NO_PROCESS = FunctionProcess((), 0, 0, 0, 0)


def pack_function_process(one: FunctionProcess) -> bytes:
    """Pack a process of at most PROCESS_QUEUES queues."""
    places = struct.pack(f"={PROCESS_QUEUES}I", *one.ifindexes, *[0] * (PROCESS_QUEUES - len(one.ifindexes)))
    words = [one.reasons >> 64 * word & _WORD for word in range(PROCESS_REASONS)]
    reasons = struct.pack(f"={PROCESS_REASONS}Q", *words)
    return FUNCTION_PROCESS.pack(places, one.lane, one.longest, one.flags, len(one.ifindexes), reasons)


def unpack_function_process(value: bytes) -> FunctionProcess:
    """Unpack a value of `function_processes`."""
    places, lane, longest, flags, queues, reasons = FUNCTION_PROCESS.unpack(value)
    found = struct.unpack(f"={PROCESS_QUEUES}I", places)[:queues]
    words = struct.unpack(f"={PROCESS_REASONS}Q", reasons)
    return FunctionProcess(found, lane, longest, flags, sum(one << 64 * word for word, one in enumerate(words)))


class Endpoint(NamedTuple):
    """One value of the map `endpoints`, unpacked."""

    host: bytes
    ifindex: int
    flags: int
    mtu: int
    mac: bytes


class Interface(NamedTuple):
    """One value of the map `interfaces`, unpacked."""

    vni: int
    droplet: int
    ipv6: bytes
    ipv4: bytes
    mac: bytes
    flags: int
    mtu: int
    tos: int
    label: int


class LocalDroplet(NamedTuple):
    """One value of the map `local_droplets`, unpacked; `vlan` in network byte order, as in the map."""

    address: bytes
    interface: int
    ingress: int
    egress: int
    mac: bytes
    vlan: int
    flags: int


class NextHop(NamedTuple):
    """One value of the map `next_hops`, unpacked."""

    mac: bytes
    mtu: int
    flags: int
    droplet: int


class AddressSet(NamedTuple):
    """Bouncers or dividers as a map value holds them."""

    flags: int
    members: tuple[bytes, ...]


def mapped(packed: bytes) -> bytes:
    """Return 16 bytes for a packed address of 4 or 16 bytes."""
    return V4_MAPPED + packed if len(packed) == 4 else packed


def unmapped(address: bytes) -> bytes:
    """Return the packed address of 4 or 16 bytes that `mapped` came from."""
    return address[12:] if address[:12] == V4_MAPPED else address


def network_key(vni: int, address: bytes, prefix: int) -> bytes:
    """Pack a CIDR of one VPC: `address` of 4 or 16 bytes, `prefix` in bits of that address."""
    family_bits = 96 if len(address) == 4 else 0
    return NETWORK_KEY.pack(32 + family_bits + prefix, vni, mapped(address))


def broadcast_of(address: bytes, prefix: int) -> bytes:
    """Return the IPv4 broadcast address of a CIDR, packed; zeros where it has none (IPv6; RFC 3021: /31 and /32)."""
    if len(address) != 4 or prefix > 30:
        return bytes(4)
    return (int.from_bytes(address, "big") | 0xFFFFFFFF >> prefix).to_bytes(4, "big")


def network_value(gateway: bytes, flags: int, bouncers: tuple[bytes, ...], broadcast: bytes = bytes(4)) -> bytes:
    """Pack a network: gateway and bouncers (at most `MAX_SET`) of 16 bytes, `broadcast` of 4, zeros for none."""
    return NETWORK.pack(gateway, flags, len(bouncers), broadcast, b"".join(bouncers))


def vpc_value(flags: int, dividers: tuple[bytes, ...]) -> bytes:
    """Pack a VPC: dividers as 16-byte addresses, at most `MAX_SET` of them."""
    return VPC.pack(flags, len(dividers), b"".join(dividers))


def split_set(packed: bytes, count: int) -> tuple[bytes, ...]:
    """Return the first `count` addresses of a packed set."""
    return tuple(packed[i * 16 : i * 16 + 16] for i in range(count))
