"""The advice about another program on an uplink never detaches a running agent."""

from __future__ import annotations

import pytest

from agent.core.uplinks.program_owners import (
    UNKNOWN_OWNER,
    Holder,
    Owner,
    Place,
    advice,
    description,
    description_in_front,
    possessive,
)

AGENT, OTHER = Holder(812, "droplet-agent"), Holder(77, "cilium-agent")
UPLINK, ENDPOINT = Place("eth0"), Place("dp12", "generic", "web-1")
TCX_FRONT, CLSACT_FRONT = Place("eth0", "tcx", in_front=True), Place("eth0", "clsact", in_front=True, handle=7)
RUNNING = "instance blue is running (process 812, droplet-agent)"


@pytest.mark.parametrize(
    ("owner", "place", "name", "words"),
    [
        (UNKNOWN_OWNER, UPLINK, "another owner's", "detach it (ip link set dev eth0 xdpdrv off) if nothing needs it"),
        (UNKNOWN_OWNER, Place("eth0", "generic"), "another owner's", "ip link set dev eth0 xdpgeneric off"),
        (UNKNOWN_OWNER, Place("eth0", "offload"), "another owner's", "ip link set dev eth0 xdpoffload off"),
        (Owner(link=9), UPLINK, "another owner's", "detach it (bpftool link detach id 9) if nothing needs it"),
        (
            UNKNOWN_OWNER,
            ENDPOINT,
            "another owner's",
            "ip link set dev dp12 xdpgeneric off): until then frames that endpoint",
        ),
        (Owner("", OTHER), UPLINK, "another owner's", "77 (cilium-agent) has it open: leave the program alone"),
        (
            Owner("", OTHER),
            ENDPOINT,
            "another owner's",
            "77 (cilium-agent) has it open: have that process detach it",
        ),
        (Owner("blue"), UPLINK, "the droplet instance blue's", "--uninstall"),
        (Owner("blue", AGENT), UPLINK, "the droplet instance blue's", RUNNING),
    ],
)
def test_each_owner_has_its_own_advice(owner: Owner, place: Place, name: str, words: str) -> None:
    assert possessive(owner) == name
    assert words in advice(owner, place)
    nobody = owner.holder is None and not owner.instance
    assert ("detach it (" in advice(owner, place)) is nobody
    assert ("use another interface" in advice(owner, place)) is (not place.endpoint and owner.holder != AGENT)


@pytest.mark.parametrize(
    ("owner", "place", "words"),
    [
        (
            UNKNOWN_OWNER,
            TCX_FRONT,
            "attached behind the agent's, or detach it (bpftool net detach tcx_ingress dev eth0)",
        ),
        (
            UNKNOWN_OWNER,
            CLSACT_FRONT,
            "attached with another priority than 1, or detach it (tc filter del dev eth0 ingress prio 1 handle 0x7 "
            "protocol all bpf) if nothing needs it",
        ),
        (Owner("", OTHER), TCX_FRONT, "77 (cilium-agent) has it open: have that process attach it behind the agent's"),
        (Owner("", OTHER), CLSACT_FRONT, "have that process attach it with another priority than 1"),
        (
            UNKNOWN_OWNER,
            Place("eth0", "clsact"),
            "tc filter del dev eth0 ingress prio 1 handle 0xd201 protocol all bpf",
        ),
    ],
)
def test_the_advice_about_a_program_at_tc_names_its_place(owner: Owner, place: Place, words: str) -> None:
    assert words in advice(owner, place)


@pytest.mark.parametrize("place", [TCX_FRONT, CLSACT_FRONT])
def test_a_program_in_front_is_told_from_one_in_the_agents_place(place: Place) -> None:
    assert "in front of the agent's" in description_in_front(UNKNOWN_OWNER, 7, place)


@pytest.mark.parametrize(
    ("owner", "place", "words"),
    [
        (Owner(program="count"), UPLINK, "another owner's XDP program count (id 7) is attached to eth0"),
        (Owner("blue", program="x"), UPLINK, "the droplet instance blue's XDP program x (id 7) is attached to eth0"),
        (UNKNOWN_OWNER, ENDPOINT, "another owner's XDP program (no name) (id 7) is attached to dp12 of endpoint web-1"),
    ],
)
def test_a_program_is_named_with_its_owner_and_its_place(owner: Owner, place: Place, words: str) -> None:
    assert description(owner, 7, place) == words


def test_a_program_is_named_with_its_id_also_without_a_name() -> None:
    assert Owner("blue", program="transit_xdp").name_program(77) == "transit_xdp (id 77)"
    assert UNKNOWN_OWNER.name_program(77) == "(no name) (id 77)"
