"""The advice about another program on an uplink never detaches a running agent."""

from __future__ import annotations

import pytest

from agent.core.uplinks.program_owners import STRANGER, Holder, Owner, advice, possessive

AGENT, OTHER = Holder(812, "droplet-agent"), Holder(77, "cilium-agent")


@pytest.mark.parametrize(
    ("owner", "name", "words"),
    [
        (STRANGER, "another owner's", "detach it (ip link set dev eth0 xdp off) if nothing needs it"),
        (Owner("", OTHER), "another owner's", "process 77 (cilium-agent) has it open"),
        (Owner("blue"), "the droplet instance blue's", "--uninstall"),
        (Owner("blue", AGENT), "the droplet instance blue's", "instance blue is running (process 812, droplet-agent)"),
    ],
    ids=["no owner", "a process's", "an instance's", "a running instance's"],
)
def test_each_owner_has_its_own_advice(owner: Owner, name: str, words: str) -> None:
    assert possessive(owner) == name
    assert words in advice(owner, "eth0")
    assert ("xdp off" in advice(owner, "eth0")) is (owner == STRANGER)


def test_a_program_is_named_with_its_id_also_without_a_name() -> None:
    assert Owner("blue", program="transit_xdp").name_program(77) == "transit_xdp (id 77)"
    assert STRANGER.name_program(77) == "(no name) (id 77)"
