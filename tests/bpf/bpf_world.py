"""The compiled programs on real maps, filled with one small world, and single frames run through them.

This droplet D1 (192.0.2.1) holds endpoints A (10.0.0.1) and B (10.0.0.2) of VNI 7; R (10.0.0.3) is on D2. Network
10.0.0.0/24 is bounced by D3, 10.0.1.0/24 by D4; the VPC is divided by D5. Tests give D1 roles by changing maps.
"""

from __future__ import annotations

from dataclasses import dataclass
from socket import inet_ntoa

import bpf_packets as p

from agent.core import layout
from agent.core.layout import MapName
from agent.core.realize import IFINDEX_BASE
from agent.datapath import bpf_syscall as bpf
from agent.datapath import programs
from agent.datapath.bpf_syscall import XdpAction
from agent.datapath.compiler import CompiledObject
from agent.datapath.outcomes import ANSWERED, FORWARDED, PASSED, RECEIVED, Outcome

VNI = 7
D1, D2, D3, D4, D5, STRANGER = (f"192.0.2.{n}" for n in (1, 2, 3, 4, 5, 99))
A, B, R, GATEWAY = "10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.254"
ELSEWHERE = "10.0.1.9"
MAC = {address: bytes([2, 0, 0, 0, 0, int(address.rsplit(".", 1)[1])]) for address in (A, B, R, ELSEWHERE)}
DROPLET_MAC = {address: bytes([6, 0, 0, 0, 0, int(address.rsplit(".", 1)[1])]) for address in (D1, D2, D3, D4, D5)}
SIZES = {MapName.ENDPOINT_COUNTERS: 8, MapName.DIRECT: 1024}
SLOT, UNCOUNTED_SLOT = 1, 200
"""A's place in `interfaces` and `endpoint_counters`, and one that only `interfaces` has."""
ARRIVAL, UNCOUNTED = IFINDEX_BASE + SLOT, IFINDEX_BASE + UNCOUNTED_SLOT
"""Interfaces that are there (see conftest.py): a test run asks for no more, and sends nothing to them."""
LOOPBACK = 1
ELSEWHERE_IFINDEX = 77


def mapped(text: str) -> bytes:
    return layout.mapped(p.ip(text))


def key(address: str, vni: int = VNI) -> bytes:
    return layout.OVERLAY_KEY.pack(vni, mapped(address))


@dataclass(frozen=True)
class Run:
    """What became of one frame."""

    verdict: XdpAction
    frame: bytes
    outcome: Outcome


def expected_verdict(outcome: Outcome) -> XdpAction:
    if outcome in PASSED:
        return XdpAction.PASS
    return XdpAction.REDIRECT if outcome in ANSWERED | FORWARDED else XdpAction.DROP


class World:
    """Maps and programs of one droplet."""

    def __init__(self, compiled: CompiledObject) -> None:
        self.fds = {
            m.name: bpf.create_map(
                bpf.MapType(m.type), m.key_size, m.value_size, self._size(m.name, m.max_entries), m.flags
            )
            for m in compiled.maps
        }
        self.programs = {p.name: programs.load(p, self.fds) for p in compiled.programs}
        self.reached: set[Outcome] = set()

    @staticmethod
    def _size(name: str, declared: int) -> int:
        return declared if name in ("outcomes", "programs", "local_droplet") else SIZES.get(MapName(name), 256)

    def put(self, name: MapName, key: bytes, value: bytes) -> None:
        bpf.update(self.fds[name], key, value)

    def remove(self, name: MapName, key: bytes) -> None:
        if name is MapName.INTERFACES:
            self.put(name, key, bytes(layout.INTERFACE.size))
        else:
            bpf.delete(self.fds[name], key)

    def entries(self, name: MapName) -> dict[bytes, bytes]:
        return dict(bpf.entries(self.fds[name]))

    def endpoint(self, address: str, host: str, ifindex: int = 0, slot: int = 0) -> None:
        value = layout.ENDPOINT.pack(mapped(host), ifindex, slot, MAC[address])
        self.put(MapName.ENDPOINTS, key(address), value)

    def interface(self, address: str, vni: int = VNI, slot: int = SLOT) -> None:
        sender = layout.INTERFACE.pack(vni, mapped(address), MAC[address])
        self.put(MapName.INTERFACES, layout.U32.pack(slot), sender)

    def network(self, cidr: str, gateway: str, bouncers: tuple[str, ...], flags: int = 0) -> None:
        address, prefix = cidr.split("/")
        value = layout.network_value(mapped(gateway), flags, tuple(map(mapped, bouncers)))
        self.put(MapName.NETWORKS, layout.network_key(VNI, p.ip(address), int(prefix)), value)

    def vpc(self, dividers: tuple[str, ...], flags: int = 0) -> None:
        self.put(MapName.VPCS, layout.U32.pack(VNI), layout.vpc_value(flags, tuple(map(mapped, dividers))))

    def local(self, ifindex: int, address: str = D1) -> None:
        port = layout.GENEVE_PORT.to_bytes(2, "big")
        value = layout.LOCAL_DROPLET.pack(mapped(address), ifindex, DROPLET_MAC[D1], port)
        self.put(MapName.LOCAL_DROPLET, layout.U32.pack(0), value)

    def direct(self, address: str) -> tuple[str, int, int] | None:
        """Return the droplet's address of the path learnt for an address, and when: nanoseconds and tick."""
        found = self.entries(MapName.DIRECT).get(key(address))
        if found is None:
            return None
        host, *confirmed = layout.DIRECT_PATH.unpack(found)
        return inet_ntoa(layout.unmapped(host)), *confirmed

    def path(self, address: str, host: str, tick: int) -> None:
        """Put a direct path that was confirmed at a tick."""
        self.put(MapName.DIRECT, key(address), layout.DIRECT_PATH.pack(mapped(host), 0, tick))

    def fill(self) -> None:
        """Empty every map and make the world that the module describes."""
        for name in self.fds:
            if name in ("outcomes", "local_droplet", "interfaces", "endpoint_counters"):
                continue
            if name == "programs":
                transit = self.programs["transit_xdp"].fd
                self.put(MapName.PROGRAMS, layout.U32.pack(0), layout.U32.pack(transit))
                continue
            bpf.delete_batch(self.fds[name], list(self.entries(MapName(name))))
        self.endpoint(A, D1, 201, SLOT)
        self.endpoint(B, D1, 202, 2)
        self.endpoint(R, D2)
        self.network("10.0.0.0/24", GATEWAY, (D3,))
        self.network("10.0.1.0/24", "10.0.1.254", (D4,))
        self.vpc((D5,))
        self.interface(A)
        self.remove(MapName.INTERFACES, layout.U32.pack(UNCOUNTED_SLOT))
        for address in (D2, D3, D4, D5):
            self.put(MapName.DROPLETS, mapped(address), layout.DROPLET.pack(0))
            self.put(MapName.NEXT_HOPS, mapped(address), layout.NEXT_HOP.pack(DROPLET_MAC[address]))

    def counters(self) -> dict[Outcome, tuple[int, int]]:
        """Return packets and bytes of every outcome, summed over the CPUs."""
        found = {}
        for k, values in bpf.entries(self.fds["outcomes"]):
            numbers = [layout.TRAFFIC.unpack_from(values, at) for at in range(0, len(values), 16)]
            found[Outcome(layout.U32.unpack(k)[0])] = (sum(n[0] for n in numbers), sum(n[1] for n in numbers))
        return found

    def endpoint_traffic(self, slot: int) -> tuple[int, ...]:
        """Return the packets of one slot: sent, direct, delivered, dropped."""
        values = bpf.lookup_percpu(self.fds["endpoint_counters"], layout.U32.pack(slot), layout.ENDPOINT_TRAFFIC.size)
        cpus = [layout.ENDPOINT_TRAFFIC.unpack(value)[::2] for value in values]
        return tuple(map(sum, zip(*cpus, strict=True)))

    def from_substrate(self, frame: bytes, metadata: int = 0) -> Run:
        self.local(ARRIVAL)
        return self._run("transit_xdp", frame, metadata)

    def from_endpoint(
        self, frame: bytes, metadata: int = 0, local_ifindex: int = ELSEWHERE_IFINDEX, arrival: int = ARRIVAL
    ) -> Run:
        self.local(local_ifindex)
        return self._run("transit_agent", frame, metadata, arrival=arrival)

    def unprepared(self, program: str, frame: bytes, received: int = 1) -> Run:
        """Run a program on the maps as they are."""
        return self._run(program, frame, 0, received)

    def _run(self, program: str, frame: bytes, metadata: int, received: int = 1, arrival: int = ARRIVAL) -> Run:
        """Run one frame and hold the books: counted once as received, once under its outcome, all bytes."""
        before = self.counters()
        verdict, out, _ = bpf.run_program(
            self.programs[program].fd, bytes(metadata) + frame, ifindex=arrival, metadata=metadata
        )
        after = self.counters()
        moved = {
            outcome: (now[0] - before[outcome][0], now[1] - before[outcome][1])
            for outcome, now in after.items()
            if now != before[outcome]
        }
        arrived = [moved.pop(outcome) for outcome in RECEIVED if outcome in moved]
        assert arrived == [(1, len(frame))] * received
        assert list(moved.values()) == [(1, len(frame))], moved
        outcome = next(iter(moved))
        assert XdpAction(verdict) == expected_verdict(outcome)
        return Run(XdpAction(verdict), out, outcome)
