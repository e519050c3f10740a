"""Between networks: direct, or pinned through the divider."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from lab.counting import DETOURS, grown
from lab.fixtures import SystemLab, running_lab, topology_text
from lab.neighbours import keep_neighbours
from lab.traffic import exchange_all, exchange_udp, ping, pings, send_one_way
from lab.underlays import over
from lab.waiting import until

STATIONS = {
    ("secret-1", "secret-2"): {("h2", "sent_to_bouncer"), ("h5", "bounced")},
    ("web-1", "data-1"): {
        ("h1", "sent_to_bouncer"),
        ("h3", "handed_to_divider"),
        ("h4", "handed_to_bouncer"),
        ("h5", "bounced"),
    },
    ("data-1", "secret-2"): {
        ("h2", "sent_to_bouncer"),
        ("h5", "handed_to_divider"),
        ("h4", "handed_to_bouncer"),
        ("h5", "bounced"),
    },
    ("secret-2", "data-1"): {("h1", "sent_to_divider"), ("h4", "handed_to_bouncer"), ("h5", "bounced")},
}
"""Who passes on what is not answered, by its ends: within a pinned network, neither pinned, and either one.

In this order, for a host learns from all that reaches its endpoints.
"""


@pytest.fixture(scope="module", params=["ipv4", "ipv6"])
def pinned(request: pytest.FixtureRequest, lab_cache: None) -> Iterator[SystemLab]:
    with running_lab("pinned", over(request.param, topology_text("pinned_networks"))) as lab:
        keep_neighbours(lab)
        yield lab


@pytest.mark.parametrize("family", [4, 6])
def test_fragments_that_are_never_answered_reach_their_endpoint_by_bouncers_and_dividers(pinned, family):
    """Before anything is learnt; `STATIONS` are these."""
    for ends, stations in STATIONS.items():
        until(lambda ends=ends: pinned.path(*ends, family).route in ("bouncer", "divider"), "no learnt path")
        before = pinned.all_counters()
        send_one_way(pinned, *ends, 4000, family)
        after = pinned.all_counters()
        passed = {(host, name) for host, name in stations if after[host][name] - before[host][name] >= 9}
        assert passed == stations, "three fragments each"


@pytest.mark.parametrize("family", [4, 6])
def test_ordinary_networks_go_direct_after_the_first_packets(pinned, family):
    exchange_udp(pinned, "web-1", "data-1", [100, 100], family)
    before = pinned.all_counters()
    exchange_udp(pinned, "web-1", "data-1", [100] * 50, family)
    assert grown(before, pinned.all_counters(), *DETOURS) == 0
    assert pinned.path("web-1", "data-1", family).route == "direct"


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("ends", [("web-1", "secret-1"), ("secret-1", "web-1"), ("web-1", "secret-2")])
def test_every_packet_of_a_pinned_network_to_or_from_another_passes_a_divider(pinned, family, ends):
    """Also between endpoints of one host."""
    exchange_udp(pinned, *ends, [100, 100], family)
    before = pinned.all_counters()
    exchange_udp(pinned, *ends, [100] * 50, family)
    after = pinned.all_counters()
    assert after["h4"]["handed_to_bouncer"] - before["h4"]["handed_to_bouncer"] >= 100
    assert grown(before, after, "sent_direct", "delivered_same_host") == 0
    assert pinned.path(*ends, family).route == "divider"


@pytest.mark.parametrize("family", [4, 6])
def test_within_a_pinned_network_packets_go_direct(pinned, family):
    exchange_udp(pinned, "secret-1", "secret-2", [100, 100], family)
    before = pinned.all_counters()
    exchange_udp(pinned, "secret-1", "secret-2", [100] * 50, family)
    assert grown(before, pinned.all_counters(), *DETOURS) == 0


def test_everything_arrives_unchanged_between_pinned_networks_too(pinned):
    for one, other, family in pinned.talks():
        exchange_all(pinned, one, other, family, 200_000)


def test_a_pinned_network_stops_when_no_divider_is_left_and_the_others_go_on(pinned):
    exchange_udp(pinned, "web-1", "data-1", [100, 100])
    pinned.lossy = "the divider's wire was cut"
    port = pinned.ports()["h4", "eth0"]
    pinned.ip(pinned.names.fabric, "link", "set", port, "down")
    try:
        assert ping(pinned, "web-1", pinned.address("secret-1"), count=2, wait=1) == 0
        assert pings(pinned, "web-1", "data-1")
    finally:
        pinned.ip(pinned.names.fabric, "link", "set", port, "up")
    until(lambda: pings(pinned, "web-1", "secret-1"), "the divider's return")
