"""Which interfaces are pairs of functions, and whose."""

from __future__ import annotations

from agent.datapath.net.netlink import Message
from agent.datapath.processes.pair import PROCESS_IFINDEX, alias_of, own_pairs, unfinished_pairs


def link(index: int, name: str, alias: str | None = None) -> Message:
    attrs = [("IFLA_IFNAME", name), *([("IFLA_IFALIAS", alias)] if alias else [])]
    return {"index": index, "attrs": attrs}


LINKS = [
    link(2, "eth0"),
    link(3, "fnn9"),
    link(PROCESS_IFINDEX, "fnn0", alias_of("one", "f", 1)),
    link(PROCESS_IFINDEX + 1, "fnn1", alias_of("other", "f", 1)),
    link(PROCESS_IFINDEX + 2, "fnn2"),
    link(PROCESS_IFINDEX + 3, "mine", "of somebody"),
]


def test_an_instance_has_the_pairs_with_its_alias() -> None:
    assert own_pairs(LINKS, "one") == {PROCESS_IFINDEX: alias_of("one", "f", 1)}


def test_a_pair_whose_agent_was_killed_before_it_had_an_alias_is_nobodys() -> None:
    assert unfinished_pairs(LINKS) == [PROCESS_IFINDEX + 2]
