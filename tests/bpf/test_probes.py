"""Probes of the path between two droplets: Geneve control packets that transit XDP sends back as they came."""

from __future__ import annotations

import bpf_packets as p
import pytest
from bpf_dut import D1, D2, S1, S2, STRANGER, Dut
from bpf_tunnels import Outer

from agent.core.model import map_layout
from agent.datapath.bpf.outcomes import Outcome

CONTROL = 0x80
REQUEST, REPLY = 1, 2
OVER = [pytest.param((D2, D1), id="over IPv4"), pytest.param((S2, S1), id="over IPv6")]


def probe(kind: int, padding: int = 0, options: bytes = b"") -> bytes:
    return p.geneve(0, bytes(padding), options=options + p.probe(kind), flags=CONTROL)


def turned(over: tuple[str, str], payload: bytes, **fields: object) -> bytes:
    """Return the reply: addresses and ports are swapped, and the hop limit starts again."""
    peer, own = over
    outer = Outer(own, peer, port=50000, source_port=6081, **fields)  # type: ignore[arg-type]
    frame = outer.wrap(payload)
    return frame[6:12] + frame[:6] + frame[12:]


@pytest.mark.parametrize("over", OVER)
@pytest.mark.parametrize("padding", [0, 1, 14, 500, 1400, 1446])
def test_a_request_comes_back_as_long_as_it_came(dut: Dut, over: tuple[str, str], padding: int) -> None:
    dut.fill(over_ipv6=":" in over[0])
    run = dut.from_underlay(Outer(*over, ttl=9, tos=0x28, fragment=p.DF).wrap(probe(REQUEST, padding)))
    assert run.outcome is Outcome.PROBE_REFLECTED
    assert run.frame == turned(over, probe(REPLY, padding), tos=0x28, fragment=p.DF)


def test_a_right_checksum_stays_right_over_ipv4_too(dut: Dut) -> None:
    payload = probe(REQUEST, 33)
    check = p.summed(D2, D1, Outer().datagram(payload))[6:8]
    run = dut.from_underlay(Outer(udp_check=int.from_bytes(check, "big")).wrap(payload))
    assert run.outcome is Outcome.PROBE_REFLECTED
    assert p.checksum(run.frame[14:34]) == 0
    assert p.checksum(p.pseudo(D1, D2, len(run.frame) - 34, p.UDP) + run.frame[34:]) == 0


@pytest.mark.parametrize("over", OVER)
@pytest.mark.parametrize("vlan", [5, 0xA005, 0xE000])
def test_a_tag_comes_back_too(dut: Dut, vlan: int, over: tuple[str, str]) -> None:
    """Also one with a priority alone, for a droplet that is in no VLAN."""
    dut.fill(over_ipv6=":" in over[0])
    dut.local(int(":" in over[0]), over[1], vlan=vlan & 0xFFF)
    run = dut.from_underlay(Outer(*over, vlan=vlan).wrap(probe(REQUEST, 20)))
    assert run.outcome is Outcome.PROBE_REFLECTED
    assert run.frame == turned(over, probe(REPLY, 20), vlan=vlan)


def test_other_options_beside_a_probe_are_skipped(dut: Dut) -> None:
    skipped = p.option(0x0102, 5, bytes(8))
    run = dut.from_underlay(Outer().wrap(probe(REQUEST, 20, skipped)))
    assert run.frame == turned((D2, D1), probe(REPLY, 20, skipped))


@pytest.mark.parametrize(
    ("sentence", "frame", "outcome"),
    [
        ("a stranger's request", Outer(STRANGER).wrap(probe(REQUEST)), Outcome.UNKNOWN_DROPLET),
        ("a reply to the tunnel's port", Outer().wrap(probe(REPLY)), Outcome.GENEVE_CONTROL),
        ("a reply to the port that asked", Outer(port=50000, source_port=6081).wrap(probe(REPLY)), Outcome.PASSED),
        ("a request whose answer would look like VXLAN", Outer(source_port=4789).wrap(probe(REQUEST)),
         Outcome.GENEVE_CONTROL),
        ("a request whose answer would look like Geneve", Outer(source_port=6081).wrap(probe(REQUEST)),
         Outcome.GENEVE_CONTROL),
        ("another kind", Outer().wrap(probe(0)), Outcome.GENEVE_CONTROL),
        ("a request that is not marked as control", Outer().wrap(p.geneve(0, bytes(60), options=p.probe(REQUEST))),
         Outcome.INNER_PROTOCOL),
        ("a request without its option's end", Outer().wrap(p.geneve(0, b"", options=p.probe(REQUEST)[:-4],
                                                                     option_words=4, flags=CONTROL)),
         Outcome.MALFORMED_GENEVE),
        ("a wrong checksum", Outer(udp_check=7).wrap(probe(REQUEST)), Outcome.OUTER_CHECKSUM),
    ],
)  # fmt: skip
def test_packets_that_are_not_reflected_as_probes(dut: Dut, sentence: str, frame: bytes, outcome: Outcome) -> None:
    assert dut.from_underlay(frame).outcome is outcome


def test_a_probe_without_a_checksum_over_ipv6_needs_to_be_allowed_as_other_packets(dut: Dut) -> None:
    dut.fill(over_ipv6=True)
    frame = Outer(S2, S1, udp_check=0).wrap(probe(REQUEST))
    assert dut.from_underlay(frame).outcome is Outcome.NO_CHECKSUM
    dut.known(D2, map_layout.DROPLET_ZERO_CHECKSUM)
    run = dut.from_underlay(frame)
    assert run.outcome is Outcome.PROBE_REFLECTED
    assert run.frame[60:62] == b"\0\0"
