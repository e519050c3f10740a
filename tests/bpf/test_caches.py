"""A cached copy never outlives its entry: every change takes effect with the next packet, also for colliding keys."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterator

import bpf_packets as p
import pytest
from bpf_dut import (
    A6,
    B6,
    D2,
    D3,
    D4,
    DROPLET_MAC,
    MAC,
    MTU,
    PATH_MTU,
    R6,
    SLOT,
    UPLINK,
    VNI,
    A,
    B,
    Dut,
    R,
    key,
    mapped,
)  # fmt: skip
from bpf_tunnels import Outer, tunnelled

from agent.core.model import map_layout
from agent.core.model.endpoint_slots import IFINDEX_BASE
from agent.core.model.map_layout import MapName
from agent.datapath.bpf import syscall as bpf
from agent.datapath.bpf.outcomes import Outcome

INNER = p.ethernet(MAC[A], MAC[R], p.IPV4, p.ipv4(R, A, p.udp()))
FROM_R, MOVED = tunnelled(INNER), tunnelled(INNER, Outer(source=D3))
"""Of R on its droplet, and after it moved to another."""
TO_R = p.ethernet(MAC[R], MAC[A], p.IPV4, p.ipv4(A, R, p.udp()))
GOLDEN, WORD = 0x9E3779B97F4A7C15, (1 << 64) - 1


def cache_index(key: bytes, bits: int) -> int:
    """Return the index of a key of 20 bytes in a cache: cache_index() in bpf/lib/cache.h."""
    words = [int.from_bytes(key[at : at + 8], "little") for at in (0, 8, 16)]
    return ((words[0] ^ words[1] ^ words[2]) * GOLDEN & WORD) >> (64 - bits)


def colliding(address: str) -> str:
    """Return another address with the same index in the cache of paths."""
    wanted = cache_index(key(address), map_layout.CACHED_PATHS_BITS)
    addresses = (f"10.0.0.{one}" for one in range(20, 250))
    more = (f"10.0.{net}.{one}" for net in range(2, 250) for one in range(1, 255))
    return next(
        one for one in itertools.chain(addresses, more) if cache_index(key(one), map_layout.CACHED_PATHS_BITS) == wanted
    )


def generation(dut: Dut, index: int) -> int:
    value = bpf.lookup(dut.fds[MapName.GENERATIONS], map_layout.U32.pack(index), map_layout.GENERATION.size)
    return int(map_layout.GENERATION.unpack(value or b"")[0])


@pytest.fixture(autouse=True)
def one_cpu() -> Iterator[None]:
    """Keep the test runs on one CPU, whose caches they fill: the scheduler may move a process between any two runs."""
    cpus = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cpus)})
    yield
    os.sched_setaffinity(0, cpus)


def sent_to(dut: Dut, frame: bytes = TO_R) -> bytes:
    """Return the Ethernet address that a packet of A leaves for."""
    run = dut.from_endpoint(frame)
    assert run.outcome is Outcome.SENT_DIRECT
    return run.frame[:6]


def warm(dut: Dut) -> None:
    """Send a conversation's packets in both directions until every cache holds its copies."""
    for _ in range(3):
        assert dut.from_underlay(FROM_R).outcome is Outcome.DELIVERED
        assert sent_to(dut) == DROPLET_MAC[D2]


HOP_KEY = map_layout.NEXT_HOP_KEY.pack(mapped(D2), UPLINK)
LONG = 5.0
"""Seconds after which a copy that is still used never expires; it expires after one."""


def until(reached: Callable[[], bool]) -> bool:
    """Return whether something became true within LONG."""
    end = time.monotonic() + LONG
    while not reached():
        if time.monotonic() > end:
            return False
    return True


def test_copies_are_used(dut: Dut) -> None:
    """Entries that were removed without a new generation are still used: the tests below depend on that."""

    def used() -> bool:
        dut.renew()
        warm(dut)
        bpf.delete(dut.fds[MapName.DIRECT], key(R))
        bpf.delete(dut.fds[MapName.ENDPOINTS], key(R))
        bpf.delete(dut.fds[MapName.ENDPOINTS], key(A))
        bpf.delete(dut.fds[MapName.NEXT_HOPS], HOP_KEY)
        out, in_ = dut.from_endpoint(TO_R), dut.from_underlay(FROM_R)
        return (out.outcome, in_.outcome) == (Outcome.SENT_DIRECT, Outcome.DELIVERED)

    assert until(used), "not even once before the copies expired"


def test_a_changed_next_hop_is_used_at_once(dut: Dut) -> None:
    warm(dut)
    hop_key = map_layout.NEXT_HOP_KEY.pack(mapped(D2), UPLINK)
    dut.put(MapName.NEXT_HOPS, hop_key, map_layout.NEXT_HOP.pack(bytes(range(6)), PATH_MTU, 0, 0))
    assert sent_to(dut) == bytes(range(6))


def test_a_removed_next_hop_is_no_longer_used(dut: Dut) -> None:
    warm(dut)
    dut.remove(MapName.ENDPOINTS, key(R))
    dut.no_next_hop(D2)
    assert dut.from_endpoint(TO_R).outcome is Outcome.SENT_TO_BOUNCER


def test_a_droplet_that_goes_down_is_avoided_at_once(dut: Dut) -> None:
    warm(dut)
    dut.remove(MapName.ENDPOINTS, key(R))
    dut.next_hop(D2, flags=map_layout.NEXT_HOP_DOWN)
    assert dut.from_endpoint(TO_R).outcome is Outcome.SENT_TO_BOUNCER


def test_a_deleted_path_is_no_longer_used(dut: Dut) -> None:
    warm(dut)
    dut.remove(MapName.ENDPOINTS, key(R))
    dut.remove(MapName.DIRECT, key(R))
    assert dut.from_endpoint(TO_R).outcome is Outcome.SENT_TO_BOUNCER


def test_packets_of_a_droplet_that_was_removed_with_its_path_are_refused(dut: Dut) -> None:
    warm(dut)
    dut.remove(MapName.DROPLETS, mapped(D2))
    dut.remove(MapName.DIRECT, key(R))
    assert dut.from_underlay(FROM_R).outcome is Outcome.UNKNOWN_DROPLET


def test_a_changed_path_is_used_at_once(dut: Dut) -> None:
    """The endpoint moved: its new host sends, and no copy of the path to the old one is left."""
    dut.remove(MapName.ENDPOINTS, key(R))
    warm(dut)
    assert dut.from_underlay(MOVED).outcome is Outcome.DELIVERED
    assert sent_to(dut) == DROPLET_MAC[D3]


def test_a_removed_endpoint_gets_nothing_more(dut: Dut) -> None:
    warm(dut)
    dut.remove(MapName.ENDPOINTS, key(A))
    assert dut.from_underlay(FROM_R).outcome is not Outcome.DELIVERED


def test_an_endpoint_that_moved_away_gets_nothing_more_while_its_interface_is_still_there(dut: Dut) -> None:
    warm(dut)
    dut.endpoint(A, D3)
    assert dut.from_underlay(FROM_R).outcome is Outcome.BOUNCED


@pytest.mark.parametrize("vni", [VNI + 1, 0], ids=["another VPC", "nobody"])
def test_a_slot_that_another_endpoint_got_is_not_the_old_ones(dut: Dut, vni: int) -> None:
    """Behind the generation's back: `interfaces` alone decides whose the slot is."""
    warm(dut)
    value = map_layout.INTERFACE.pack(vni, 0, p.ip(A6), p.ip(A), MAC[B], 0, MTU, 0, 0)
    bpf.update(dut.fds[MapName.INTERFACES], map_layout.U32.pack(SLOT), value)
    assert dut.from_underlay(FROM_R).outcome is Outcome.ENDPOINT_NOT_LOCAL


@pytest.mark.parametrize("first", [False, True])
def test_paths_with_one_index_each_lead_to_their_own_host(dut: Dut, first: bool) -> None:
    other = colliding(R)
    frames = {R: TO_R, other: p.ethernet(MAC[R], MAC[A], p.IPV4, p.ipv4(A, other, p.udp()))}
    hosts = {R: D2, other: D3}
    for address, host in hosts.items():
        dut.path(address, host, 1 << 60)
    order = list(frames)[:: 1 if first else -1]
    for address in (*order, *order, order[0], order[0], order[1]):
        assert sent_to(dut, frames[address]) == DROPLET_MAC[hosts[address]]


@pytest.mark.parametrize("steps", list(itertools.permutations(("add", "move", "remove", "next hop"))))
def test_in_any_order_of_changes_a_packet_goes_where_the_entries_say(dut: Dut, steps: tuple[str, ...]) -> None:
    """Each change is followed by packets that fill the caches again."""
    dut.remove(MapName.ENDPOINTS, key(R))
    mac = DROPLET_MAC[D2]
    for step in steps:
        host = {"add": D2, "move": D3}.get(step)
        if host is not None:
            dut.path(R, host, 1 << 60)
        elif step == "remove" and dut.direct(R):
            dut.remove(MapName.DIRECT, key(R))
        elif step == "next hop":
            mac = bytes(range(6))
            hop_key = map_layout.NEXT_HOP_KEY.pack(mapped(D2), UPLINK)
            dut.put(MapName.NEXT_HOPS, hop_key, map_layout.NEXT_HOP.pack(mac, PATH_MTU, 0, 0))
        for _ in range(2):
            path = dut.direct(R)
            if path is None:
                assert dut.from_endpoint(TO_R).outcome is Outcome.SENT_TO_BOUNCER
            else:
                assert sent_to(dut) == (mac if path[0] == D2 else DROPLET_MAC[D3])


@pytest.mark.parametrize("name", [MapName.ENDPOINTS, MapName.DIRECT, MapName.NEXT_HOPS])
def test_a_copy_expires_if_no_generation_is_started(dut: Dut, name: MapName) -> None:
    """The agent may be killed between the two, and people change maps by hand."""
    bpf.delete(dut.fds[MapName.ENDPOINTS], key(R))
    warm(dut)
    keys = {MapName.ENDPOINTS: key(A), MapName.DIRECT: key(R), MapName.NEXT_HOPS: HOP_KEY}
    bpf.delete(dut.fds[name], keys[name])
    if name is MapName.ENDPOINTS:
        assert until(lambda: dut.from_underlay(FROM_R).outcome is not Outcome.DELIVERED)
    else:
        assert until(lambda: dut.from_endpoint(TO_R).outcome is Outcome.SENT_TO_BOUNCER)


def test_the_slot_of_one_family_is_not_that_of_the_other(dut: Dut) -> None:
    """Another endpoint has the IPv4 address now, and the index of the old one's IPv6 address is the same."""
    wanted = cache_index(key(A), map_layout.CACHED_SLOTS_BITS)
    ipv6 = next(
        one
        for one in (f"fd00::{number:x}" for number in range(0x100, 0x10000))
        if cache_index(key(one), map_layout.CACHED_SLOTS_BITS) == wanted
    )
    dut.interface(ipv6=ipv6)
    location = map_layout.ENDPOINT.pack(mapped(D2), IFINDEX_BASE + SLOT, 0, MTU, MAC[A])
    dut.put(MapName.ENDPOINTS, key(ipv6), location)
    dut.put(MapName.ENDPOINTS, key(A), map_layout.ENDPOINT.pack(mapped(D2), IFINDEX_BASE + 2, 0, MTU, MAC[B]))
    dut.put(
        MapName.INTERFACES,
        map_layout.U32.pack(2),
        map_layout.INTERFACE.pack(VNI, 0, p.ip(B6), p.ip(A), MAC[B], 0, MTU, 0, 0),
    )
    to_ipv6 = tunnelled(p.ethernet(MAC[A], MAC[R], p.IPV6, p.ipv6(R6, ipv6, p.udp())))
    for frame, mac in ((to_ipv6, MAC[A]), (FROM_R, MAC[B]), (to_ipv6, MAC[A]), (FROM_R, MAC[B])):
        run = dut.from_underlay(frame)
        assert run.outcome is Outcome.DELIVERED
        assert run.frame[:6] == mac


def test_a_path_that_was_evicted_and_learnt_anew_is_used_at_once(dut: Dut) -> None:
    """Its copy is from before the eviction."""
    dut.remove(MapName.ENDPOINTS, key(R))
    warm(dut)
    bpf.delete(dut.fds[MapName.DIRECT], key(R))  # as the kernel evicts: no generation starts
    assert dut.from_underlay(MOVED).outcome is Outcome.DELIVERED
    assert sent_to(dut) == DROPLET_MAC[D3]


def test_a_returned_packet_without_a_path_voids_no_copies(dut: Dut) -> None:
    """Else one tenant could take the direct paths of all others from the caches."""
    warm(dut)
    dut.remove(MapName.DIRECT, key(R))
    before = generation(dut, map_layout.GENERATION_PATHS)
    returned = tunnelled(TO_R, Outer(source=D2), options=p.INVALIDATE)
    for _ in range(3):
        assert dut.from_underlay(returned).outcome is Outcome.REROUTED
    assert generation(dut, map_layout.GENERATION_PATHS) == before


def test_next_hops_with_one_index_do_not_take_turns(dut: Dut) -> None:
    """A valid copy stays: it is used although its entry is gone, after a packet to the other one."""
    wanted = cache_index(HOP_KEY, map_layout.CACHED_HOPS_BITS)
    other = next(
        one
        for one in (f"172.18.{net}.{number}" for net in range(1, 9) for number in range(1, 255))
        if cache_index(map_layout.NEXT_HOP_KEY.pack(mapped(one), UPLINK), map_layout.CACHED_HOPS_BITS) == wanted
    )
    hop = map_layout.NEXT_HOP.pack(DROPLET_MAC[D4], PATH_MTU, 0, 0)
    to_other = p.ethernet(MAC[R], MAC[A], p.IPV4, p.ipv4(A, "10.0.0.77", p.udp()))

    def stays() -> bool:
        dut.renew()
        bpf.update(dut.fds[MapName.NEXT_HOPS], map_layout.NEXT_HOP_KEY.pack(mapped(other), UPLINK), hop)
        dut.path("10.0.0.77", other, 1 << 60)
        warm(dut)
        assert sent_to(dut, to_other) == DROPLET_MAC[D4]
        bpf.delete(dut.fds[MapName.NEXT_HOPS], HOP_KEY)
        return dut.from_endpoint(TO_R).outcome is Outcome.SENT_DIRECT

    assert until(stays), "not even once before the copy expired"
