"""Function endpoints in a lab of real agents: a program and a process that answer, and a gateway that sends on."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from ipaddress import ip_address

import pytest
from lab.fixtures import SystemLab, running_lab
from lab.functions import SENDING_PORT, datagrams, function, heard, installed, nothing_heard, put, source
from lab.traffic import exchange_stream
from lab.waiting import until

from agent.core.model.map_layout import INTERFACE, INTERFACE_FUNCTION, Interface, mapped
from netns.test_lab_function_processes import USER, open_folders, process, socket_of, until_served
from protocol.acknowledgements import State
from protocol.documents import Function, FunctionProcess, FunctionProgram, FunctionScope

FAMILIES = (4, 6)
HOSTS = ("x", "t")
OTHER = {"x": "t", "t": "x"}
TEXT = """\
agents:
  functions: {accept: [source, process]}
  hosts:
    x: {endpoint_hook: xdp, uplink_hook: xdp}
    t: {endpoint_hook: tc, uplink_hook: tc}
droplets:
  x: {address: 172.18.0.11/24}
  t: {address: 172.18.0.12/24}
  m: {address: 172.18.0.13/24}
vpcs:
  - {name: red, vni: 1001, cidr: [10.0.0.0/16, "fd10::/48"], dividers: [m]}
networks:
  - {name: web, vpc: red, cidr: [10.0.1.0/24, "fd10:0:0:1::/64"], bouncers: [m]}
  - {name: far, vpc: red, cidr: [10.0.2.0/24, "fd10:0:0:2::/64"], bouncers: [m]}
endpoints:
  - {name: web-x, network: web, droplet: x}
  - {name: web-t, network: web, droplet: t}
  - {name: other-x, network: web, droplet: x}
  - {name: other-t, network: web, droplet: t}
  - {name: echo-x, network: web, droplet: x, attachment: function}
  - {name: echo-t, network: web, droplet: t, attachment: function}
  - {name: far-x, network: far, droplet: x, attachment: function}
  - {name: far-t, network: far, droplet: t, attachment: function}
  - {name: nat-x, network: web, droplet: x, attachment: function}
  - {name: nat-t, network: web, droplet: t, attachment: function}
  - {name: asked-x, network: web, droplet: x, attachment: function}
  - {name: asked-t, network: web, droplet: t, attachment: function}
"""
PORT = 7
ECHO = source(
    f"""\
	__u16 from, to;

	if (stage_ports(stage, &from, &to) || to != {PORT})
		return STAGE_GO_ON;
	return stage_swap(stage) ? STAGE_DROP : STAGE_SEND;"""
)
NAT = source(
    """\
	const struct stage_address *known = stage_configuration(stage);
	struct stage_address from, to;
	__u16 *frame = stage_frame(stage);
	int answer = 1, i;

	if (stage_addresses(stage, &from, &to) || (void *)(frame + 6) > stage_end(stage))
		return STAGE_DROP;
	if (stage->ethertype == STAGE_IPV6)
		known += 3;
	for (i = 0; i < 4; i++)
		if (from.word[i] != known[1].word[i])
			answer = 0;
	from = known[0];
	to = answer ? known[2] : known[1];
	stage_exchange(frame, 3);
	if (stage_replace_address(stage, 0, &from) || stage_replace_address(stage, 1, &to))
		return STAGE_DROP;
	return STAGE_SEND;"""
)
"""For a client and a server that know its address alone. Configuration: own, server and client; of IPv4, then IPv6."""
ASKED = """
import sys
from droplet_functions import GO_ON, KEEP, SEND, Function, drop, rewrite
from droplet_functions.headers import parse
function = Function(sys.argv[1], own_packets=8)
others = {4: sys.argv[2], 6: sys.argv[3]}

@function.on_packet
def handle(packet):
    layers = packet.layers()
    udp = layers.udp
    if not udp or udp.destination_port != 7:
        return GO_ON
    data = packet.data
    source, destination = str(layers.ip.source), str(layers.ip.destination)
    asked = bytes(data[udp.offset + 8:udp.offset + 13])
    if asked == b"forge":
        destination = others[layers.ip.version]
    data[0:12] = bytes(data[6:12]) + bytes(data[0:6])
    rewrite.set_source(layers, destination)
    rewrite.set_destination(parse(data), source)
    rewrite.set_source_port(parse(data), udp.destination_port)
    rewrite.set_destination_port(parse(data), udp.source_port)
    if asked == b"later":
        return KEEP if function.send(data, packet.meta.endpoint_slot) else drop(1)
    return SEND

function.run()
"""


def of_endpoint(id_: str, endpoint: str, text: str, **fields: bytes) -> Function:
    return function(id_, "to_endpoint", text, vpc="red", endpoints=(endpoint,), **fields)


@pytest.fixture(scope="module")
def lab(lab_cache: None) -> Iterator[SystemLab]:
    with running_lab("fnendpoints", TEXT) as made, contextlib.ExitStack() as stack:
        for host in HOSTS:
            nat = b"".join(
                mapped(ip_address(made.address(name, family)).packed)
                for family in FAMILIES
                for name in (f"nat-{host}", f"web-{host}", f"web-{OTHER[host]}")
            )
            put(
                made,
                host,
                "tenant.programs",
                function("echo", "to_endpoint", ECHO, vpc="red", endpoints=(f"echo-{host}", f"far-{host}")),
                of_endpoint("nat", f"nat-{host}", NAT, configuration=nat),
            )
            scope = FunctionScope(endpoints=(f"asked-{host}",))
            program = FunctionProgram(process=FunctionProcess(str(USER)))
            put(made, host, "tenant.process", Function("asked", "to_endpoint", program, vpc="red", scope=scope))
            until(socket_of(made, host, "asked").exists)
            open_folders(made)
            stack.enter_context(process(made, host, "asked", ASKED))
            until_served(made, host, "asked")
        yield made


def echoed(lab: SystemLab, asking: str, answering: str, family: int, payload: bytes = b"anybody there?") -> None:
    """Ask a function endpoint, and compare what it answers, and from where."""
    address = lab.address(answering, family)
    with datagrams() as sockets:
        one = sockets.socket(lab.inside(asking), lab.address(asking, family), SENDING_PORT)
        one.sendto(payload, (address, PORT))
        got, peer = one.recvfrom(1 << 16)
        assert (got, *peer[:2]) == (payload, address, PORT)


def unanswered(lab: SystemLab, asking: str, answering: str, family: int, payload: bytes, port: int = PORT) -> None:
    """Ask in vain; one whose request comes later is answered."""
    with datagrams() as sockets:
        one = sockets.socket(lab.inside(asking), lab.address(asking, family), SENDING_PORT)
        one.sendto(payload, (lab.address(answering, family), port))
        one.sendto(b"last", (lab.address(answering, family), PORT))
        assert heard(one) == b"last"
        assert nothing_heard(one)


at_hosts = pytest.mark.parametrize("host", HOSTS)
families = pytest.mark.parametrize("family", FAMILIES)


@families
@at_hosts
@pytest.mark.parametrize("kind", ["echo", "far", "asked"])
def test_it_answers_endpoints_of_this_host_and_of_others(lab: SystemLab, kind: str, host: str, family: int) -> None:
    """`far` is in another network, which is reached by its gateway."""
    for asking in (f"web-{OTHER[host]}", f"web-{host}"):
        for _ in range(3):
            echoed(lab, asking, f"{kind}-{host}", family)


@families
@at_hosts
@pytest.mark.parametrize("kind", ["echo", "asked"])
def test_what_its_functions_do_not_take_is_counted(lab: SystemLab, kind: str, host: str, family: int) -> None:
    before = lab.counters(host)["no_function"]
    unanswered(lab, f"web-{OTHER[host]}", f"{kind}-{host}", family, b"other", port=PORT + 1)
    until(lambda: lab.counters(host)["no_function"] > before)


@families
@at_hosts
def test_its_process_cannot_send_from_another_address(lab: SystemLab, host: str, family: int) -> None:
    before = lab.counters(host)["source_address"]
    unanswered(lab, f"web-{OTHER[host]}", f"asked-{host}", family, b"forge")
    until(lambda: lab.counters(host)["source_address"] > before)


@families
@at_hosts
def test_its_process_sends_packets_of_its_own(lab: SystemLab, host: str, family: int) -> None:
    for asking in (f"web-{OTHER[host]}", f"web-{host}"):
        echoed(lab, asking, f"asked-{host}", family, b"later, without a token")


@families
@at_hosts
def test_a_stream_passes_a_gateway_that_translates_addresses(lab: SystemLab, host: str, family: int) -> None:
    """Client on the other host, server on this one: at tc GSO packets pass it, from the tunnel and to it."""
    client, server = f"web-{OTHER[host]}", f"web-{host}"
    addresses = [lab.address(name, family) for name in (client, server)]
    through = lab.address(f"nat-{host}", family)
    exchange_stream(lab.inside(client), lab.inside(server), addresses[0], addresses[1], 1 << 20, through)


@at_hosts
def test_it_works_while_no_agent_runs_and_keeps_its_slot(lab: SystemLab, host: str) -> None:
    def places() -> dict[bytes, bytes]:
        return {
            key: value
            for key, value in lab.entries(host, "interfaces").items()
            if Interface(*INTERFACE.unpack(value)).flags & INTERFACE_FUNCTION
        }

    before = places()
    assert len(before) == 4
    lab.kill_agent(host)
    echoed(lab, f"web-{OTHER[host]}", f"echo-{host}", 4)
    lab.restart_agent(host)
    assert places() == before
    assert lab.plan(host) == ()
    echoed(lab, f"web-{OTHER[host]}", f"echo-{host}", 6)


@at_hosts
def test_it_is_removed_and_comes_back(lab: SystemLab, host: str) -> None:
    name, body = f"endpoint.echo-{host}", lab.body(host, f"endpoint.echo-{host}")
    local = lab.status(host).objects.local_endpoints
    lab.publish(host, name, None)
    until(lambda: lab.status(host).objects.local_endpoints == local - 1)
    lab.publish_and_wait(host, name, body, State.REALIZED)
    echoed(lab, f"web-{host}", f"echo-{host}", 4)


@at_hosts
def test_functions_in_front_of_its_own_are_asked_first(lab: SystemLab, host: str) -> None:
    other = f"web-{OTHER[host]}"
    with installed(lab, host, "tenant.more", of_endpoint("drop", f"far-{host}", source("\treturn STAGE_DROP;"))):
        before = lab.counters(host)["function_dropped"]
        with datagrams() as sockets:
            one = sockets.socket(lab.inside(other), lab.address(other, 4), SENDING_PORT)
            one.sendto(b"any", (lab.address(f"far-{host}", 4), PORT))
            until(lambda: lab.counters(host)["function_dropped"] > before)
            assert nothing_heard(one)
    echoed(lab, other, f"far-{host}", 4)
