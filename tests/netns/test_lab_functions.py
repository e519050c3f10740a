"""Functions in a lab, asked by real packets: each point and verdict, order, scope, both hooks, both families."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address

import pytest
from lab.asked import BASE, REASON, Asked
from lab.fixtures import SystemLab, running_lab
from lab.function_topology import FAMILIES, HOSTS, OTHER, TEXT
from lab.functions import (
    SENDING_PORT,
    at_port,
    counted,
    datagrams,
    drops,
    function,
    grows_to,
    heard,
    installed,
    nothing_heard,
    port_bytes,
    put,
    source,
)

from agent.core.model.hooks import POINTS
from agent.core.model.map_layout import mapped
from protocol import codec
from protocol.documents import Function
from protocol.status import Counters

GO_ON, DROP, SEND_BACK, SEND_TO = 1, 2, 3, 4
OBEDIENT = source(
    f"""\
	const struct targets *targets = stage_configuration(stage);
	const __be16 *target;
	__u16 from, to;
	__u8 *payload;

	if (stage_ports(stage, &from, &to) || to != {BASE} + stage->point)
		return STAGE_GO_ON;
	payload = stage_frame(stage) + stage_bounded(stage->transport + 8, STAGE_OFFSET);
	if ((void *)(payload + 1) > stage_end(stage))
		return STAGE_GO_ON;
	switch (*payload) {{
	case STAGE_DROP:
		stage->reason = {REASON};
		return STAGE_DROP;
	case STAGE_SEND_BACK:
		return stage_swap(stage) ? 0 : STAGE_SEND_BACK;
	case STAGE_SEND_TO:
		stage->target = stage->ethertype == STAGE_IPV4 ? targets->ipv4 : targets->ipv6;
		target = (const __be16 *)&stage->target;
		if (stage->ethertype == STAGE_IPV4)
			return stage_replace(stage, 32, target[7]) ? 0 : STAGE_SEND_TO;
		return stage_replace(stage, 44, target[3]) || stage_replace(stage, 52, target[7]) ? 0 : STAGE_SEND_TO;
	}}
	return STAGE_GO_ON;""",
    "struct targets { struct stage_address ipv4, ipv6; };",
)
"""Of addresses it replaces the words by which those of this lab's networks differ."""
AT_PASSED = source(f"""\
	__u16 *frame = stage_start(stage);

	if ((void *)(frame + 22) > stage_end(stage) || frame[6] != STAGE_SWAP16(STAGE_IPV4))
		return STAGE_GO_ON;
	if (frame[18] != STAGE_SWAP16({BASE} + STAGE_PASSED))
		return STAGE_GO_ON;
	switch (frame[21] & 0xff) {{
	case STAGE_DROP:
		stage->reason = {REASON};
		return STAGE_DROP;
	case STAGE_SEND_BACK:
		stage_exchange(frame, 3);
		stage_exchange(frame + 13, 2);
		stage_exchange(frame + 17, 1);
		return STAGE_SEND_BACK;
	}}
	return STAGE_GO_ON;""")
"""The same for what is not parsed: UDP over IPv4 to the host itself."""
OF_HOST = ("from_underlay", "passed")


def obedient(lab: SystemLab, host: str) -> dict[str, list[Function]]:
    """Return a function for each point, by the document that may list it. The target is the host's other endpoint."""
    both = [mapped(ip_address(lab.address(f"other-{host}", family)).packed) for family in FAMILIES]
    made: dict[str, list[Function]] = {"tenant.obedient": [], "host.obedient": []}
    for point in POINTS:
        vpc = "" if point in OF_HOST else "red"
        name = "host.obedient" if point in OF_HOST else "tenant.obedient"
        text = AT_PASSED if point == "passed" else OBEDIENT
        made[name].append(function(f"at-{point}", point, text, vpc=vpc, configuration=b"".join(both)))
    return made


@pytest.fixture(scope="module")
def lab(lab_cache: None) -> Iterator[SystemLab]:
    with running_lab("functions", TEXT) as made:
        for host in HOSTS:
            for name, functions in obedient(made, host).items():
                put(made, host, name, *functions)
        yield made


def at(point: str) -> str:
    """Return the id of the function at a point."""
    return f"at-{point}"


def in_families(point: str) -> tuple[int, ...]:
    """Return the families in which packets pass a point: this lab's underlay has one."""
    return FAMILIES if point != "passed" else (4,)


ACTING = [point for point in POINTS if point != "dropped"]
at_hosts = pytest.mark.parametrize("host", HOSTS)
at_points = pytest.mark.parametrize("point", ACTING)


@at_hosts
@at_points
def test_a_packet_goes_on_or_is_dropped_for_a_reason_as_the_function_says(lab, host, point):
    for family in in_families(point):
        with datagrams() as sockets:
            asked = Asked(lab, host, at(point), point, family, sockets)
            before = asked.counted()
            asked.send(DROP)
            passed = asked.send(GO_ON)
            assert heard(asked.receiver) == passed, "the first one never came"
            grown = grows_to(lab, host, asked.id, before, dropped=1)
            assert (grown.dropped, grown.reasons, grown.faults) == (1, {REASON: 1}, 0)
            assert grown.went_on >= 1
            assert nothing_heard(asked.receiver)
            asked.note_at_passed()


@at_hosts
@at_points
def test_a_packet_that_a_function_answers_comes_back_to_its_sender(lab, host, point):
    for family in in_families(point):
        with datagrams() as sockets:
            asked = Asked(lab, host, at(point), point, family, sockets)
            before = asked.counted()
            sent = asked.send(SEND_BACK)
            payload, peer = asked.sender.recvfrom(100)
            assert (payload, *peer[:2]) == (sent, asked.address, asked.port)
            assert (asked.counted() - before).sent_back == 1
            asked.send(GO_ON)
            assert heard(asked.receiver)[0] == GO_ON, "the receiver got no other"
            asked.note_at_passed()


@at_hosts
@pytest.mark.parametrize("point", [point for point in ACTING if point != "passed"])
def test_a_packet_that_a_function_sends_elsewhere_arrives_at_that_endpoint(lab, host, point):
    """With its address: the checksums that the function left are right."""
    for family in FAMILIES:
        with datagrams() as sockets:
            asked = Asked(lab, host, at(point), point, family, sockets)
            before = asked.counted()
            sent = asked.send(SEND_TO)
            assert heard(asked.target) == sent
            assert (asked.counted() - before).sent_to == 1
            asked.send(GO_ON)
            assert heard(asked.receiver)[0] == GO_ON, "the receiver got no other"


@at_hosts
def test_functions_at_dropped_meet_what_others_dropped_and_cannot_save_it(lab, host):
    for family in FAMILIES:
        with datagrams() as sockets:
            asked = Asked(lab, host, at("from_endpoint"), "from_endpoint", family, sockets)
            before = counted(lab, host, "at-dropped")
            asked.send(DROP)
            grown = grows_to(lab, host, "at-dropped", before, packets=1)
            assert (grown.went_on, grown.faults) == (1, 0)
            asked.send(GO_ON)
            assert heard(asked.receiver)[0] == GO_ON


@at_hosts
def test_the_counters_of_functions_in_telemetry_are_those_of_the_kernel(lab, host):
    """Of verdicts that only packets of these tests get."""
    with datagrams() as sockets:
        asked = Asked(lab, host, at("from_endpoint"), "from_endpoint", 6, sockets)
        before = asked.counted()
        asked.send(DROP)
        grows_to(lab, host, asked.id, before, dropped=1)
        own = asked.counted()
    functions = codec.decode(lab.ask(host, "counters"), Counters).functions
    (found,) = [one for one in functions if one.function == asked.id]
    assert (found.point, found.dropped, found.sent_to) == ("from_endpoint", own.dropped, own.sent_to)
    assert found.reasons == {str(reason): packets for reason, packets in own.reasons.items()}


ORDER_PORT = 7301
DIGIT = at_port(
    """\
	__be16 *word = stage_word(stage, stage->transport + 8);
	return word && !stage_replace(stage, stage->transport + 8, *word * 10 + %d) ? STAGE_GO_ON : 0;"""
)


@at_hosts
def test_functions_of_one_point_run_by_their_order_and_then_by_id(lab, host):
    """Each adds a digit to the payload, in base 10; what is published anew in another order runs so from then on."""

    def digits(*places: tuple[str, int, int]) -> list[Function]:
        more = {"vpc": "red", "configuration": port_bytes(ORDER_PORT), "on_fault": "closed"}
        return [
            function(id_, "from_endpoint", source(DIGIT % digit), order=order, **more) for id_, digit, order in places
        ]

    def sent() -> list[int]:
        found = []
        for family in FAMILIES:
            with datagrams() as sockets:
                one = sockets.socket(lab.inside(f"web-{host}"), lab.address(f"web-{host}", family), SENDING_PORT)
                to = lab.address(f"web-{OTHER[host]}", family)
                other = sockets.socket(lab.inside(f"web-{OTHER[host]}"), to, ORDER_PORT)
                one.sendto(bytes(20), (to, ORDER_PORT))
                found.append(int.from_bytes(heard(other)[:2], "little"))
        return found

    with installed(lab, host, "tenant.order", *digits(("a", 1, 9), ("b", 2, 0), ("c", 3, 0))):
        assert sent() == [231, 231]
        put(lab, host, "tenant.order", *digits(("a", 1, 0), ("b", 2, 0), ("c", 3, 0)))
        assert sent() == [123, 123]
        put(lab, host, "tenant.order", *digits(("a", 1, 1), ("c", 3, 0)))
        assert sent() == [31, 31]


DROPPING = source(at_port("return STAGE_DROP;"))
SCOPES = {
    "vpc": {"vpc": "red"},
    "network": {"vpc": "red", "networks": ("web",)},
    "endpoint": {"vpc": "red", "endpoints": ("web-{host}",)},
}
SCOPE_PORT = 7310


def scoped(host: str, point: str) -> list[Function]:
    """Return functions of each scope, each of which drops what comes to a port of its own."""
    made = []
    for number, (name, fields) in enumerate(SCOPES.items()):
        own = {
            key: tuple(one.format(host=host) for one in ids) if isinstance(ids, tuple) else ids
            for key, ids in fields.items()
        }
        port = SCOPE_PORT + number
        made.append(function(f"{name}-{point}", point, DROPPING, configuration=port_bytes(port), **own))
    return made


def pair_of(lab: SystemLab, point: str, local: str, peer: str) -> tuple[str, str]:
    return (local, peer) if point == "from_endpoint" else (peer, local)


@at_hosts
@pytest.mark.parametrize("point", ["from_endpoint", "to_endpoint"])
def test_a_function_meets_the_packets_of_its_scope_and_no_others(lab, host, point):
    """Of another endpoint of the network, another network of the VPC, and another VPC with the same addresses."""
    other = OTHER[host]
    locals_ = {
        f"web-{host}": f"web-{other}",
        f"other-{host}": f"web-{other}",
        f"by-{other}-{host}": f"web-{other}",
        f"shop-{host}": f"shop-{other}",
    }
    with installed(lab, host, "tenant.scope", *scoped(host, point)):
        dropped = {}
        for number, name in enumerate(SCOPES):
            seen = {
                local: {
                    drops(lab, pair_of(lab, point, local, peer), family, SCOPE_PORT + number) for family in FAMILIES
                }
                for local, peer in locals_.items()
            }
            dropped[name] = [seen[local] for local in locals_]
            found = counted(lab, host, f"{name}-{point}")
            assert found.dropped == found.reasons[0] == len(FAMILIES) * (3 - number)
    gone, came = {True}, {False}
    assert dropped == {
        "vpc": [gone, gone, gone, came],
        "network": [gone, gone, came, came],
        "endpoint": [gone, came, came, came],
    }


def test_a_function_of_one_vpc_at_the_underlay_and_on_the_bouncer_meets_no_other_vpc(lab):
    """On x, which bounces a network of each tenant."""
    underlay = function("of-red", "from_underlay", DROPPING, vpcs=("red",), configuration=port_bytes(SCOPE_PORT))
    forwarded = function("bounced", "forwarded", DROPPING, vpc="red", configuration=port_bytes(SCOPE_PORT + 1))
    with installed(lab, "x", "host.scope", underlay), installed(lab, "x", "tenant.bounced", forwarded):
        for family in FAMILIES:
            assert drops(lab, ("web-t", "web-x"), family, SCOPE_PORT)
            assert not drops(lab, ("shop-t", "shop-x"), family, SCOPE_PORT)
            assert drops(lab, ("by-x-t", "by-x-m"), family, SCOPE_PORT + 1)
            assert not drops(lab, ("shop-by-x-t", "shop-by-x-m"), family, SCOPE_PORT + 1)
        assert [counted(lab, "x", one).dropped for one in ("of-red", "bounced")] == [len(FAMILIES)] * 2


def test_a_function_of_one_host_leaves_what_other_hosts_do_alone(lab):
    function_ = function("local", "from_endpoint", DROPPING, vpc="red", configuration=port_bytes(SCOPE_PORT))
    with installed(lab, "x", "tenant.local", function_):
        assert drops(lab, ("web-x", "web-t"), 4, SCOPE_PORT)
        assert not drops(lab, ("web-t", "web-x"), 4, SCOPE_PORT)


def test_the_receivers_of_this_host_are_met_at_to_endpoint_too(lab):
    """Between two endpoints of one host, at both hooks."""
    for host in HOSTS:
        one = function("same", "to_endpoint", DROPPING, vpc="red", configuration=port_bytes(SCOPE_PORT))
        with installed(lab, host, "tenant.same", one):
            for family in FAMILIES:
                assert drops(lab, (f"web-{host}", f"other-{host}"), family, SCOPE_PORT)
        assert not drops(lab, (f"web-{host}", f"other-{host}"), 4, SCOPE_PORT), "not any more"
