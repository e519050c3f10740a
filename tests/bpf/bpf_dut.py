"""The compiled programs on real maps, filled with one small world, and single frames run through them.

This host's droplets are D1 (192.0.2.1) and, over IPv6, S1 (2001:db8::1), both on one uplink. Endpoints A (10.0.0.1,
fd00::1) and B of VNI 7 are here; R is on D2. Network 10.0.0.0/24 with fd00::/64 is bounced by D3, 10.0.1.0/24 with
fd00:1::/64 by D4; the VPC is divided by D5. Tests give this host roles by changing maps. In a world over IPv6 the
droplets are S1 to S5 instead.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from ipaddress import ip_address
from itertools import cycle
from socket import htons
from typing import NamedTuple

import bpf_packets as p
import pytest

from agent.core.model import map_layout
from agent.core.model.endpoint_slots import IFINDEX_BASE
from agent.core.model.hooks import PROGRAMS, RESUMES, Hook
from agent.core.model.map_layout import MapName
from agent.datapath.bpf import programs
from agent.datapath.bpf import syscall as bpf
from agent.datapath.bpf.compiler import CompiledObject
from agent.datapath.bpf.generations import Generations
from agent.datapath.bpf.outcomes import ANSWERED, FORWARDED, PASSED, RECEIVED, Outcome
from agent.datapath.bpf.syscall import XdpAction

VNI = 7
D1, D2, D3, D4, D5, STRANGER = (f"192.0.2.{n}" for n in (1, 2, 3, 4, 5, 99))
S1, S2, S3, S4, S5, STRANGER6 = (f"2001:db8::{n}" for n in (1, 2, 3, 4, 5, 99))
OVER_IPV6 = {D1: S1, D2: S2, D3: S3, D4: S4, D5: S5, STRANGER: STRANGER6}
A, B, R, UNKNOWN, GATEWAY = "10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.77", "10.0.0.254"
A6, B6, R6, UNKNOWN6, GATEWAY6 = "fd00::1", "fd00::2", "fd00::3", "fd00::77", "fd00::254"
ELSEWHERE, ELSEWHERE6, NOWHERE = "10.0.1.9", "fd00:1::9", "10.9.9.9"
_LAST = {A: 1, B: 2, R: 3, ELSEWHERE: 9, A6: 1, B6: 2, R6: 3, ELSEWHERE6: 9}
MAC = {address: bytes([2, 0, 0, 0, 0, last]) for address, last in _LAST.items()}
DROPLET_MAC = {
    name: bytes([6, 0, 0, 0, 0, n]) for n, names in enumerate(OVER_IPV6.items(), 1) for name in names if n <= 5
}
SIZES = {MapName.ENDPOINT_COUNTERS: 8, MapName.DIRECT: 1024}
BUCKETS = 4096
"""ICMP_RATELIMIT_BUCKETS in bpf/constants.h."""
CACHES = {"path_caches", "hop_caches", "slot_caches"}
DECLARED = {"outcomes", "programs", "tc_programs", "local_droplets", "icmp_ratelimit", "frame_states", "scratches"}
FUNCTION_MAPS = {"endpoint_stages", "host_stages", "function_counters", "function_reasons", "function_processes"}
STAGE_TABLES = {"stage_programs", "tc_stage_programs"}
DECLARED |= CACHES | {"generations"} | FUNCTION_MAPS - {"endpoint_stages"} | STAGE_TABLES
"""Maps of the size that the programs say."""
ARRAYS = {
    "outcomes",
    "frame_states",
    "scratches",
    "icmp_ratelimit",
    "local_droplets",
    "interfaces",
    "endpoint_counters",
    "kernel_layouts",
    "generations",
    *FUNCTION_MAPS,
} | CACHES
"""Maps whose entries are always there."""
SLOT, UNCOUNTED_SLOT = 1, 200
"""A's place in `interfaces` and `endpoint_counters`, and one that only `interfaces` has."""
ARRIVAL, UNCOUNTED = IFINDEX_BASE + SLOT, IFINDEX_BASE + UNCOUNTED_SLOT
"""Interfaces that are there (see conftest.py): a test run asks for no more, and sends nothing to them."""
UPLINK, SECOND_UPLINK = 71, 72
"""Likewise, of the underlay."""
LOOPBACK = 1
MTU, PATH_MTU = 1406, 1500
"""Of endpoints, which fit with every header on every path; of every path."""
TC_VERDICTS = {0xFFFFFFFF: XdpAction.PASS, 2: XdpAction.DROP, 7: XdpAction.REDIRECT}
"""TC_ACT_UNSPEC, TC_ACT_SHOT and TC_ACT_REDIRECT (linux/pkt_cls.h) as XDP has them."""
VLAN_TAG = 0x8100
FULL_BUCKETS = [(map_layout.U32.pack(n), bytes(map_layout.TOKEN_BUCKET.size)) for n in range(BUCKETS)]
"""All of the map `icmp_ratelimit`."""
XDP_ONLY = pytest.mark.parametrize("hook", [Hook.XDP], indirect=True)
"""For a test of what XDP alone has."""
_STATE = map_layout.FRAME_STATE.size
_COUNTED = bytes(n % 256 for n in range(1, 1 + _STATE))
GARBAGE = (b"\xff" * _STATE, b"\1" * _STATE, _COUNTED, b"\2\0\0\0\5\0\0\0" * (_STATE // 8))
"""What a frame may find in `frame_states`: it must use nothing of that."""


def _unpacked(form: struct.Struct) -> tuple[int | bytes, ...]:
    """Return the values of a struct of zeros."""
    return form.unpack(bytes(form.size))


@cache
def mapped(text: str) -> bytes:
    return map_layout.mapped(p.ip(text))


def key(address: str, vni: int = VNI) -> bytes:
    return map_layout.OVERLAY_KEY.pack(vni, mapped(address))


@dataclass(frozen=True)
class Run:
    """What became of one frame."""

    verdict: XdpAction
    frame: bytes
    outcome: Outcome


def is_run_by_tc(frame: bytes) -> bool:
    """Whether a test run takes a frame for tc: bpf_prog_test_run_skb() in net/bpf/test_run.c."""
    kind = int.from_bytes(frame[12:14], "big")
    headers = {p.IPV4: 20, p.IPV6: 40}.get(kind, 1)
    return len(frame) >= 14 + headers and kind != VLAN_TAG  # which the kernel removes before tc, but not here


def expected_verdict(outcome: Outcome) -> XdpAction:
    if outcome in PASSED:
        return XdpAction.PASS
    return XdpAction.REDIRECT if outcome in ANSWERED | FORWARDED else XdpAction.DROP


def names_in_xdp(compiled: CompiledObject) -> tuple[str, ...]:
    """Return the names of a hook's programs as XDP has them."""
    return PROGRAMS[Hook.XDP] + (RESUMES[Hook.XDP] if compiled.shells else ())


class Gso(NamedTuple):
    """How a GSO packet will be cut: payload bytes of a segment, 0 for a single packet, and how many there will be.

    `noted` is their number in the frame's mark, 0 if that has none.
    """

    size: int
    packets: int
    noted: int = 0


SINGLE = Gso(0, 1)


class Dut:
    """Maps and programs of one host."""

    def __init__(self, compiled: CompiledObject, sizes: Mapping[MapName, int] = SIZES, hook: Hook = Hook.XDP) -> None:
        self.mirrored = False
        """Whether the next frames count as dropped, and go to a process."""
        self._sizes = sizes
        self.hook = hook
        self.kind = bpf.ProgramType.XDP if hook is Hook.XDP else bpf.ProgramType.SCHED_CLS
        self.jump_table = map_layout.PROGRAM_ARRAYS[hook]
        self.fds = {
            m.name: bpf.create_map(
                bpf.MapType(m.type), m.key_size, m.value_size, self._size(m.name, m.max_entries), m.flags
            )
            for m in compiled.maps
        }
        self.programs = {
            name: programs.load(p, self.fds, self.kind)
            for name, p in zip(names_in_xdp(compiled), compiled.programs, strict=True)
        }
        """By their names in XDP."""
        self.reached: set[Outcome] = set()
        self.over_ipv6 = False
        self._garbage = cycle(GARBAGE)
        self._left = False

    def close(self) -> None:
        """Free the programs and maps."""
        for fd in (*(program.fd for program in self.programs.values()), *self.fds.values()):
            os.close(fd)

    def renew(self) -> None:
        """Fill the maps as at the beginning."""
        self.mirrored = False
        self.fill()
        self.reset_icmp_ratelimit()

    def _size(self, name: str, declared: int) -> int:
        return declared if name in DECLARED else self._sizes.get(MapName(name), 256)

    def droplet(self, name: str) -> str:
        """Return the configured address of a droplet that is named by its IPv4 address."""
        return OVER_IPV6.get(name, name) if self.over_ipv6 else name

    def put(self, name: MapName, key: bytes, value: bytes) -> None:
        bpf.update(self.fds[name], key, value)
        self.start_generation(name)

    def start_generation(self, name: MapName) -> None:
        """Invalidate the copies of a map's entries, as the agent does after each change."""
        if name in map_layout.GENERATION_OF:
            Generations(self.fds[MapName.GENERATIONS]).start(map_layout.GENERATION_OF[name])

    def remove(self, name: MapName, key: bytes) -> None:
        if name is MapName.INTERFACES:
            self.put(name, key, bytes(map_layout.INTERFACE.size))
        else:
            bpf.delete(self.fds[name], key)
            self.start_generation(name)

    def entries(self, name: MapName) -> dict[bytes, bytes]:
        return dict(bpf.entries(self.fds[name]))

    def endpoint(self, address: str, host: str, slot: int | None = None, flags: int = 0, mtu: int = MTU) -> None:
        """Say where an endpoint is: on this host when it has a slot, which is said to be its own but for A's."""
        ifindex = 0 if slot is None else IFINDEX_BASE + slot
        value = map_layout.ENDPOINT.pack(mapped(self.droplet(host)), ifindex, flags, mtu, MAC[address])
        self.put(MapName.ENDPOINTS, key(address), value)
        if slot == SLOT:
            self._interface_of(flags, mtu)
        elif slot is not None:
            self.receiver(slot, MAC[address])

    def _interface_of(self, flags: int, mtu: int) -> None:
        """Give A's interface the flags and the MTU of its endpoint, as the agent does."""
        k = map_layout.U32.pack(SLOT)
        value = bpf.lookup(self.fds[MapName.INTERFACES], k, map_layout.INTERFACE.size) or b""
        pinned = map_layout.INTERFACE_PINNED if flags & map_layout.ENDPOINT_PINNED else 0
        found = map_layout.Interface(*map_layout.INTERFACE.unpack(value))._replace(flags=pinned, mtu=mtu)
        self.put(MapName.INTERFACES, k, map_layout.INTERFACE.pack(*found))

    def receiver(self, slot: int, mac: bytes, vni: int = VNI) -> None:
        """Set the Ethernet address of an interface that sends nothing."""
        receiver = map_layout.INTERFACE.pack(vni, 0, bytes(16), bytes(4), mac, 0, MTU, 0, 0)
        self.put(MapName.INTERFACES, map_layout.U32.pack(slot), receiver)

    def interface(
        self,
        ipv4: str | None = A,
        ipv6: str | None = A6,
        *,
        vni: int = VNI,
        slot: int = SLOT,
        flags: int = 0,
        mtu: int = MTU,
        dscp: int = 0,
        label: int = 0,
    ) -> None:
        """Set the endpoint that sends on an interface, and its droplet in the underlay."""
        addresses = (p.ip(ipv6 or "::"), p.ip(ipv4 or "0.0.0.0"))
        rest = (MAC[A], flags, mtu, dscp << 2, label)
        sender = map_layout.INTERFACE.pack(vni, int(self.over_ipv6), *addresses, *rest)
        self.put(MapName.INTERFACES, map_layout.U32.pack(slot), sender)

    def network(self, cidr: str, gateway: str, bouncers: tuple[str, ...], flags: int = 0) -> None:
        address, prefix = cidr.split("/")
        members = tuple(mapped(self.droplet(bouncer)) for bouncer in bouncers)
        broadcast = map_layout.broadcast_of(p.ip(address), int(prefix))
        value = map_layout.network_value(mapped(gateway), flags, members, broadcast)
        self.put(MapName.NETWORKS, map_layout.network_key(VNI, p.ip(address), int(prefix)), value)

    def own_network(self, bouncers: tuple[str, ...] = (D3,), flags: int = 0) -> None:
        """Say what is known of A's network, in both families."""
        self.network("10.0.0.0/24", GATEWAY, bouncers, flags)
        self.network("fd00::/64", GATEWAY6, bouncers, flags)

    def other_network(self, bouncers: tuple[str, ...] = (D4,), flags: int = 0) -> None:
        self.network("10.0.1.0/24", "10.0.1.254", bouncers, flags)
        self.network("fd00:1::/64", "fd00:1::254", bouncers, flags)

    def vpc(self, dividers: tuple[str, ...] = (D5,), flags: int = 0) -> None:
        members = tuple(mapped(self.droplet(divider)) for divider in dividers)
        self.put(MapName.VPCS, map_layout.U32.pack(VNI), map_layout.vpc_value(flags, members))

    def local(
        self, index: int, address: str, uplink: int = UPLINK, vlan: int = 0, leaves: int | None = None, flags: int = 0
    ) -> None:
        """Put one of this host's droplets; `uplink` 0 for none in this place."""
        if vlan and self.hook is Hook.TC:
            pytest.skip("a test run of tc shows no VLAN tags: they are metadata")
        value = map_layout.LOCAL_DROPLET.pack(
            mapped(address), uplink, uplink, uplink if leaves is None else leaves, DROPLET_MAC[D1], htons(vlan), flags
        )
        self.put(MapName.LOCAL_DROPLETS, map_layout.U32.pack(index), value)

    def known(self, name: str, flags: int = 0, host: int | None = None) -> None:
        """Put another host's droplet; by itself it is the only one of its host."""
        number = DROPLET_MAC[name][-1] if host is None else host
        self.put(MapName.DROPLETS, mapped(self.droplet(name)), map_layout.DROPLET.pack(flags, number))

    def next_hop(
        self, name: str, mtu: int = PATH_MTU, flags: int = 0, uplink: int = UPLINK, by: int | None = None
    ) -> None:
        """Put what leads to a droplet from an uplink; `by` another of this host's droplets when it is an index."""
        key = map_layout.NEXT_HOP_KEY.pack(mapped(self.droplet(name)), uplink)
        flags |= 0 if by is None else map_layout.NEXT_HOP_BY_OTHER
        self.put(MapName.NEXT_HOPS, key, map_layout.NEXT_HOP.pack(DROPLET_MAC[name], mtu, flags, by or 0))

    def no_next_hop(self, name: str, uplink: int = UPLINK) -> None:
        self.remove(MapName.NEXT_HOPS, map_layout.NEXT_HOP_KEY.pack(mapped(self.droplet(name)), uplink))

    def direct(self, address: str) -> tuple[str, int, int] | None:
        """Return the droplet's address of the path learnt for an address, and when: nanoseconds and tick."""
        found = self.entries(MapName.DIRECT).get(key(address))
        if found is None:
            return None
        host, _, *confirmed = map_layout.DIRECT_PATH.unpack(found)
        return str(ip_address(map_layout.unmapped(host))), *confirmed

    def path_flags(self, address: str) -> int:
        return int(map_layout.DIRECT_PATH.unpack(self.entries(MapName.DIRECT)[key(address)])[1])

    def path(self, address: str, host: str, tick: int, flags: int = 0) -> None:
        """Put a direct path that was confirmed at a tick."""
        self.put(MapName.DIRECT, key(address), map_layout.DIRECT_PATH.pack(mapped(self.droplet(host)), flags, 0, tick))

    def reset_icmp_ratelimit(self) -> None:
        """Fill all token buckets of ICMP errors."""
        bpf.update_batch(self.fds["icmp_ratelimit"], FULL_BUCKETS)

    def fill(self, over_ipv6: bool = False) -> None:
        """Clear every map and write the configuration that the module describes."""
        self.over_ipv6 = over_ipv6
        for name in set(self.fds) - ARRAYS - STAGE_TABLES - {self.jump_table}:
            bpf.delete_batch(self.fds[name], list(self.entries(MapName(name))))
            self.start_generation(MapName(name))
        self.fill_state(bytes(map_layout.FRAME_STATE.size))
        functions = len(self.programs) > len(PROGRAMS[Hook.XDP])
        for slot, name in map_layout.called_programs(Hook.XDP, functions=functions).items():
            self.put(self.jump_table, map_layout.U32.pack(slot), map_layout.U32.pack(self.programs[name].fd))
        for index in range(2, map_layout.MAX_LOCAL_DROPLETS):
            self.local(index, "::", 0)
        self.local(0, D1)
        self.local(1, S1)
        for local, remote in ((A, R), (A6, R6)):
            self.endpoint(local, D1, SLOT)
            self.endpoint(remote, D2)
        self.endpoint(B, D1, 2)
        self.endpoint(B6, D1, 2)
        self.own_network()
        self.other_network()
        self.vpc()
        self.interface()
        self.remove(MapName.INTERFACES, map_layout.U32.pack(UNCOUNTED_SLOT))
        for name in (D2, D3, D4, D5):
            self.known(name)
            self.next_hop(name)

    def counters(self) -> dict[Outcome, tuple[int, int]]:
        """Return packets and bytes of every outcome, summed over the CPUs."""
        found = {}
        for k, values in bpf.entries(self.fds["outcomes"]):
            numbers = [map_layout.TRAFFIC.unpack_from(values, at) for at in range(0, len(values), 16)]
            found[Outcome(map_layout.U32.unpack(k)[0])] = (sum(n[0] for n in numbers), sum(n[1] for n in numbers))
        return found

    def endpoint_traffic(self, slot: int) -> tuple[int, ...]:
        """Return the packets of one slot: sent, direct, delivered, dropped."""
        values = bpf.lookup_percpu(
            self.fds["endpoint_counters"], map_layout.U32.pack(slot), map_layout.ENDPOINT_TRAFFIC.size
        )
        cpus = [map_layout.ENDPOINT_TRAFFIC.unpack(value)[::2] for value in values]
        return tuple(map(sum, zip(*cpus, strict=True)))

    def from_underlay(self, frame: bytes, metadata: int = 0, uplink: int = UPLINK, gso: Gso = SINGLE) -> Run:
        return self._run("transit_xdp", frame, uplink, metadata, gso=gso)

    def from_endpoint(self, frame: bytes, metadata: int = 0, arrival: int = ARRIVAL, gso: Gso = SINGLE) -> Run:
        return self._run("transit_agent", frame, arrival, metadata, gso=gso)

    def leave_state(self, frame: bytes, called: int, receiver: int = 0) -> None:
        """Write what a program leaves on each CPU for the one that it calls: 1 + its slot, and who gets the frame."""
        state = list(_unpacked(map_layout.FRAME_STATE))
        parsed = sum(len(_unpacked(form)) for form in (map_layout.PACKET, map_layout.TUNNEL, map_layout.TRANSPORT))
        state[parsed : parsed + 7] = called, len(frame), 0, receiver, 0, 0, 1
        self.fill_state(map_layout.FRAME_STATE.pack(*state))

    def fill_state(self, value: bytes) -> None:
        """Write what the next frame finds on each CPU; the others find garbage."""
        self._left = True
        self.put(MapName.FRAME_STATES, map_layout.U32.pack(0), value * bpf.possible_cpus())

    def after_tail_call(self, frame: bytes, program: str = "transit_xdp", arrival: int = ARRIVAL) -> Run:
        """Run a program as if another one had called it."""
        return self._run(program, frame, arrival, 0, called=True)

    def _run(
        self,
        program: str,
        frame: bytes,
        arrival: int,
        metadata: int,
        called: bool = False,
        gso: Gso = SINGLE,
        lengths: tuple[int, ...] = (),
    ) -> Run:
        """Run one frame and hold the books: counted once as received, once under its outcome, all bytes.

        `lengths` are those that it may be counted with where they are not its own.
        """
        if not called and not self._left:
            self.fill_state(next(self._garbage))
        self._left = False
        if self.hook is Hook.TC and not is_run_by_tc(frame):
            pytest.skip("a test run of tc takes no VLAN tags and no frame that ends inside its IP header")
        before = self.counters()
        verdict, out, _ = bpf.run_program(
            self.programs[program].fd,
            bytes(metadata) + frame,
            ifindex=arrival,
            metadata=metadata,
            kind=self.kind,
            segment=gso.size,
            segments=gso.noted,
        )
        if self.kind is bpf.ProgramType.SCHED_CLS:
            verdict = TC_VERDICTS[verdict]
        after = self.counters()
        moved = {
            outcome: (now[0] - before[outcome][0], now[1] - before[outcome][1])
            for outcome, now in after.items()
            if now != before[outcome]
        }
        arrived = [moved.pop(outcome) for outcome in RECEIVED if outcome in moved]
        assert [one for one, _ in arrived] == [gso.packets], f"received {arrived}, counted {moved}"
        assert arrived[0][1] in (lengths or (len(frame),)), arrived
        assert list(moved.values()) == arrived, moved
        outcome = next(iter(moved))
        assert XdpAction(verdict) == (XdpAction.REDIRECT if self.mirrored else expected_verdict(outcome))
        self.reached.add(outcome)
        return Run(XdpAction(verdict), out, outcome)
