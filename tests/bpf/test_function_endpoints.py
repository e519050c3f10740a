"""Function endpoints: no interface gets their packets, but their functions do, which answer and send as they do."""

from __future__ import annotations

import bpf_packets as p
import pytest
from bpf_dut import A6 as IPV6_A
from bpf_dut import B6 as IPV6_B
from bpf_dut import D1, D2, ELSEWHERE, GATEWAY, MAC, MTU, SLOT, UNKNOWN, VNI, A, B, Dut, R, Run
from bpf_dut import R6 as IPV6_R
from bpf_tunnels import asks, tunnelled
from function_dut import FunctionDut, source_program, user_program
from test_function_examples import example
from test_functions import DROP, GO_ON, PAYLOAD, SEND_BACK

from agent.core.model import map_layout
from agent.core.model.hooks import Hook
from agent.core.model.map_layout import MapName
from agent.datapath.bpf.outcomes import Outcome
from droplet_functions import SEND
from droplet_functions.meta import META_SIZE, answered, originated

DROPPED = Outcome.FUNCTION_DROPPED
FUNCTION_SLOT = 2
"""B's."""
MAC_B = MAC[B]
OVERHEAD = 50
GATEWAY_MAC = p.GATEWAY_MAC
SEND_ANSWER = "return stage_swap(stage) ? STAGE_DROP : STAGE_SEND;"
"""Answers as the endpoint, from its own address."""


def without_interface(dut: Dut, flags: int = 0, mtu: int = MTU, ipv4: str = B) -> None:
    """Make B a function endpoint."""
    value = map_layout.INTERFACE.pack(
        VNI, 0, p.ip(IPV6_B), p.ip(ipv4), MAC_B, map_layout.INTERFACE_FUNCTION | flags, mtu, 0, 0
    )
    dut.put(MapName.INTERFACES, map_layout.U32.pack(FUNCTION_SLOT), value)


def function_endpoint(dut: FunctionDut, *bodies: str, flags: int = 0, mtu: int = MTU, ipv4: str = B) -> None:
    """Make B a function endpoint with functions at to_endpoint, in this order."""
    without_interface(dut, flags, mtu, ipv4)
    for slot, body in enumerate(bodies):
        dut.install("to_endpoint", slot, user_program(body))
    dut.chains("to_endpoint", *range(len(bodies)), endpoint=FUNCTION_SLOT)


def to_b(source: str = R, ttl: int = 64, mac: bytes = MAC_B) -> bytes:
    return p.ethernet(mac, MAC[source], p.IPV4, p.ipv4(source, B, p.udp(53, 4000, PAYLOAD), ttl=ttl))


def from_b(destination: str = R, ttl: int = 63, mac: bytes | None = None) -> bytes:
    """Return the answer to `to_b` when it has left."""
    return p.ethernet(
        MAC[destination] if mac is None else mac,
        MAC_B,
        p.IPV4,
        p.ipv4(B, destination, p.udp(4000, 53, PAYLOAD), ttl=ttl),
    )


def to_b_ipv6(source: str = IPV6_R) -> bytes:
    segment = p.summed(source, IPV6_B, p.udp(53, 4000, PAYLOAD))
    return p.ethernet(MAC_B, MAC[source], p.IPV6, p.ipv6(source, IPV6_B, segment))


def received(dut: Dut, frame: bytes, *, same_host: bool) -> Run:
    return dut.from_endpoint(frame) if same_host else dut.from_underlay(tunnelled(frame))


def source_of(same_host: bool) -> str:
    return A if same_host else R


both_ways = pytest.mark.parametrize("same_host", [False, True], ids=["tunnel", "same-host"])


def address(words: str, text: str) -> str:
    packed = map_layout.mapped(p.ip(text))
    return "".join(f"{words}.word[{i}] = {int.from_bytes(packed[4 * i : 4 * i + 4], 'little')}u;" for i in range(4))


def sends_to(text: str, source: str = B) -> str:
    """Rewrite both addresses, as a gateway or a load balancer does, and send the packet on as the endpoint."""
    return f"""
        struct stage_address from, to;
        __u16 *frame = stage_frame(stage);
        {address("from", source)}{address("to", text)}
        if ((void *)(frame + 6) > stage_end(stage))
            return STAGE_DROP;
        stage_exchange(frame, 3);
        if (stage_replace_address(stage, 0, &from) || stage_replace_address(stage, 1, &to))
            return STAGE_DROP;
        return STAGE_SEND;"""


@both_ways
@pytest.mark.parametrize("bodies", [(), (GO_ON, GO_ON)], ids=["no function", "go on"])
def test_a_packet_that_no_function_takes_is_dropped_and_counted(
    functions: FunctionDut, bodies: tuple[str, ...], same_host: bool
) -> None:
    function_endpoint(functions, *bodies)
    run = received(functions, to_b(source_of(same_host)), same_host=same_host)
    assert run.outcome is Outcome.NO_FUNCTION


@both_ways
def test_programs_without_functions_deliver_nothing_to_it(dut: Dut, same_host: bool) -> None:
    """An agent that was started again and accepts no functions any more has not read its documents yet."""
    without_interface(dut)
    run = received(dut, to_b(source_of(same_host)), same_host=same_host)
    assert run.outcome is Outcome.NO_FUNCTION


@both_ways
def test_its_function_drops_a_packet(functions: FunctionDut, same_host: bool) -> None:
    function_endpoint(functions, DROP)
    run = received(functions, to_b(source_of(same_host)), same_host=same_host)
    assert run.outcome is Outcome.FUNCTION_DROPPED


@both_ways
def test_its_function_sends_a_packet_back(functions: FunctionDut, same_host: bool) -> None:
    function_endpoint(functions, "return stage_swap(stage) ? STAGE_DROP : STAGE_SEND_BACK;")
    run = received(functions, to_b(source_of(same_host)), same_host=same_host)
    assert run.outcome is (Outcome.FUNCTION_SENT_BACK if same_host else Outcome.FUNCTION_SENT_BACK_REMOTE)
    assert run.frame.endswith(from_b(source_of(same_host), ttl=64))


@both_ways
def test_its_function_answers_as_the_endpoint(functions: FunctionDut, same_host: bool) -> None:
    function_endpoint(functions, SEND_ANSWER)
    before = functions.endpoint_traffic(FUNCTION_SLOT)
    run = received(functions, to_b(source_of(same_host)), same_host=same_host)
    assert run.outcome is (Outcome.DELIVERED_SAME_HOST if same_host else Outcome.SENT_DIRECT)
    assert run.frame[0 if same_host else OVERHEAD :] == from_b(source_of(same_host))
    after = functions.endpoint_traffic(FUNCTION_SLOT)
    assert [now - then for now, then in zip(after, before, strict=True)] == [1, 1, 1, 0]
    assert functions.counted("to_endpoint", 0).sent_to == 1


def test_it_answers_over_ipv6(functions: FunctionDut) -> None:
    function_endpoint(functions, SEND_ANSWER)
    run = functions.from_underlay(tunnelled(to_b_ipv6()))
    assert run.outcome is Outcome.SENT_DIRECT
    segment = p.summed(IPV6_B, IPV6_R, p.udp(4000, 53, PAYLOAD))
    assert run.frame[OVERHEAD:] == p.ethernet(MAC[R], MAC_B, p.IPV6, p.ipv6(IPV6_B, IPV6_R, segment, ttl=63))
    run = functions.from_endpoint(to_b_ipv6(IPV6_A))
    assert run.outcome is Outcome.DELIVERED_SAME_HOST


def test_an_answer_over_an_ipv6_underlay_has_a_right_checksum(functions: FunctionDut) -> None:
    functions.fill(over_ipv6=True)
    function_endpoint(functions, SEND_ANSWER)
    functions.put(
        MapName.INTERFACES,
        map_layout.U32.pack(FUNCTION_SLOT),
        map_layout.INTERFACE.pack(
            *(VNI, 1, p.ip(IPV6_B), p.ip(B), MAC_B),
            *(map_layout.INTERFACE_FUNCTION | map_layout.INTERFACE_STAGES_TO, MTU, 0, 0),
        ),
    )
    run = functions.from_endpoint(to_b(A))
    assert run.outcome is Outcome.DELIVERED_SAME_HOST
    frame = p.ethernet(MAC_B, MAC[A], p.IPV4, p.ipv4(A, B, p.udp(53, 4000, PAYLOAD)))
    functions.install("to_endpoint", 0, user_program(sends_to(R)))
    run = functions.from_endpoint(frame)
    assert run.outcome is Outcome.SENT_DIRECT
    datagram = run.frame[54:]
    assert p.checksum(run.frame[22:54] + len(datagram).to_bytes(4, "big") + bytes(3) + b"\x11" + datagram) == 0


@both_ways
def test_a_gateway_sends_a_packet_on_to_an_unknown_endpoint_by_a_bouncer(
    functions: FunctionDut, same_host: bool
) -> None:
    function_endpoint(functions, sends_to(UNKNOWN))
    run = received(functions, to_b(source_of(same_host)), same_host=same_host)
    assert run.outcome is Outcome.SENT_TO_BOUNCER


@both_ways
def test_a_gateway_sends_a_packet_to_another_network_by_a_divider(functions: FunctionDut, same_host: bool) -> None:
    function_endpoint(functions, sends_to(ELSEWHERE), flags=map_layout.INTERFACE_PINNED)
    run = received(functions, to_b(source_of(same_host)), same_host=same_host)
    assert run.outcome is Outcome.SENT_TO_DIVIDER


def test_a_packet_from_a_tunnel_is_sent_on_to_an_endpoint_of_this_host(functions: FunctionDut) -> None:
    function_endpoint(functions, sends_to(A))
    run = functions.from_underlay(tunnelled(to_b()))
    assert run.outcome is Outcome.DELIVERED_SAME_HOST
    assert run.frame[:12] == MAC[A] + MAC_B
    assert run.frame[14:34] == p.ipv4(B, A, p.udp(53, 4000, PAYLOAD), ttl=63)[:20]


@both_ways
def test_a_packet_with_another_source_is_refused(functions: FunctionDut, same_host: bool) -> None:
    function_endpoint(functions, sends_to(R, source=UNKNOWN))
    before = functions.endpoint_traffic(FUNCTION_SLOT)[3]
    run = received(functions, to_b(source_of(same_host)), same_host=same_host)
    assert run.outcome is Outcome.SOURCE_ADDRESS
    assert functions.endpoint_traffic(FUNCTION_SLOT)[3] == before + 1


@both_ways
def test_a_frame_from_another_ethernet_address_is_refused(functions: FunctionDut, same_host: bool) -> None:
    function_endpoint(functions, "return STAGE_SEND;")
    run = received(functions, to_b(source_of(same_host)), same_host=same_host)
    assert run.outcome is Outcome.SOURCE_MAC


@pytest.mark.parametrize("closed", [False, True])
def test_other_endpoints_cannot_be_sent_as(functions: FunctionDut, closed: bool) -> None:
    functions.install("to_endpoint", 0, user_program(SEND_ANSWER), closed=closed)
    functions.chains("to_endpoint", 0)
    frame = tunnelled(p.ethernet(MAC[A], MAC[R], p.IPV4, p.ipv4(R, A, p.udp())))
    assert functions.from_underlay(frame).outcome is (Outcome.FUNCTION_FAULT if closed else Outcome.DELIVERED)
    assert functions.counted("to_endpoint", 0).faults == 1


@pytest.mark.parametrize("ttl", [1, 2, 64])
def test_the_time_to_live_ends_what_function_endpoints_send_to_each_other(functions: FunctionDut, ttl: int) -> None:
    function_endpoint(functions, SEND_ANSWER)
    run = functions.from_underlay(tunnelled(to_b(ttl=ttl)))
    assert run.outcome is (Outcome.INNER_TTL if ttl == 1 else Outcome.SENT_DIRECT)


def test_two_function_endpoints_of_a_host_cannot_send_to_each_other_for_ever(functions: FunctionDut) -> None:
    """The packet comes to an end with the tail calls of the kernel, or with its time to live."""
    function_endpoint(functions, sends_to(A))
    functions.interface(flags=map_layout.INTERFACE_FUNCTION)
    functions.install("to_endpoint", 1, user_program(sends_to(B, source=A)))
    functions.chains("to_endpoint", 1, endpoint=SLOT)
    assert functions.from_underlay(tunnelled(to_b())).outcome is Outcome.NO_PROGRAM
    assert functions.from_underlay(tunnelled(to_b(ttl=3))).outcome is Outcome.INNER_TTL


def test_what_it_sends_meets_its_functions_at_from_endpoint(functions: FunctionDut) -> None:
    function_endpoint(functions, SEND_ANSWER)
    functions.chains("from_endpoint", 0, endpoint=FUNCTION_SLOT)
    for body, outcome in (
        (GO_ON, Outcome.SENT_DIRECT),
        (DROP, Outcome.FUNCTION_DROPPED),
        (SEND_BACK, Outcome.NO_FUNCTION),
        (address("stage->target", A) + "return STAGE_SEND_TO;", Outcome.FUNCTION_DELIVERED),
    ):
        functions.install("from_endpoint", 0, user_program(body))
        assert functions.from_underlay(tunnelled(to_b())).outcome is outcome


def test_a_receiver_on_this_host_has_its_functions_too(functions: FunctionDut) -> None:
    function_endpoint(functions, sends_to(A))
    functions.install("to_endpoint", 1, user_program(GO_ON))
    functions.chains("to_endpoint", 1)
    assert functions.from_underlay(tunnelled(to_b())).outcome is Outcome.DELIVERED_SAME_HOST
    functions.install("to_endpoint", 1, user_program(SEND_BACK))
    assert functions.from_underlay(tunnelled(to_b())).outcome is Outcome.NO_FUNCTION


@pytest.mark.parametrize("point", ["from_endpoint", "to_endpoint", "from_underlay"])
def test_a_function_may_send_packets_of_others_to_it(functions: FunctionDut, point: str) -> None:
    function_endpoint(functions, SEND_ANSWER)
    functions.install(point, 7, user_program(address("stage->target", B) + "return STAGE_SEND_TO;"))
    functions.chains(point, 7)
    frame = p.ethernet(MAC[A], MAC[R], p.IPV4, p.ipv4(R, A, p.udp()))
    own = p.ethernet(MAC[R], MAC[A], p.IPV4, p.ipv4(A, R, p.udp()))
    run = functions.from_endpoint(own) if point == "from_endpoint" else functions.from_underlay(tunnelled(frame))
    assert run.outcome is Outcome.SOURCE_ADDRESS  # it answers from the address that the packet was for
    function_endpoint(functions, SEND_BACK)
    run = functions.from_endpoint(own) if point == "from_endpoint" else functions.from_underlay(tunnelled(frame))
    assert run.outcome in {Outcome.FUNCTION_SENT_BACK, Outcome.FUNCTION_SENT_BACK_REMOTE}


def test_it_gets_a_routed_packet_from_the_gateway_and_answers_through_it(functions: FunctionDut) -> None:
    function_endpoint(functions, SEND_ANSWER)
    frame = p.ethernet(GATEWAY_MAC, MAC[ELSEWHERE], p.IPV4, p.ipv4(ELSEWHERE, B, p.udp(53, 4000, PAYLOAD)))
    functions.endpoint(ELSEWHERE, D2)
    run = functions.from_underlay(tunnelled(frame))
    assert run.outcome is Outcome.SENT_DIRECT
    assert run.frame[OVERHEAD:] == from_b(ELSEWHERE, ttl=62, mac=GATEWAY_MAC)


def test_requests_for_its_addresses_are_answered(functions: FunctionDut) -> None:
    function_endpoint(functions, DROP)
    assert functions.from_underlay(tunnelled(asks(B))).outcome is Outcome.ARP_ANSWERED_REMOTE
    frame = p.ethernet(b"\xff" * 6, MAC[A], p.ARP, p.arp(MAC[A], A, B))
    assert functions.from_endpoint(frame).outcome is Outcome.ARP_ANSWERED
    solicitation = p.ethernet(MAC_B, MAC[A], p.IPV6, p.nd(IPV6_A, IPV6_B, IPV6_B, MAC[A]))
    assert functions.from_endpoint(solicitation).outcome is Outcome.ND_ANSWERED


def test_it_sends_no_requests_for_addresses(functions: FunctionDut) -> None:
    own = f"""
        __u16 *frame = stage_frame(stage);
        if ((void *)(frame + 6) > stage_end(stage))
            return STAGE_DROP;
        frame[3] = {int.from_bytes(MAC_B[:2], "little")};
        frame[4] = {int.from_bytes(MAC_B[2:4], "little")};
        frame[5] = {int.from_bytes(MAC_B[4:], "little")};
        return STAGE_SEND;"""
    function_endpoint(functions, own)
    reply = p.ethernet(MAC_B, MAC[R], p.ARP, p.arp(MAC[R], R, B, operation=2, target_mac=MAC_B))
    assert functions.from_underlay(tunnelled(reply, options=p.rts(D2))).outcome is Outcome.INNER_PROTOCOL
    function_endpoint(functions, own)
    advertisement = p.ethernet(MAC_B, MAC[R], p.IPV6, p.nd(IPV6_R, IPV6_B, IPV6_R, MAC[R], kind=136, option=2))
    assert functions.from_underlay(tunnelled(advertisement, options=p.rts(D2))).outcome is Outcome.ND_TYPE


def test_no_answer_can_reach_it(functions: FunctionDut) -> None:
    """Neither the gateway's nor an ICMP error: what an endpoint would be answered is dropped."""
    function_endpoint(functions, sends_to(GATEWAY))
    assert functions.from_underlay(tunnelled(to_b())).outcome is Outcome.TO_GATEWAY
    function_endpoint(functions, SEND_ANSWER, mtu=MTU)
    functions.own_network(flags=map_layout.NETWORK_LOCAL_BOUNCER)
    functions.install("to_endpoint", 0, user_program(sends_to(UNKNOWN)))
    assert functions.from_underlay(tunnelled(to_b())).outcome is Outcome.NO_ENDPOINT
    functions.endpoint(A, D1, SLOT, mtu=60)
    functions.install("to_endpoint", 0, user_program(sends_to(A)))
    long = p.ethernet(MAC_B, MAC[R], p.IPV4, p.ipv4(R, B, p.udp(data=bytes(400))))
    assert functions.from_underlay(tunnelled(long)).outcome is Outcome.TOO_BIG


@both_ways
def test_the_echo_of_the_page_answers(functions: FunctionDut, same_host: bool) -> None:
    function_endpoint(functions)
    functions.install("to_endpoint", 0, source_program(example("echo.c")))
    functions.chains("to_endpoint", 0, endpoint=FUNCTION_SLOT)
    source = source_of(same_host)
    for port, outcome in ((7, Outcome.DELIVERED_SAME_HOST if same_host else Outcome.SENT_DIRECT), (8, DROPPED)):
        frame = p.ethernet(MAC_B, MAC[source], p.IPV4, p.ipv4(source, B, p.udp(4000, port, PAYLOAD)))
        assert received(functions, frame, same_host=same_host).outcome is outcome


def test_its_process_answers_as_the_endpoint(functions: FunctionDut, interfaces: None) -> None:
    if functions.hook is Hook.TC:
        pytest.skip("a test run of tc has no metadata")
    function_endpoint(functions)
    functions.install_process("to_endpoint", 3)
    functions.chains("to_endpoint", 3, endpoint=FUNCTION_SLOT)
    for same_host, outcome in ((False, Outcome.SENT_DIRECT), (True, Outcome.DELIVERED_SAME_HOST)):
        for packet, expected in ((from_b(source_of(same_host), ttl=64), outcome), (to_b(), Outcome.SOURCE_MAC)):
            run = received(functions, to_b(source_of(same_host)), same_host=same_host)
            assert run.outcome is Outcome.FUNCTION_HANDED_OVER
            assert run.frame[META_SIZE:] == to_b(source_of(same_host))
            found = functions.answer(answered(run.frame[:META_SIZE], SEND, len(packet)) + packet)
            assert found.outcome is expected


def test_its_process_sends_packets_of_its_own(functions: FunctionDut, interfaces: None) -> None:
    if functions.hook is Hook.TC:
        pytest.skip("a test run of tc has no metadata")
    function_endpoint(functions)
    functions.install_process("to_endpoint", 3)
    functions.chains("to_endpoint", 3, endpoint=FUNCTION_SLOT)
    before = functions.endpoint_traffic(FUNCTION_SLOT)
    for slot, packet, outcome in (
        (FUNCTION_SLOT, from_b(ttl=64), Outcome.SENT_DIRECT),
        (FUNCTION_SLOT, from_b(A, ttl=64), Outcome.DELIVERED_SAME_HOST),
        (FUNCTION_SLOT, from_b(mac=GATEWAY_MAC, ttl=64), Outcome.SENT_DIRECT),
        (FUNCTION_SLOT, to_b(), Outcome.SOURCE_MAC),
        (FUNCTION_SLOT, MAC[R] + MAC_B + from_b()[12:26] + p.ip(UNKNOWN) + from_b()[30:], Outcome.SOURCE_ADDRESS),
        (FUNCTION_SLOT, p.ethernet(b"\xff" * 6, MAC_B, p.ARP, p.arp(MAC_B, B, R)), Outcome.INNER_PROTOCOL),
        (FUNCTION_SLOT, MAC[R] + MAC_B + bytes(60), Outcome.INNER_PROTOCOL),
        (SLOT, from_b(), Outcome.FUNCTION_ANSWER),
        (9999, from_b(), Outcome.FUNCTION_ANSWER),
    ):
        assert functions.answer(originated(slot, len(packet)) + packet).outcome is outcome
    after = functions.endpoint_traffic(FUNCTION_SLOT)
    assert [now - then for now, then in zip(after, before, strict=True)] == [3, 3, 0, 4]
    assert functions.counted("to_endpoint", 3).faults == 2


@pytest.mark.parametrize("point", ["to_endpoint", "from_endpoint"])
def test_a_process_that_is_no_function_of_the_endpoint_cannot_send_as_it(
    functions: FunctionDut, interfaces: None, point: str
) -> None:
    if functions.hook is Hook.TC:
        pytest.skip("a test run of tc has no metadata")
    function_endpoint(functions, GO_ON)
    functions.install_process(point, 3)
    functions.chains(point, 3)  # of another endpoint
    packet = from_b()
    assert functions.answer(originated(FUNCTION_SLOT, len(packet)) + packet).outcome is Outcome.FUNCTION_ANSWER
