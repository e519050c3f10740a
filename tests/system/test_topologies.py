"""Every topology of the lab: endpoints of one VPC communicate, with the data compared, and no others do."""

from __future__ import annotations

import select
from collections.abc import Iterator

import pytest
from lab.balance import check_balance, check_crossing
from lab.fixtures import SystemLab, running_lab, topology_text
from lab.traffic import datagram_sizes, exchange_tcp, exchange_udp, ping, pings, udp_socket
from lab.waiting import until

from controller_sim.topology.model import gateway_of

TOPOLOGIES = [
    "one_bouncer",
    "two_bouncers",
    "same_host",
    "bouncer_on_host",
    "twin_tenants",
    "two_networks",
    "four_hosts",
]
MEBIBYTE = 1 << 20
PORT = 7103


@pytest.fixture(scope="module", params=TOPOLOGIES)
def lab(request: pytest.FixtureRequest, lab_cache: None) -> Iterator[SystemLab]:
    with running_lab("topo", topology_text(request.param)) as lab:
        yield lab


def test_every_pair_of_a_vpc_answers_the_first_ping_and_all_others(lab):
    assert [(a, b) for one, other in lab.pairs() for a, b in ((one, other), (other, one)) if not pings(lab, a, b)] == []


def test_a_mebibyte_crosses_each_tcp_connection_unchanged_in_both_directions(lab):
    for one, other, family in lab.talks():
        exchange_tcp(lab, one, other, MEBIBYTE, family)


def test_datagrams_of_all_sizes_and_fragments_arrive_unchanged_in_both_directions(lab):
    for one, other, family in lab.talks():
        sizes = datagram_sizes(lab, one, family)
        exchange_udp(lab, one, other, sizes, family)
        exchange_udp(lab, other, one, [1, sizes[-4]], family)


def test_an_endpoint_receives_packets_of_its_own_vpc_only(lab):
    """Every endpoint calls every address; only the endpoint with that address in the caller's VPC receives the call."""
    sockets = {name: udp_socket(lab.inside(name), port=PORT) for name in lab.endpoints}
    heard: dict[str, set[str]] = {name: set() for name in sockets}
    wanted = {
        name: {other for other in sockets if other != name and lab.vpc_of(other) == lab.vpc_of(name)}
        for name in sockets
    }

    def listen() -> bool:
        ready = select.select(list(sockets.values()), [], [], 0.05)[0]
        for name, socket in sockets.items():
            if socket in ready:
                heard[name].add(socket.recv(100).decode())
        return not ready and all(heard[name] >= wanted[name] for name in sockets)

    try:
        for name, socket in sockets.items():
            for address in {lab.address(other) for other in sockets} - {lab.address(name)}:
                socket.sendto(name.encode(), (address, PORT))
        until(listen, "every call")
    finally:
        for socket in sockets.values():
            socket.close()
    assert heard == wanted


def test_an_address_that_only_another_vpc_has_does_not_answer(lab):
    strangers = [
        (a, b)
        for a in lab.endpoints
        for b in lab.endpoints
        if lab.address(b) not in {lab.address(c) for c in lab.endpoints if lab.vpc_of(c) == lab.vpc_of(a)}
    ]
    for source, destination in strangers[:4]:
        assert ping(lab, source, lab.address(destination), count=2, wait=1) == 0


def test_an_endpoint_reaches_neither_the_underlay_nor_the_bus(lab):
    server = lab.topology.underlay.server
    assert ping(lab, lab.endpoints[0], server, count=2, wait=1) == 0


def test_the_gateway_answers_its_endpoints(lab):
    for endpoint in lab.endpoints:
        for cidr in lab.topology.networks[lab.topology.endpoints[endpoint].network].cidrs:
            assert ping(lab, endpoint, gateway_of(cidr)) == 3


def test_what_came_in_is_what_went_out_and_what_was_dropped_and_nothing_is_lost_between_hosts(lab):
    check_balance(lab.lab)
    check_crossing(lab)


def test_every_host_holds_exactly_its_documents(lab):
    for host in lab.hosts:
        assert lab.plan(host) == ()
        assert lab.status(host).repairs == 0
