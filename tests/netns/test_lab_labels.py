"""Labels in a lab: a function lets senders with one label in, by every route, at both hooks, and under changes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from lab.counting import grown
from lab.fixtures import SystemLab, running_lab
from lab.functions import at_port, drops, function, port_bytes, put, source
from lab.traffic import exchange_udp, mtu_of, send_one_way, unbroken_flow
from lab.waiting import PATIENCE, until

from agent.core.model.map_layout import DIRECT_PATH, OVERLAY_KEY, PATH_LABELS, MapName, mapped
from controller_sim.lab.controller import converge
from protocol.addresses import parse_address

VNI, PORT = 1001, 7411
ALLOWED, OTHER = 7, 4294967295
FAMILIES = (4, 6)
HOSTS = ("x", "t")
"""All of x's programs are at XDP, all of t's at tc. Their bouncer and divider is m."""
FAR = {"x": "t", "t": "x"}
TEXT = f"""\
agents:
  functions: {{accept: [source]}}
  hosts:
    x: {{endpoint_hook: xdp, uplink_hook: xdp}}
    t: {{endpoint_hook: tc, uplink_hook: tc}}
droplets:
  x: {{address: 172.18.0.11/24}}
  t: {{address: 172.18.0.12/24}}
  m: {{address: 172.18.0.13/24}}
vpcs:
  - {{name: red, vni: {VNI}, cidr: [10.0.0.0/16, "fd10::/48"], dividers: [m]}}
networks:
  - {{name: web, vpc: red, cidr: [10.0.1.0/24, "fd10:0:0:1::/64"], bouncers: [m], labels: true}}
  - {{name: data, vpc: red, cidr: [10.0.2.0/24, "fd10:0:0:2::/64"], bouncers: [m]}}
endpoints:
  - {{name: web-x, network: web, droplet: x, label: {ALLOWED}}}
  - {{name: web-t, network: web, droplet: t, label: {ALLOWED}}}
  - {{name: silent-x, network: web, droplet: x, label: {ALLOWED}}}
  - {{name: silent-t, network: web, droplet: t, label: {ALLOWED}}}
  - {{name: data-x, network: data, droplet: x, label: {ALLOWED}}}
  - {{name: data-t, network: data, droplet: t, label: {ALLOWED}}}
  - {{name: wrong-x, network: data, droplet: x, label: {OTHER}}}
  - {{name: wrong-t, network: data, droplet: t, label: {OTHER}}}
  - {{name: bare-x, network: web, droplet: x}}
  - {{name: bare-t, network: web, droplet: t}}
"""
"""What is sent to `silent-x` and `silent-t` is never answered: it always goes by m."""
FILTER = source(at_port(f"return stage->label == {ALLOWED} ? STAGE_GO_ON : STAGE_DROP;"))


def filter_everywhere(lab: SystemLab) -> None:
    """Have the function on both hosts, for the network that asks."""
    filtering = function(
        "only-allowed", "to_endpoint", FILTER, vpc="red", networks=("web",), configuration=port_bytes(PORT)
    )
    for host in HOSTS:
        put(lab, host, "tenant.labels", filtering)


@pytest.fixture(scope="module")
def lab(lab_cache: None) -> Iterator[SystemLab]:
    with running_lab("labels", TEXT) as made:
        filter_everywhere(made)
        yield made


def adopt(lab: SystemLab, text: str) -> None:
    """Make another topology the one in force."""
    lab.lab.adopt(text)
    report = converge(lab.lab, timeout=PATIENCE)
    assert report.converged, report.problems
    vars(lab).pop("topology", None)  # it is read anew
    lab.text = text
    filter_everywhere(lab)  # what is not in the topology was removed


def asks(lab: SystemLab, host: str, endpoint: str, family: int) -> bool | None:
    """Say whether a host has learnt that the network of an endpoint asks for labels; None if it knows no path."""
    key = OVERLAY_KEY.pack(VNI, mapped(parse_address(lab.address(endpoint, family))))
    found = lab.entries(host, MapName.DIRECT).get(key)
    return None if found is None else bool(DIRECT_PATH.unpack(found)[1] & PATH_LABELS)


def lets_in_only_allowed(lab: SystemLab, host: str, receiver: str, family: int) -> bool:
    """Say whether of a host's endpoints only the one with the label reaches the port."""
    lost = [drops(lab, (f"{sender}-{host}", receiver), family, PORT) for sender in ("data", "wrong", "bare")]
    return lost == [False, True, True]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("receiver", HOSTS)
def test_a_function_sees_labels_that_come_by_bouncer_and_divider(lab, receiver, family):
    before = lab.all_counters()
    assert lets_in_only_allowed(lab, FAR[receiver], f"silent-{receiver}", family)
    assert grown(before, lab.all_counters(), "sent_direct") == 0


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("receiver", HOSTS)
def test_a_function_sees_labels_of_direct_packets(lab, receiver, family):
    for sender in ("data", "wrong", "bare"):
        exchange_udp(lab, f"{sender}-{FAR[receiver]}", f"web-{receiver}", [100, 100], family)
    before = lab.all_counters()
    assert lets_in_only_allowed(lab, FAR[receiver], f"web-{receiver}", family)
    assert grown(before, lab.all_counters(), "sent_direct") >= 6


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("receiver", HOSTS)
def test_a_function_sees_labels_of_endpoints_of_its_host(lab, receiver, family):
    assert lets_in_only_allowed(lab, receiver, f"web-{receiver}", family)


def test_a_label_that_changes_under_traffic_takes_effect_without_loss(lab):
    changed = lab.text.replace(
        f"name: data-t, network: data, droplet: t, label: {ALLOWED}", "name: data-t, network: data, droplet: t"
    )
    with ExitStack() as flows:
        for family in FAMILIES:
            flows.enter_context(unbroken_flow(lab, "data-t", "web-x", family))
        before = lab.text
        for text, dropped in ((changed, True), (before, False)):
            adopt(lab, text)
            for family in FAMILIES:
                assert drops(lab, ("data-t", "web-x"), family, PORT) is dropped
                assert drops(lab, ("data-t", "silent-x"), family, PORT) is dropped


@pytest.mark.parametrize("receiver", HOSTS)
def test_a_network_that_stops_asking_gets_no_labels_and_again_when_it_asks(lab, receiver):
    """Paths in use follow without documents at the sender's host; functions there see no label at once."""
    host = FAR[receiver]
    ends, before = (f"data-{host}", f"web-{receiver}"), lab.text
    with ExitStack() as flows:
        for family in FAMILIES:
            flows.enter_context(unbroken_flow(lab, *ends, family))
        for text, asked in ((before.replace(", labels: true", ""), False), (before, True)):
            adopt(lab, text)
            for family in FAMILIES:
                until(
                    lambda family=family, asked=asked: asks(lab, host, ends[1], family) is asked, "a path that follows"
                )
                assert drops(lab, ends, family, PORT) is not asked


@pytest.mark.parametrize("family", FAMILIES)
def test_the_longest_packets_of_labelled_endpoints_arrive_by_bouncers_too(lab, family):
    headers = 28 if family == 4 else 48
    for sender, receiver in (("data-t", "silent-x"), ("data-x", "silent-t")):
        mtu = mtu_of(lab, sender)
        assert mtu == 1500 - 62 - 8
        send_one_way(lab, sender, receiver, mtu - headers, family)
