"""RFC 8926 on receipt: version, lengths, flags, options. A sentence, what stands in the header, an outcome."""

from __future__ import annotations

import itertools

import bpf_packets as p
import pytest
from bpf_dut import A6, D1, D2, D4, MAC, R6, S1, S2, S4, VNI, Dut
from bpf_tunnels import Outer, frame_to, tunnelled

from agent.datapath.bpf.outcomes import Outcome

SKIPPED = p.option(0x0102, 0x05, bytes(4))
CRITICAL = p.option(0x0102, 0x85, bytes(4))
BOTH = [pytest.param(Outer(), p.rts(D4), id="over IPv4"), pytest.param(Outer(S2, S1), p.rts(S4), id="over IPv6")]
"""Headers in front of Geneve, and a return-to-sender option that goes with them."""
AFAR = "10.0.0.44"
FROM_AFAR = frame_to(source=AFAR)
"""From an endpoint of which no document says where it is."""
DROPPED: dict[str, tuple[dict[str, object], Outcome]] = {
    "version 1": ({"version": 1}, Outcome.GENEVE_VERSION),
    "version 3": ({"version": 3}, Outcome.GENEVE_VERSION),
    "IPv4 without Ethernet": ({"protocol": p.IPV4}, Outcome.GENEVE_PROTOCOL),
    "an unknown protocol": ({"protocol": 0x88B5}, Outcome.GENEVE_PROTOCOL),
    "a control packet without a probe": ({"flags": 0x80}, Outcome.GENEVE_CONTROL),
    "a control packet with a critical option": ({"flags": 0xC0, "options": CRITICAL}, Outcome.CRITICAL_OPTION),
    "an unknown critical option": ({"flags": 0x40, "options": CRITICAL}, Outcome.CRITICAL_OPTION),
    "a critical option without the header's flag": ({"options": CRITICAL}, Outcome.CRITICAL_OPTION),
    "our class with an unknown critical type": ({"options": p.option(0xFF4D, 0x81)}, Outcome.CRITICAL_OPTION),
    "another class with our critical type": ({"options": p.option(0xFF4C, 0x82)}, Outcome.CRITICAL_OPTION),
    "a critical option behind 62 others": ({"options": p.option(1, 1) * 62 + p.option(1, 0x81)},
                                           Outcome.CRITICAL_OPTION),
    "an option one word longer than all": ({"options": p.option(1, 1, bytes(8)), "option_words": 2},
                                           Outcome.MALFORMED_GENEVE),
    "a second option that ends behind all": ({"options": SKIPPED + p.option(1, 1, bytes(124))[:-4]},
                                             Outcome.MALFORMED_GENEVE),
    "options longer than the datagram": ({"option_words": 63}, Outcome.MALFORMED_GENEVE),
    "options that leave no Ethernet header": ({"option_words": 10}, Outcome.MALFORMED_GENEVE),
    "an invalidation with a body": ({"options": p.option(0xFF4D, 0x82, bytes(4))}, Outcome.MALFORMED_GENEVE),
    "return to sender of another length": ({"options": p.option(0xFF4D, 1, bytes(12))}, Outcome.MALFORMED_GENEVE),
    "a probe of another length": ({"flags": 0x80, "options": p.option(0xFF4D, 3, bytes(8))}, Outcome.MALFORMED_GENEVE),
}  # fmt: skip


@pytest.mark.parametrize(("outer", "rts"), BOTH)
@pytest.mark.parametrize("sentence", DROPPED)
def test_what_a_tunnel_endpoint_must_drop(dut: Dut, sentence: str, outer: Outer, rts: bytes) -> None:
    dut.fill(over_ipv6=":" in outer.source)
    header, outcome = DROPPED[sentence]
    assert dut.from_underlay(tunnelled(None, outer, **header)).outcome is outcome


ACCEPTED: dict[str, dict[str, object]] = {
    "the critical flag with nothing critical": {"flags": 0x40},
    "reserved bits of the header's flags": {"flags": 0x3F},
    "reserved bits behind the VNI": {"reserved": 0xFF},
    "reserved bits of an option": {"options": p.option(0x0102, 0x05, bytes(4), reserved=7)},
    "an unknown option": {"options": SKIPPED},
    "an option without a body": {"options": p.option(0x0102, 0x05)},
    "the longest option": {"options": p.option(0x0102, 0x05, bytes(124))},
    "the longest options": {"options": p.option(0x0102, 0x05, bytes(120)) + p.option(0x0102, 0x05, bytes(124))},
    "63 options": {"options": p.option(0x0102, 0x05) * 63},
    "our class with an unknown type": {"options": p.option(0xFF4D, 0x7F, bytes(8))},
    "another class with our type": {"options": p.option(0x0102, 0x01, bytes(4))},
}


@pytest.mark.parametrize("inner", [frame_to(), frame_to(A6, R6)], ids=["IPv4 inside", "IPv6 inside"])
@pytest.mark.parametrize(("outer", "rts"), BOTH)
@pytest.mark.parametrize("sentence", ACCEPTED)
def test_what_a_tunnel_endpoint_must_accept(dut: Dut, sentence: str, outer: Outer, rts: bytes, inner: bytes) -> None:
    dut.fill(over_ipv6=":" in outer.source)
    run = dut.from_underlay(tunnelled(inner, outer, **ACCEPTED[sentence]))
    assert run.outcome is Outcome.DELIVERED
    assert run.frame == inner


@pytest.mark.parametrize(("outer", "rts"), BOTH)
@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_options_are_understood_in_any_order(dut: Dut, order: tuple[int, ...], outer: Outer, rts: bytes) -> None:
    dut.fill(over_ipv6=":" in outer.source)
    options = [rts, SKIPPED, p.option(0x0103, 0x06, bytes(20))]
    run = dut.from_underlay(tunnelled(FROM_AFAR, outer, options=b"".join(options[n] for n in order)))
    assert run.outcome is Outcome.DELIVERED
    assert (dut.direct(AFAR) or ("",))[0] == dut.droplet(D4)


@pytest.mark.parametrize("other", [SKIPPED, p.rts(D4)])
def test_a_critical_option_is_found_in_any_order(dut: Dut, other: bytes) -> None:
    for options in (other + CRITICAL, CRITICAL + other, other + CRITICAL + other):
        assert dut.from_underlay(tunnelled(options=options)).outcome is Outcome.CRITICAL_OPTION


@pytest.mark.parametrize(("outer", "rts"), BOTH)
def test_the_last_of_two_options_of_a_kind_counts(dut: Dut, outer: Outer, rts: bytes) -> None:
    dut.fill(over_ipv6=":" in outer.source)
    first = p.rts(dut.droplet("192.0.2.5"))
    assert dut.from_underlay(tunnelled(FROM_AFAR, outer, options=first + rts)).outcome is Outcome.DELIVERED
    assert (dut.direct(AFAR) or ("",))[0] == dut.droplet(D4)


def test_a_vni_is_another_vpc_in_all_of_its_24_bits(dut: Dut) -> None:
    for bit in range(24):
        run = dut.from_underlay(Outer().wrap(p.geneve(VNI ^ 1 << bit, frame_to(), options=p.rts(D4))))
        assert run.outcome is Outcome.MISDIRECTED, "another one, that this host does not know"


@pytest.mark.parametrize("over", [(D2, D1), (S2, S1)], ids=["over IPv4", "over IPv6"])
@pytest.mark.parametrize("length", range(len(p.geneve(VNI, frame_to(), options=p.rts(D4) + SKIPPED))))
def test_a_datagram_cut_anywhere_is_not_delivered(dut: Dut, length: int, over: tuple[str, str]) -> None:
    """The outer lengths are right for what is left: the parsers find the end by themselves."""
    dut.fill(over_ipv6=":" in over[0])
    whole = p.geneve(VNI, frame_to(), options=p.rts(dut.droplet(D4)) + SKIPPED)
    assert dut.from_underlay(Outer(*over).wrap(whole[:length])).outcome in {
        Outcome.MALFORMED_OUTER, Outcome.MALFORMED_GENEVE, Outcome.MALFORMED_INNER,
    }  # fmt: skip


@pytest.mark.parametrize("length", [0xFFFF, 65500, 65482, 65481, 65535 - 40, 13, 12])
def test_an_inner_length_of_ipv6_beyond_the_frame_is_malformed(dut: Dut, length: int) -> None:
    inner = p.ethernet(MAC[A6], MAC[R6], p.IPV6, p.ipv6(R6, A6, p.udp(), length=length))
    outcome = dut.from_underlay(tunnelled(inner)).outcome
    assert outcome is (Outcome.DELIVERED if length <= 12 else Outcome.MALFORMED_INNER)
