"""The first packets of a conversation go by bouncers and dividers, and those that follow straight to the other host."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from lab.fixtures import SystemLab, running_lab, topology_text
from lab.neighbours import keep_neighbours
from lab.traffic import exchange_udp, pings, udp_socket
from lab.waiting import until

DETOURS = ("sent_to_bouncer", "bounced", "handed_to_bouncer", "handed_to_divider")
MANY = 300


@pytest.fixture(scope="module")
def lab(lab_cache: None) -> Iterator[SystemLab]:
    with running_lab("direct", topology_text("two_networks")) as lab:
        keep_neighbours(lab)
        yield lab


def grown(before: dict[str, dict[str, int]], after: dict[str, dict[str, int]]) -> dict[tuple[str, str], int]:
    """Return by how much counters of detours grew, by host and outcome, where they did."""
    return {
        (host, name): after[host][name] - before[host][name]
        for host in before
        for name in DETOURS
        if after[host][name] != before[host][name]
    }


@pytest.mark.parametrize(
    ("source", "destination", "stations"),
    [
        ("web-1", "web-2", {("h1", "sent_to_bouncer"), ("h3", "bounced")}),
        (
            "web-1",
            "data-1",
            {
                ("h1", "sent_to_bouncer"),
                ("h3", "handed_to_divider"),
                ("h4", "handed_to_bouncer"),
                ("h5", "bounced"),
            },
        ),
    ],
    ids=["in one network", "across networks"],
)
def test_a_conversation_begins_at_the_bouncer_and_goes_on_directly(lab, source, destination, stations):
    until(lambda: lab.path(source, destination).route == "bouncer", "the end of any learnt path")
    before = lab.all_counters()
    exchange_udp(lab, source, destination, [100])
    began = lab.all_counters()
    assert grown(before, began).keys() >= stations
    assert lab.path(source, destination).route == "direct"
    assert lab.path(source, destination).learnt

    exchange_udp(lab, source, destination, [100] * MANY)
    after = lab.all_counters()
    assert grown(began, after) == {}, "bouncers and dividers stand still"
    here, there = lab.host_of(source), lab.host_of(destination)
    for host in (here, there):
        assert after[host]["sent_direct"] - began[host]["sent_direct"] >= MANY
        assert after[host]["delivered"] - began[host]["delivered"] >= MANY


def test_traffic_without_replies_stays_on_the_bouncer(lab):
    """A direct path is learnt from what the other one sends, so that a lost host is not sent to for ever."""
    before = lab.counters("h3")["bounced"]
    with (
        udp_socket(lab.inside("web-2"), lab.address("web-2")) as sender,
        udp_socket(lab.inside("web-1"), lab.address("web-1"), 7104) as receiver,
    ):
        if lab.path("web-2", "web-1").route == "direct":
            until(lambda: lab.path("web-2", "web-1").route == "bouncer", "the end of the learnt path")
        for number in range(5):
            sender.sendto(bytes([number]), (lab.address("web-1"), 7104))
            assert receiver.recv(10) == bytes([number])
    assert lab.counters("h3")["bounced"] - before >= 5


def test_a_bouncer_without_its_agent_still_bounces(lab):
    until(lambda: lab.path("data-2", "data-1").route == "bouncer", "the end of any learnt path")
    lab.kill_agent("h5")
    try:
        assert pings(lab, "data-2", "data-1")
    finally:
        lab.restart_agent("h5")
