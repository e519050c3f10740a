"""A bouncer ends one tunnel and begins another: of either family, tagged or not, whatever the one that ended was."""

from __future__ import annotations

import bpf_packets as p
import pytest
from bpf_dut import (
    D1,
    D2,
    D3,
    D4,
    DROPLET_MAC,
    R6,
    S1,
    S2,
    S3,
    S4,
    SECOND_UPLINK,
    UNKNOWN,
    UNKNOWN6,
    UPLINK,
    VNI,
    Dut,
    R,
)  # fmt: skip
from bpf_tunnels import Outer, frame_to

from agent.core.model import map_layout
from agent.datapath.bpf.outcomes import Outcome

GENEVE, VXLAN = 6081, 4789
TAG_IN, TAG_OUT = 5, 6


def two_uplinks(dut: Dut, came: int, goes: int, tags: tuple[int, int], flags: int) -> None:
    """Give this host a droplet on each of two uplinks; frames come in on the first, and R is behind the second."""
    dut.fill(over_ipv6=came == 6)
    dut.local(0, S1 if came == 6 else D1, vlan=tags[0])
    dut.local(1, S1 if goes == 6 else D1, SECOND_UPLINK, vlan=tags[1])
    for name in (D2, D3, D4):
        dut.no_next_hop(name)
    dut.over_ipv6 = goes == 6
    for receiver in (R, R6):
        dut.endpoint(receiver, D3, flags=flags)
    dut.next_hop(D3, by=1)


@pytest.mark.parametrize("tags", [(0, 0), (TAG_IN, 0), (0, TAG_OUT), (TAG_IN, TAG_OUT)], ids=str)
@pytest.mark.parametrize("kinds", [(GENEVE, GENEVE), (GENEVE, VXLAN), (VXLAN, GENEVE), (VXLAN, VXLAN)], ids=str)
@pytest.mark.parametrize(("came", "goes"), [(4, 4), (4, 6), (6, 4), (6, 6)])
@pytest.mark.parametrize("inner", [4, 6])
def test_every_byte_of_a_bounced_packet(
    dut: Dut, inner: int, came: int, goes: int, kinds: tuple[int, int], tags: tuple[int, int]
) -> None:
    two_uplinks(dut, came, goes, tags, map_layout.ENDPOINT_VXLAN if kinds[1] == VXLAN else 0)
    frame = frame_to(R6 if inner == 6 else R, UNKNOWN6 if inner == 6 else UNKNOWN, tos=0x02)
    peer, own, origin = (S2, S1, S4) if came == 6 else (D2, D1, D4)
    rts = p.rts(origin, 1) + p.option(0x0102, 5, bytes(8))
    payload = p.geneve(VNI, frame, options=rts) if kinds[0] == GENEVE else p.vxlan(VNI, frame)
    run = dut.from_underlay(
        Outer(peer, own, port=kinds[0], ttl=9, tos=0xBA, source_port=60001, vlan=tags[0] or None).wrap(payload)
    )
    assert run.outcome is Outcome.BOUNCED
    assert run.frame == expected(run.frame, frame, came, goes, kinds, tags[1])


def expected(found: bytes, frame: bytes, came: int, goes: int, kinds: tuple[int, int], tag: int) -> bytes:
    """Return the whole frame; only the flow label is taken from what was found."""
    from_, to = (S1, S3) if goes == 6 else (D1, D3)
    at = 18 if tag else 14
    outer = Outer(
        from_, to, port=kinds[1], ttl=8, tos=0xBA, source_port=60001, vlan=tag or None, fragment=p.DF,
        label=int.from_bytes(found[at : at + 4], "big") & 0xFFFFF if goes == 6 else 0,
        to_mac=DROPLET_MAC[to], from_mac=DROPLET_MAC[D1],
    )  # fmt: skip
    if kinds[1] == VXLAN:
        return outer.wrap(p.vxlan(VNI, frame))
    vxlan = kinds[0] == VXLAN
    origin = (S2 if vxlan else S4) if came == 6 else (D2 if vxlan else D4)
    flags, bounces = (p.UNLEARNT | p.SPEAKS_VXLAN, 1) if vxlan else (0, 2)
    if (came, goes) == (4, 6):
        origin = f"::ffff:{origin}"
    if (came, goes) == (6, 4):
        origin, flags = D1, p.UNLEARNT
    return outer.wrap(p.geneve(VNI, frame, options=p.rts(origin, bounces, flags)))


def test_both_ends_of_a_bounce_are_on_one_uplink_of_two_vlans(dut: Dut) -> None:
    dut.local(0, D1, UPLINK, vlan=TAG_IN)
    dut.local(1, "192.0.2.6", UPLINK, vlan=TAG_OUT)
    dut.endpoint(R, D2)
    run = dut.from_underlay(Outer(vlan=TAG_IN).wrap(p.geneve(VNI, frame_to(R), options=p.rts(D4))))
    assert run.outcome is Outcome.BOUNCED
    assert run.frame[12:16] == b"\x81\x00" + TAG_IN.to_bytes(2, "big"), "the droplet that it came for reaches the next"
