"""Labels of endpoints on the wire: who gets them, what they look like, how paths learn of it, and hostile ones."""

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
    DROPLET_MAC,
    ELSEWHERE,
    ELSEWHERE6,
    MAC,
    NOWHERE,
    R6,
    S1,
    S2,
    S3,
    S4,
    STRANGER,
    UNKNOWN,
    UNKNOWN6,
    VNI,
    A,
    Dut,
    R,
)  # fmt: skip
from bpf_tunnels import Outer, frame_to, tunnelled

from agent.core.model import map_layout
from agent.datapath.bpf.outcomes import Outcome

LABEL, LARGEST = 0x01020304, 0xFFFFFFFF
BOUNCES, DIVIDES = map_layout.NETWORK_LOCAL_BOUNCER, map_layout.VPC_LOCAL_DIVIDER
NETWORK_ASKS, ENDPOINT_ASKS = map_layout.NETWORK_LABELS, map_layout.ENDPOINT_LABELS
INTERFACE_ASKS, PATH_ASKS = map_layout.INTERFACE_LABELS, map_layout.PATH_LABELS
BOTH = pytest.mark.parametrize("asked", [False, True], ids=["not asked", "asked"])
FAMILIES = pytest.mark.parametrize(
    ("inner", "outer"), [(i, o) for o in (4, 6) for i in (4, 6)], ids=lambda family: f"IPv{family}"
)


def from_a(to: str, segment: bytes | None = None) -> bytes:
    segment = p.udp() if segment is None else segment
    if ":" in to:
        return p.ethernet(MAC[R], MAC[A], p.IPV6, p.ipv6(A6, to, segment))
    return p.ethernet(MAC[R], MAC[A], p.IPV4, p.ipv4(A, to, segment))


def over(outer: int) -> tuple[str, str]:
    """Return the addresses of D2 and of this host."""
    return (S2, S1) if outer == 6 else (D2, D1)


def expect(frame: bytes, inner: bytes, to: str, options: bytes, ttl: int = 64, *, flags: int = 0) -> bytes:
    """Return the whole tunnel packet; only source port and flow label are taken from what was found."""
    six = ":" in to
    at = 54 if six else 34
    outer = Outer(
        S1 if six else D1, to, ttl=ttl, fragment=p.DF, source_port=int.from_bytes(frame[at : at + 2], "big"),
        to_mac=DROPLET_MAC[to], from_mac=DROPLET_MAC[D1],
        label=int.from_bytes(frame[14:18], "big") & 0xFFFFF if six else 0,
    )  # fmt: skip
    return outer.wrap(p.geneve(VNI, inner, options=options, flags=flags))


def labelled(dut: Dut, outer: int, label: int = LABEL, flags: int = 0) -> None:
    dut.fill(over_ipv6=outer == 6)
    dut.interface(label=label, flags=flags)


@BOTH
@FAMILIES
def test_a_direct_packet_to_a_documented_endpoint_has_the_label_if_its_network_asks(
    dut: Dut, inner: int, outer: int, asked: bool
) -> None:
    labelled(dut, outer)
    to = R6 if inner == 6 else R
    dut.endpoint(to, D2, flags=ENDPOINT_ASKS if asked else 0)
    run = dut.from_endpoint(from_a(to))
    assert run.outcome is Outcome.SENT_DIRECT
    assert run.frame == expect(run.frame, from_a(to), over(outer)[0], p.label(LABEL) if asked else b"")


@BOTH
@FAMILIES
def test_a_direct_packet_on_a_learnt_path_has_the_label_if_the_path_asks(
    dut: Dut, inner: int, outer: int, asked: bool
) -> None:
    labelled(dut, outer)
    to = ELSEWHERE6 if inner == 6 else ELSEWHERE
    dut.path(to, D4, fresh(dut), PATH_ASKS if asked else 0)
    for _ in range(2):  # from the map, and from the cache
        run = dut.from_endpoint(from_a(to))
        assert run.outcome is Outcome.SENT_DIRECT
        assert run.frame == expect(run.frame, from_a(to), S4 if outer == 6 else D4, p.label(LABEL) if asked else b"")


def fresh(dut: Dut) -> int:
    """Return a tick of just now."""
    dut.from_underlay(tunnelled(frame_to(source="10.0.0.44"), Outer(*over(6 if dut.over_ipv6 else 4))))
    learnt = dut.direct("10.0.0.44")
    assert learnt is not None
    return learnt[2]


@BOTH
@FAMILIES
def test_a_packet_to_a_bouncer_of_its_own_network_has_the_label_if_that_asks(
    dut: Dut, inner: int, outer: int, asked: bool
) -> None:
    labelled(dut, outer, flags=INTERFACE_ASKS if asked else 0)
    dut.own_network(flags=NETWORK_ASKS if asked else 0)
    to, own, bouncer = UNKNOWN6 if inner == 6 else UNKNOWN, over(outer)[1], S3 if outer == 6 else D3
    run = dut.from_endpoint(from_a(to))
    assert run.outcome is Outcome.SENT_TO_BOUNCER
    options = p.label(LABEL) + p.rts(own, flags=p.LABELS) if asked else p.rts(own)
    assert run.frame == expect(run.frame, from_a(to), bouncer, options)


@pytest.mark.parametrize("outer", [4, 6])
def test_a_packet_to_a_network_that_is_not_known_here_has_the_label(dut: Dut, outer: int) -> None:
    labelled(dut, outer)
    run = dut.from_endpoint(from_a(NOWHERE))
    assert run.outcome is Outcome.SENT_TO_BOUNCER
    options = p.label(LABEL) + p.rts(over(outer)[1])
    assert run.frame == expect(run.frame, from_a(NOWHERE), S3 if outer == 6 else D3, options)


@BOTH
@pytest.mark.parametrize("role", ["bouncer", "divider"])
def test_a_bouncers_or_dividers_own_endpoint_sends_its_label_where_it_is_asked_for(
    dut: Dut, role: str, asked: bool
) -> None:
    labelled(dut, 4)
    dut.own_network(flags=BOUNCES)
    dut.other_network(flags=NETWORK_ASKS if asked else 0)
    if role == "divider":
        dut.vpc(flags=DIVIDES)
    run = dut.from_endpoint(from_a(ELSEWHERE))
    assert run.outcome is (Outcome.HANDED_TO_BOUNCER if role == "divider" else Outcome.HANDED_TO_DIVIDER)
    rts = p.rts(D1, flags=p.DIVIDED if role == "divider" else 0)
    options = p.label(LABEL) + rts if asked else rts
    assert run.frame == expect(run.frame, from_a(ELSEWHERE), D4 if role == "divider" else D5, options)


@pytest.mark.parametrize("label", [0, 1, LARGEST])
@BOTH
def test_direct_packets_of_a_network_that_asks_say_so(dut: Dut, label: int, asked: bool) -> None:
    """Whether they have a label to send depends on the receiver."""
    labelled(dut, 4, label, INTERFACE_ASKS)
    dut.endpoint(R, D2, flags=ENDPOINT_ASKS if asked else 0)
    run = dut.from_endpoint(from_a(R))
    assert run.frame == expect(run.frame, from_a(R), D2, p.label(label if asked else 0, asking=True))


def test_an_endpoint_without_a_label_sends_no_option(dut: Dut) -> None:
    labelled(dut, 4, 0)
    dut.endpoint(R, D2, flags=ENDPOINT_ASKS)
    run = dut.from_endpoint(from_a(R))
    assert run.frame == expect(run.frame, from_a(R), D2, b"")


def test_an_endpoint_cannot_choose_its_label(dut: Dut) -> None:
    """What it sends as a tunnel packet of its own stays an inner packet."""
    labelled(dut, 4)
    dut.endpoint(R, D2, flags=ENDPOINT_ASKS)
    frame = from_a(R, p.udp(50000, 6081, p.geneve(VNI, frame_to(), options=p.label(99))))
    run = dut.from_endpoint(frame)
    assert run.frame == expect(run.frame, frame, D2, p.label(LABEL))


def test_vxlan_carries_no_label(dut: Dut) -> None:
    labelled(dut, 4, flags=INTERFACE_ASKS)
    dut.endpoint(R, D2, flags=ENDPOINT_ASKS | map_layout.ENDPOINT_VXLAN)
    run = dut.from_endpoint(from_a(R))
    port = int.from_bytes(run.frame[34:36], "big")
    expected = Outer(
        D1, D2, port=4789, fragment=p.DF, source_port=port, to_mac=DROPLET_MAC[D2], from_mac=DROPLET_MAC[D1]
    )
    assert run.frame == expected.wrap(p.vxlan(VNI, from_a(R)))


def bounced(dut: Dut, role: str) -> tuple[str, str, Outcome]:
    """Give this host a role, without a word of labels; return the receiver, the next droplet and the outcome."""
    if role == "divider":
        dut.vpc(flags=DIVIDES)
        return ELSEWHERE, D4, Outcome.HANDED_TO_BOUNCER
    dut.own_network(flags=BOUNCES)
    dut.endpoint(R, D5)
    return R, D5, Outcome.BOUNCED


@pytest.mark.parametrize("first", ["label", "RTS"])
@pytest.mark.parametrize("role", ["bouncer", "divider"])
def test_bouncers_and_dividers_forward_the_label_whatever_their_own_documents_say(
    dut: Dut, role: str, first: str
) -> None:
    to, next_, outcome = bounced(dut, role)
    inner = frame_to(to, UNKNOWN)
    options = [p.label(LABEL), p.rts(D3, 1, p.LABELS)]
    run = dut.from_underlay(
        tunnelled(
            inner, Outer(source_port=60001, ttl=9), options=b"".join(options if first == "label" else options[::-1])
        )
    )
    assert run.outcome is outcome
    divided = p.DIVIDED if role == "divider" else 0
    assert run.frame == expect(run.frame, inner, next_, p.label(LABEL) + p.rts(D3, 2, p.LABELS | divided), 8)


@pytest.mark.parametrize("role", ["bouncer", "divider"])
def test_bouncers_and_dividers_invent_no_label(dut: Dut, role: str) -> None:
    to, next_, outcome = bounced(dut, role)
    dut.own_network(flags=BOUNCES | NETWORK_ASKS)
    dut.other_network(flags=NETWORK_ASKS)
    run = dut.from_underlay(tunnelled(frame_to(to, UNKNOWN), Outer(ttl=9), options=p.rts(D3)))
    divided = p.DIVIDED if role == "divider" else 0
    assert run.outcome is outcome
    assert run.frame == expect(run.frame, frame_to(to, UNKNOWN), next_, p.rts(D3, 1, divided), 8)


def test_a_direct_packet_that_is_bounced_keeps_label_and_question(dut: Dut) -> None:
    to, next_, _ = bounced(dut, "bouncer")
    run = dut.from_underlay(tunnelled(frame_to(to, UNKNOWN), Outer(ttl=9), options=p.label(LABEL, asking=True)))
    assert run.outcome is Outcome.BOUNCED
    assert run.frame == expect(run.frame, frame_to(to, UNKNOWN), next_, p.label(LABEL) + p.rts(D2, 1, p.LABELS), 8)


def test_a_returned_packet_has_no_label_and_gets_it_again_where_it_is_sent_anew(dut: Dut) -> None:
    run = dut.from_underlay(tunnelled(frame_to(UNKNOWN), options=p.label(LABEL, asking=True)))
    assert run.outcome is Outcome.RETURNED
    assert run.frame == expect(run.frame, frame_to(UNKNOWN), D2, p.INVALIDATE, flags=0x40)
    labelled(dut, 4, flags=INTERFACE_ASKS)
    dut.own_network(flags=NETWORK_ASKS)
    dut.path(UNKNOWN, D2, 0)
    run = dut.from_underlay(tunnelled(from_a(UNKNOWN), options=p.INVALIDATE, flags=0x40))
    assert run.outcome is Outcome.REROUTED
    assert run.frame == expect(run.frame, from_a(UNKNOWN), D3, p.label(LABEL) + p.rts(D1, 1, p.LABELS), 63)


@BOTH
def test_a_returned_packets_own_label_is_sent_only_where_it_is_asked_for(dut: Dut, asked: bool) -> None:
    """Also if the droplet that returned it claims another one."""
    labelled(dut, 4)
    dut.own_network(flags=NETWORK_ASKS if asked else 0)
    run = dut.from_underlay(tunnelled(from_a(UNKNOWN), options=p.label(99) + p.INVALIDATE, flags=0x40))
    rts = p.rts(D1, 1, p.LABELS if asked else 0)
    assert run.outcome is Outcome.REROUTED
    assert run.frame == expect(run.frame, from_a(UNKNOWN), D3, p.label(LABEL) + rts if asked else rts, 63)


def test_a_misdirected_packet_goes_back_without_its_label(dut: Dut) -> None:
    run = dut.from_underlay(
        tunnelled(frame_to(UNKNOWN), Outer(source=D3, ttl=9), options=p.label(LABEL) + p.rts(D2, 1))
    )
    assert run.outcome is Outcome.MISDIRECTED
    assert run.frame == expect(run.frame, frame_to(UNKNOWN), D2, p.misdirected(D3), 8, flags=0x40)


def test_answers_of_this_droplet_have_no_label(dut: Dut) -> None:
    long = p.ethernet(MAC[A], MAC[R], p.IPV4, p.ipv4(R, A, p.udp(data=bytes(1400))))
    run = dut.from_underlay(tunnelled(long, options=p.label(LABEL) + p.rts(D2, 1, p.LABELS)))
    assert run.outcome is Outcome.ICMP_TOO_BIG_SENT_REMOTE
    assert run.frame[42:62] == b"\x03\0\x65\x58" + VNI.to_bytes(3, "big") + b"\0" + p.rts(D1, 0, p.UNLEARNT)


@pytest.mark.parametrize("outer", [4, 6])
def test_a_path_learns_and_unlearns_at_once_that_its_network_asks(dut: Dut, outer: int) -> None:
    """By the label option of direct packets, and by the flag of return-to-sender."""
    dut.fill(over_ipv6=outer == 6)
    for options, asks in [
        (b"", 0),
        (p.label(0, asking=True), PATH_ASKS),
        (p.label(LABEL, asking=True), PATH_ASKS),
        (p.label(LABEL), 0),
        (p.rts(over(outer)[0], 1, p.LABELS), PATH_ASKS),
        (b"", 0),
        (p.rts(over(outer)[0], 1, p.LABELS) + p.label(1), PATH_ASKS),
        (p.rts(over(outer)[0], 1), 0),
    ]:
        run = dut.from_underlay(tunnelled(frame_to(), Outer(*over(outer)), options=options))
        assert run.outcome is Outcome.DELIVERED
        assert dut.path_flags(R) == asks


@pytest.mark.parametrize("options", [p.label(LABEL), p.label(LABEL, asking=True), p.label(0)], ids=lambda o: o.hex())
def test_a_label_does_not_change_what_is_delivered(dut: Dut, options: bytes) -> None:
    plain = dut.from_underlay(tunnelled(frame_to()))
    assert dut.from_underlay(tunnelled(frame_to(), options=options)) == plain


WRONG = [
    ("without data", p.option(p.OPTION_CLASS, p.LABEL_TYPE)),
    ("of 8 bytes", p.option(p.OPTION_CLASS, p.LABEL_TYPE, bytes(8))),
    ("of 8 bytes that asks", p.option(p.OPTION_CLASS, p.LABEL_ASKING_TYPE, bytes(8))),
    ("a right one, then one without data", p.label(LABEL) + p.option(p.OPTION_CLASS, p.LABEL_ASKING_TYPE)),
    ("longer than the options", p.label(LABEL)[:3] + b"\x1f" + bytes(4)),
]


@pytest.mark.parametrize(("sentence", "options"), WRONG, ids=[sentence for sentence, _ in WRONG])
@pytest.mark.parametrize("role", ["receiver", "bouncer"])
def test_a_label_of_a_wrong_length_is_malformed(dut: Dut, role: str, sentence: str, options: bytes) -> None:
    del sentence
    to = bounced(dut, role)[0] if role == "bouncer" else A
    run = dut.from_underlay(tunnelled(frame_to(to), options=options))
    assert run.outcome is Outcome.MALFORMED_GENEVE


def test_a_critical_label_is_another_option_which_is_not_known(dut: Dut) -> None:
    run = dut.from_underlay(tunnelled(options=p.option(p.OPTION_CLASS, 0x80 | p.LABEL_TYPE, bytes(4))))
    assert run.outcome is Outcome.CRITICAL_OPTION


def test_the_last_of_several_labels_counts(dut: Dut) -> None:
    to, next_, _ = bounced(dut, "bouncer")
    many = p.label(1) + p.label(2, asking=True) + p.rts(D2, 0) + p.option(0x0102, p.LABEL_TYPE, bytes(8)) + p.label(3)
    run = dut.from_underlay(tunnelled(frame_to(to, UNKNOWN), Outer(ttl=9), options=many))
    assert run.frame == expect(run.frame, frame_to(to, UNKNOWN), next_, p.label(3) + p.rts(D2, 1), 8)


def test_a_strangers_label_is_not_read(dut: Dut) -> None:
    run = dut.from_underlay(tunnelled(outer=Outer(source=STRANGER), options=p.label(LABEL, asking=True)))
    assert run.outcome is Outcome.UNKNOWN_DROPLET
    assert dut.direct(R) is None


@pytest.mark.parametrize(("inner", "outer"), [(4, 4), (6, 4), (4, 6), (6, 6)])
@pytest.mark.parametrize("label", [0, LABEL])
def test_a_packet_of_the_endpoints_mtu_fits_the_path_by_every_route(
    dut: Dut, inner: int, outer: int, label: int
) -> None:
    """And one byte more is answered with that MTU."""
    labelled(dut, outer, label, INTERFACE_ASKS)
    room = 1500 - (94 if outer == 6 else 62) - (8 if label else 0)
    direct, bounce = (R6, UNKNOWN6) if inner == 6 else (R, UNKNOWN)
    dut.endpoint(direct, D2, flags=ENDPOINT_ASKS)
    dut.own_network(flags=NETWORK_ASKS)
    headers = 48 if inner == 6 else 28
    dut.interface(label=label, flags=INTERFACE_ASKS, mtu=9000)
    for to in (direct, bounce):
        assert dut.from_endpoint(from_a(to, p.udp(data=bytes(room - headers)))).outcome in (
            Outcome.SENT_DIRECT, Outcome.SENT_TO_BOUNCER,
        )  # fmt: skip
    run = dut.from_endpoint(from_a(bounce, p.udp(data=bytes(room - headers + 1))))
    assert run.outcome is Outcome.ICMP_TOO_BIG_SENT
    at = 14 + (40 if inner == 6 else 20) + 4
    assert int.from_bytes(run.frame[at : at + 4], "big") == room
