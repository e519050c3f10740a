"""Direct paths as a whole: back from who left, away from droplets that are down, by dividers where asked."""

from __future__ import annotations

import bpf_packets as p
import pytest
from bpf_dut import (
    A6,
    D1,
    D2,
    D3,
    D4,
    D5,
    ELSEWHERE,
    ELSEWHERE6,
    GATEWAY,
    GATEWAY6,
    MAC,
    NOWHERE,
    R6,
    S1,
    S2,
    S3,
    SECOND_UPLINK,
    STRANGER,
    UNKNOWN,
    UNKNOWN6,
    VNI,
    A,
    B,
    Dut,
    R,
    key,
)  # fmt: skip
from bpf_tunnels import Outer, frame_to, tunnelled

from agent.core.model import map_layout
from agent.core.model.map_layout import MapName
from agent.datapath.bpf.outcomes import Outcome
from agent.datapath.bpf.ticks import ticks_per_second

BOUNCES, DIVIDES, PINNED = map_layout.NETWORK_LOCAL_BOUNCER, map_layout.VPC_LOCAL_DIVIDER, map_layout.NETWORK_PINNED
GONE, GONE6 = UNKNOWN, UNKNOWN6
SECOND = "192.0.2.6"
"""This host's droplet on its second uplink."""
PAIRS = [pytest.param((R, GONE), id="IPv4 inside"), pytest.param((R6, GONE6), id="IPv6 inside")]
OVER = [pytest.param((D2, D1), id="over IPv4"), pytest.param((S2, S1), id="over IPv6")]


def outer_label(frame: bytes) -> int:
    return int.from_bytes(frame[14:18], "big") & 0xFFFFF if frame[12:14] == b"\x86\xdd" else 0


def from_a(to: str, mac: bytes = MAC[R], **header: object) -> bytes:
    if ":" in to:
        return p.ethernet(mac, MAC[A], p.IPV6, p.ipv6(A6, to, p.udp(), **header))  # type: ignore[arg-type]
    return p.ethernet(mac, MAC[A], p.IPV4, p.ipv4(A, to, p.udp(), **header))  # type: ignore[arg-type]


@pytest.mark.parametrize("over", OVER)
@pytest.mark.parametrize("pair", PAIRS)
def test_a_direct_packet_for_an_endpoint_that_left_is_returned_whole(
    dut: Dut, pair: tuple[str, str], over: tuple[str, str]
) -> None:
    dut.fill(over_ipv6=":" in over[0])
    inner = frame_to(pair[1], pair[0])
    run = dut.from_underlay(tunnelled(inner, Outer(*over, ttl=5, tos=0x28)))
    assert run.outcome is Outcome.RETURNED
    expected = Outer(over[1], over[0], fragment=p.DF, tos=0x28, label=outer_label(run.frame))
    assert run.frame[14:] == expected.wrap(p.geneve(VNI, inner, options=p.INVALIDATE, flags=0x40))[14:], (
        "a critical option, so the header says that there is one"
    )


def test_a_returned_packet_is_not_returned_again(dut: Dut) -> None:
    run = dut.from_underlay(tunnelled(frame_to(GONE), options=p.INVALIDATE))
    assert run.outcome is Outcome.ENDPOINT_NOT_LOCAL


def invalid(inner: bytes, over: tuple[str, str] = (D2, D1)) -> bytes:
    return tunnelled(inner, Outer(*over), options=p.INVALIDATE, flags=0x40)


@pytest.mark.parametrize("over", OVER)
@pytest.mark.parametrize("gone", [GONE, GONE6], ids=["IPv4 inside", "IPv6 inside"])
def test_a_returned_packet_deletes_its_path_and_is_sent_to_a_bouncer(
    dut: Dut, gone: str, over: tuple[str, str]
) -> None:
    dut.fill(over_ipv6=":" in over[0])
    dut.path(gone, D2, 0)
    inner = from_a(gone)
    run = dut.from_underlay(invalid(inner, over))
    assert run.outcome is Outcome.REROUTED
    assert dut.direct(gone) is None
    bouncer = S3 if ":" in over[0] else D3
    expected = Outer(over[1], bouncer, fragment=p.DF, ttl=63, label=outer_label(run.frame))
    packet = p.geneve(VNI, inner, options=p.rts(over[1], 1))
    assert run.frame[14:] == expected.wrap(packet)[14:]


def test_a_returned_packet_is_sent_where_documents_locate_its_endpoint(dut: Dut) -> None:
    dut.endpoint(R, D4)
    run = dut.from_underlay(invalid(from_a(R)))
    assert (run.outcome, run.frame[30:34]) == (Outcome.REROUTED, p.ip(D4))


def test_a_packet_returned_from_the_documented_host_is_sent_to_a_bouncer(dut: Dut) -> None:
    run = dut.from_underlay(invalid(from_a(R)))
    assert (run.outcome, run.frame[30:34]) == (Outcome.REROUTED, p.ip(D3))


def test_a_returned_packet_is_delivered_if_its_endpoint_is_now_local(dut: Dut) -> None:
    run = dut.from_underlay(invalid(from_a(B)))
    assert run.outcome is Outcome.DELIVERED
    assert run.frame[:6] == MAC[B]


@pytest.mark.parametrize("to", [GONE, GONE6], ids=["IPv4 inside", "IPv6 inside"])
def test_a_returned_packet_that_exceeds_the_new_paths_mtu_is_answered_to_its_local_sender(dut: Dut, to: str) -> None:
    dut.next_hop(D3, mtu=1300)
    data = p.udp(data=bytes(1250))
    packet = p.ipv6(A6, to, data) if ":" in to else p.ipv4(A, to, data)
    run = dut.from_underlay(invalid(p.ethernet(MAC[R], MAC[A], p.IPV6 if ":" in to else p.IPV4, packet)))
    assert run.outcome is Outcome.ICMP_TOO_BIG_SENT
    assert run.frame[:12] == MAC[A] + p.GATEWAY_MAC
    at = 62 if ":" in to else 42
    assert int.from_bytes(run.frame[at - 2 : at], "big") == 1300 - 62
    assert run.frame[at:] == packet[: len(run.frame) - at]


def test_a_returned_packet_of_a_removed_sender_gets_no_icmp_error(dut: Dut) -> None:
    dut.next_hop(D3, mtu=1300)
    dut.receiver(1, MAC[A], VNI + 1)
    packet = p.ipv4(A, GONE, p.udp(data=bytes(1250)))
    assert dut.from_underlay(invalid(p.ethernet(MAC[R], MAC[A], p.IPV4, packet))).outcome is Outcome.TOO_BIG


@pytest.mark.parametrize("pinned", ["the sender's network", "the receiver's"])
@pytest.mark.parametrize("divides", [0, DIVIDES])
def test_a_returned_packet_passes_a_divider_even_if_its_endpoint_is_now_local(
    dut: Dut, pinned: str, divides: int
) -> None:
    dut.endpoint(ELSEWHERE, D1, 3, flags=map_layout.ENDPOINT_PINNED if "receiver" in pinned else 0)
    dut.own_network(flags=PINNED if "sender" in pinned else 0)
    dut.vpc((D5,), divides)
    run = dut.from_underlay(invalid(from_a(ELSEWHERE)))
    if divides:
        assert run.outcome is Outcome.DELIVERED
        return
    assert (run.outcome, run.frame[30:34]) == (Outcome.HANDED_TO_DIVIDER, p.ip(D5))
    assert run.frame[50:62] == p.rts(D1, 1, p.PINNED if "sender" in pinned else 0)


def test_a_returned_packet_of_a_sender_without_a_network_is_dropped(dut: Dut) -> None:
    dut.remove(MapName.NETWORKS, map_layout.network_key(VNI, p.ip("10.0.0.0"), 24))
    dut.path(GONE, D2, 0)
    assert dut.from_underlay(invalid(from_a(GONE))).outcome is Outcome.NO_NETWORK
    assert dut.direct(GONE) is None


@pytest.mark.parametrize("options", [b"", p.rts(D4)], ids=["straight", "by a bouncer"])
@pytest.mark.parametrize(("to", "gateway"), [(A, GATEWAY), (A6, GATEWAY6)])
def test_no_path_is_learnt_to_a_gateway(dut: Dut, to: str, gateway: str, options: bytes) -> None:
    """Every droplet answers for it: a path would lead its endpoints' packets to it away."""
    assert dut.from_underlay(tunnelled(frame_to(to, gateway), options=options)).outcome is Outcome.DELIVERED
    assert dut.entries(MapName.DIRECT) == {}


def test_the_local_bouncer_sends_a_returned_packet_to_a_divider_or_answers_its_sender(dut: Dut) -> None:
    dut.own_network((D1,), BOUNCES)
    assert dut.from_underlay(invalid(from_a(GONE))).outcome is Outcome.ICMP_UNREACHABLE_SENT
    run = dut.from_underlay(invalid(from_a(ELSEWHERE)))
    assert (run.outcome, run.frame[30:34]) == (Outcome.REROUTED, p.ip(D5))


@pytest.mark.parametrize(
    ("frame", "outcome"),
    [
        (invalid(frame_to(GONE)), Outcome.ENDPOINT_NOT_LOCAL),
        (invalid(from_a(GONE), (STRANGER, D1)), Outcome.UNKNOWN_DROPLET),
        (tunnelled(from_a(GONE), Outer("192.0.2.4"), options=p.INVALIDATE), Outcome.REROUTED),
    ],
    ids=["of no endpoint of ours", "from a stranger", "from another droplet than the path's"],
)
def test_only_the_droplet_of_a_path_can_delete_it(dut: Dut, frame: bytes, outcome: Outcome) -> None:
    dut.path(GONE, D2, 0)
    assert dut.from_underlay(frame).outcome is outcome
    assert dut.direct(GONE) is not None


def fresh(dut: Dut) -> int:
    """Return a tick of just now."""
    dut.from_underlay(tunnelled(frame_to(source="10.0.0.44")))
    learnt = dut.direct("10.0.0.44")
    assert learnt is not None
    return learnt[2]


def test_a_conversation_follows_an_endpoint_that_moves(dut: Dut) -> None:
    """Direct, back, by the bouncer, and direct to the new droplet as soon as it answers."""
    dut.path(GONE, D2, fresh(dut))
    assert dut.from_endpoint(from_a(GONE)).frame[30:34] == p.ip(D2)
    assert dut.from_underlay(invalid(from_a(GONE))).outcome is Outcome.REROUTED
    assert dut.from_endpoint(from_a(GONE)).outcome is Outcome.SENT_TO_BOUNCER
    assert dut.from_underlay(tunnelled(frame_to(A, GONE), Outer("192.0.2.4"))).outcome is Outcome.DELIVERED
    run = dut.from_endpoint(from_a(GONE))
    assert (run.outcome, run.frame[30:34]) == (Outcome.SENT_DIRECT, p.ip(D4))


@pytest.mark.parametrize("to", [R, R6, GONE])
def test_no_direct_path_leads_to_a_droplet_that_is_down_and_one_does_again_when_it_is_up(dut: Dut, to: str) -> None:
    if to == GONE:
        dut.path(GONE, D2, fresh(dut))
    dut.next_hop(D2, flags=map_layout.NEXT_HOP_DOWN)
    run = dut.from_endpoint(from_a(to))
    assert (run.outcome, run.frame[30:34]) == (Outcome.SENT_TO_BOUNCER, p.ip(D3))
    dut.next_hop(D2)
    assert dut.from_endpoint(from_a(to)).outcome is Outcome.SENT_DIRECT


def test_a_bouncer_sends_its_own_endpoints_packets_straight_to_a_droplet_that_is_down(dut: Dut) -> None:
    """It has no other route: no droplet knows more endpoints than a network's bouncer."""
    dut.network("10.0.0.0/24", "10.0.0.254", (D1,), BOUNCES)
    dut.next_hop(D2, flags=map_layout.NEXT_HOP_DOWN)
    run = dut.from_endpoint(from_a(R))
    assert (run.outcome, run.frame[30:34]) == (Outcome.SENT_DIRECT, p.ip(D2))


@pytest.mark.parametrize("to", [R, GONE])
def test_another_droplet_of_this_host_is_used_if_the_next_hop_says_so(dut: Dut, to: str) -> None:
    if to == GONE:
        dut.path(GONE, D2, fresh(dut))
    dut.local(3, SECOND, SECOND_UPLINK)
    dut.next_hop(D2, by=3)
    run = dut.from_endpoint(from_a(to))
    assert (run.outcome, run.frame[26:30], run.frame[30:34]) == (Outcome.SENT_DIRECT, p.ip(SECOND), p.ip(D2))
    dut.next_hop(D2, flags=map_layout.NEXT_HOP_DOWN, by=3)
    run = dut.from_endpoint(from_a(to))
    assert (run.outcome, run.frame[26:30], run.frame[30:34]) == (Outcome.SENT_TO_BOUNCER, p.ip(D1), p.ip(D3))


@pytest.mark.parametrize("to", [R, GONE])
def test_a_destination_without_a_next_hop_is_sent_to_the_bouncer(dut: Dut, to: str) -> None:
    """Also on a host with several droplets."""
    if to == GONE:
        dut.path(GONE, D2, fresh(dut))
    dut.local(3, SECOND, SECOND_UPLINK)
    dut.no_next_hop(D2)
    run = dut.from_endpoint(from_a(to))
    assert (run.outcome, run.frame[26:30], run.frame[30:34]) == (Outcome.SENT_TO_BOUNCER, p.ip(D1), p.ip(D3))


def test_a_bouncer_reached_by_another_droplet_gets_that_one_as_origin(dut: Dut) -> None:
    dut.local(3, SECOND, SECOND_UPLINK)
    dut.next_hop(D3, by=3)
    run = dut.from_endpoint(from_a(UNKNOWN))
    assert (run.outcome, run.frame[26:30], run.frame[30:34]) == (Outcome.SENT_TO_BOUNCER, p.ip(SECOND), p.ip(D3))
    assert run.frame[50:62] == p.rts(SECOND, 0)


def test_a_next_hop_by_a_removed_droplet_is_not_used(dut: Dut) -> None:
    dut.next_hop(D3, by=3)
    assert dut.from_endpoint(from_a(UNKNOWN)).outcome is Outcome.NEXT_HOP_UNRESOLVED
    dut.local(3, S1, SECOND_UPLINK)
    assert dut.from_endpoint(from_a(UNKNOWN)).outcome is Outcome.NEXT_HOP_UNRESOLVED, "of the other family"


def test_a_path_ages(dut: Dut) -> None:
    now = fresh(dut)
    dut.path(GONE, D2, now - 9 * ticks_per_second())
    assert dut.from_endpoint(from_a(GONE)).outcome is Outcome.SENT_DIRECT
    dut.path(GONE, D2, now - 10 * ticks_per_second())
    assert dut.from_endpoint(from_a(GONE)).outcome is Outcome.SENT_TO_BOUNCER


def test_a_next_hop_of_the_other_family_is_not_used(dut: Dut) -> None:
    dut.over_ipv6 = True
    dut.endpoint(R, D2)
    dut.network("10.0.0.0/24", "10.0.0.254", (D1,), BOUNCES)  # so that there is no other way than straight
    assert dut.from_endpoint(from_a(R)).outcome is Outcome.OTHER_FAMILY
    dut.local(1, S1, 0)
    dut.next_hop(D2)
    assert dut.from_endpoint(from_a(R)).outcome is Outcome.OTHER_FAMILY, "though somebody wrote that there is one"


@pytest.mark.parametrize("to", [ELSEWHERE, ELSEWHERE6])
@pytest.mark.parametrize("known", [False, True])
def test_an_endpoint_of_a_pinned_network_reaches_others_by_a_divider(dut: Dut, to: str, known: bool) -> None:
    if known:
        dut.endpoint(to, D2)
    dut.interface(flags=map_layout.INTERFACE_PINNED)
    run = dut.from_endpoint(from_a(to, p.GATEWAY_MAC, ttl=9))
    assert (run.outcome, run.frame[30:34]) == (Outcome.SENT_TO_DIVIDER, p.ip(D5))
    assert run.frame[50:62] == p.rts(D1, 0, p.PINNED)


def test_within_a_pinned_network_packets_go_direct(dut: Dut) -> None:
    dut.interface(flags=map_layout.INTERFACE_PINNED)
    assert dut.from_endpoint(from_a(R)).outcome is Outcome.SENT_DIRECT


def test_an_endpoint_reaches_a_pinned_network_by_a_divider_too(dut: Dut) -> None:
    dut.endpoint(ELSEWHERE, D2, flags=map_layout.ENDPOINT_PINNED)
    assert dut.from_endpoint(from_a(ELSEWHERE)).outcome is Outcome.SENT_TO_DIVIDER
    dut.remove(MapName.ENDPOINTS, key(ELSEWHERE))
    dut.path(ELSEWHERE, D2, fresh(dut), map_layout.PATH_PINNED)
    assert dut.from_endpoint(from_a(ELSEWHERE)).outcome is Outcome.SENT_TO_DIVIDER
    dut.path(ELSEWHERE, D2, fresh(dut))
    assert dut.from_endpoint(from_a(ELSEWHERE)).outcome is Outcome.SENT_DIRECT


def test_an_endpoint_of_this_host_in_another_pinned_network_is_behind_the_divider(dut: Dut) -> None:
    dut.endpoint(ELSEWHERE, D1, 3, flags=map_layout.ENDPOINT_PINNED)
    assert dut.from_endpoint(from_a(ELSEWHERE)).outcome is Outcome.SENT_TO_DIVIDER
    back = tunnelled(p.ethernet(MAC[B], MAC[A], p.IPV4, p.ipv4(A, ELSEWHERE, p.udp())), Outer("192.0.2.4"),
                     options=p.rts(D1, 2, p.PINNED | p.DIVIDED))  # fmt: skip
    assert dut.from_underlay(back).outcome is Outcome.DELIVERED, "its own source, which the divider sent back"


def test_without_a_divider_a_pinned_network_is_alone(dut: Dut) -> None:
    dut.interface(flags=map_layout.INTERFACE_PINNED)
    dut.vpc(())
    assert dut.from_endpoint(from_a(ELSEWHERE)).outcome is Outcome.ICMP_UNREACHABLE_SENT
    dut.remove(MapName.VPCS, map_layout.U32.pack(VNI))
    assert dut.from_endpoint(from_a(ELSEWHERE)).outcome is Outcome.NO_VPC


def test_a_dividers_own_endpoint_has_passed_the_divider(dut: Dut) -> None:
    dut.interface(flags=map_layout.INTERFACE_PINNED)
    dut.own_network((D1,), BOUNCES | PINNED)
    dut.vpc((D1,), DIVIDES)
    run = dut.from_endpoint(from_a(ELSEWHERE))
    assert (run.outcome, run.frame[30:34]) == (Outcome.HANDED_TO_BOUNCER, p.ip(D4))
    assert run.frame[50:62] == p.rts(D1, 0, p.PINNED | p.DIVIDED)


@pytest.mark.parametrize(
    ("flags", "divides", "outcome", "to"),
    [
        (p.PINNED, 0, Outcome.HANDED_TO_DIVIDER, D5),
        (p.PINNED, DIVIDES, Outcome.BOUNCED, D2),
        (p.PINNED | p.DIVIDED, 0, Outcome.BOUNCED, D2),
        (0, 0, Outcome.BOUNCED, D2),
    ],
)
def test_a_bouncer_sends_packets_of_pinned_networks_to_a_divider_first(
    dut: Dut, flags: int, divides: int, outcome: Outcome, to: str
) -> None:
    dut.endpoint(R, D2)
    dut.vpc((D5,), divides)
    run = dut.from_underlay(tunnelled(frame_to(R, ELSEWHERE), options=p.rts(D4, 0, flags)))
    assert (run.outcome, run.frame[30:34]) == (outcome, p.ip(to))
    divided = p.DIVIDED if divides or flags & p.DIVIDED else 0
    assert run.frame[50:62] == p.rts(D4, 1, flags | divided)


@pytest.mark.parametrize(
    ("flags", "outcome"), [(0, Outcome.DELIVERED), (map_layout.ENDPOINT_PINNED, Outcome.HANDED_TO_DIVIDER)]
)
def test_a_packet_to_a_local_endpoint_of_a_pinned_network_passes_a_divider_too(
    dut: Dut, flags: int, outcome: Outcome
) -> None:
    dut.endpoint(A, D1, 1, flags=flags)
    assert dut.from_underlay(tunnelled(frame_to(A, ELSEWHERE), options=p.rts(D4))).outcome is outcome


def test_a_vxlan_packet_for_a_pinned_network_passes_a_divider_too(dut: Dut) -> None:
    dut.endpoint(A, D1, 1, flags=map_layout.ENDPOINT_PINNED)
    frame = Outer(port=4789).wrap(p.vxlan(VNI, frame_to(A, ELSEWHERE)))
    assert dut.from_underlay(frame).outcome is Outcome.HANDED_TO_DIVIDER


def test_a_path_knows_whether_its_network_is_pinned(dut: Dut) -> None:
    for source, flags in (("10.0.0.41", 0), ("10.0.0.42", p.PINNED | p.DIVIDED)):
        dut.from_underlay(tunnelled(frame_to(A, source), options=p.rts(D4, 1, flags)))
        assert dut.path_flags(source) == (map_layout.PATH_PINNED if flags else 0)
    dut.endpoint(A, D1, 1, flags=map_layout.ENDPOINT_PINNED)
    dut.from_underlay(tunnelled(frame_to(A, "10.0.0.43")))
    assert dut.path_flags("10.0.0.43") == map_layout.PATH_PINNED, "straight, so from the same network"


def test_an_address_outside_all_networks_counts_as_another_network(dut: Dut) -> None:
    dut.own_network((D1,), BOUNCES)
    dut.vpc((D1,), DIVIDES)
    assert dut.from_endpoint(from_a(NOWHERE)).outcome is Outcome.ICMP_UNREACHABLE_SENT
