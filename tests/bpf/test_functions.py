"""Users' functions at the stage points: each verdict, order, scope, what they see, what they change, and faults."""

from __future__ import annotations

import bpf_packets as p
import pytest
from bpf_dut import A6 as IPV6_A
from bpf_dut import B6 as IPV6_B
from bpf_dut import D1, D2, D4, DROPLET_MAC, ELSEWHERE, MAC, UPLINK, VNI, A, B, R, Run
from bpf_dut import R6 as IPV6_R
from bpf_tunnels import Outer, tunnelled
from function_dut import FunctionDut, user_program

from agent.core.model import map_layout
from agent.core.model.hooks import POINTS, Hook
from agent.datapath.bpf import syscall as bpf
from agent.datapath.bpf.outcomes import Outcome

GO_ON, DROP, SEND_BACK = "return STAGE_GO_ON;", "stage->reason = 5; return STAGE_DROP;", "return STAGE_SEND_BACK;"
INVALID, HAND_OVER = "return 17;", "return STAGE_HAND_OVER;"
PAYLOAD = b"payload of an even length!"


def sent(to: str = R, payload: bytes = PAYLOAD, port: int = 53) -> bytes:
    return p.ethernet(MAC[to], MAC[A], p.IPV4, p.ipv4(A, to, p.udp(4000, port, payload)))


def received(to: str = A, source: str = R, payload: bytes = PAYLOAD) -> bytes:
    return tunnelled(p.ethernet(MAC[to], MAC[source], p.IPV4, p.ipv4(source, to, p.udp(53, 4000, payload))))


def at_forwarded(dut: FunctionDut) -> Run:
    """A bouncer's packet: of a remote endpoint to another one."""
    dut.own_network(flags=map_layout.NETWORK_LOCAL_BOUNCER)
    return dut.from_underlay(
        tunnelled(p.ethernet(MAC[R], MAC[ELSEWHERE], p.IPV4, p.ipv4(ELSEWHERE, R, p.udp())), Outer(source=D4))
    )


def run_at(dut: FunctionDut, point: str) -> Run:
    """Send a frame that passes a point."""
    if point == "from_endpoint":
        return dut.from_endpoint(sent())
    if point == "forwarded":
        return at_forwarded(dut)
    if point == "passed":
        return dut.from_underlay(p.ethernet(DROPLET_MAC[D1], DROPLET_MAC[D2], p.IPV4, p.ipv4(D2, D1, p.udp())))
    if point == "dropped":
        return dut.from_underlay(received(to=B, source=R)[:-40])
    return dut.from_underlay(received())


USUAL = {
    "from_endpoint": Outcome.SENT_DIRECT,
    "to_endpoint": Outcome.DELIVERED,
    "forwarded": Outcome.BOUNCED,
    "from_underlay": Outcome.DELIVERED,
    "passed": Outcome.PASSED,
    "dropped": Outcome.MALFORMED_OUTER,
}
ACTING = [point for point in POINTS if point != "dropped"]


def put(dut: FunctionDut, point: str, *bodies: str, closed: bool = False) -> None:
    """Put functions into a chain, in this order."""
    for slot, body in enumerate(bodies):
        dut.install(point, slot, user_program(body), closed=closed)
    dut.chains(point, *range(len(bodies)))


@pytest.mark.parametrize("point", POINTS)
def test_a_packet_goes_on_as_without_the_function(functions: FunctionDut, point: str) -> None:
    plain = run_at(functions, point)
    assert plain.outcome is USUAL[point]
    put(functions, point, GO_ON)
    assert run_at(functions, point) == plain
    assert functions.counted(point, 0).went_on == functions.counted(point, 0).packets == 1


@pytest.mark.parametrize("point", ACTING)
def test_a_function_drops_for_a_reason_of_its_own(functions: FunctionDut, point: str) -> None:
    put(functions, point, GO_ON, DROP, GO_ON)
    assert run_at(functions, point).outcome is Outcome.FUNCTION_DROPPED
    assert [functions.counted(point, slot).packets for slot in range(3)] == [1, 1, 0]
    assert functions.counted(point, 1).dropped == 1
    assert functions.reason(point, 1, 5) == 1


@pytest.mark.parametrize("point", ACTING)
def test_a_function_sends_a_packet_back(functions: FunctionDut, point: str) -> None:
    put(functions, point, SEND_BACK)
    outcome = run_at(functions, point).outcome
    tunnel = point in {"to_endpoint", "forwarded", "from_underlay"}
    assert outcome is (Outcome.FUNCTION_SENT_BACK_REMOTE if tunnel else Outcome.FUNCTION_SENT_BACK)
    assert functions.counted(point, 0).sent_back == 1


@pytest.mark.parametrize("ttl", [64, 2, 1])
@pytest.mark.parametrize("point", ["to_endpoint", "from_underlay"])
def test_two_droplets_that_send_a_packet_back_to_each_other_come_to_an_end(
    functions: FunctionDut, point: str, ttl: int
) -> None:
    inner = p.ethernet(MAC[A], MAC[R], p.IPV4, p.ipv4(R, A, p.udp(53, 4000, PAYLOAD)))
    put(functions, point, SEND_BACK)
    run = functions.from_underlay(tunnelled(inner, Outer(ttl=ttl)))
    if ttl == 1:
        assert run.outcome is Outcome.OUTER_TTL
    else:
        assert (run.outcome, run.frame[22]) == (Outcome.FUNCTION_SENT_BACK_REMOTE, ttl - 1)


@pytest.mark.parametrize("closed", [False, True])
@pytest.mark.parametrize("point", POINTS)
def test_an_invalid_verdict_is_a_fault_and_on_fault_decides(functions: FunctionDut, point: str, closed: bool) -> None:
    put(functions, point, INVALID, closed=closed)
    drops = closed and point != "dropped"
    assert run_at(functions, point).outcome is (Outcome.FUNCTION_FAULT if drops else USUAL[point])
    assert functions.counted(point, 0).faults == 1


@pytest.mark.parametrize("point", ACTING[:4])
def test_a_packet_that_is_handed_over_goes_on_where_no_process_takes_it(functions: FunctionDut, point: str) -> None:
    put(functions, point, HAND_OVER, GO_ON)
    assert run_at(functions, point).outcome is USUAL[point]
    first, second = (functions.counted(point, slot) for slot in range(2))
    assert (first.packets, first.handed_over, first.went_on, first.faults) == (1, 1, 0, 0)
    assert (second.packets, second.went_on) == (1, 1)


@pytest.mark.parametrize("closed", [False, True])
def test_no_packet_is_handed_over_at_passed_where_no_process_can_be(functions: FunctionDut, closed: bool) -> None:
    put(functions, "passed", HAND_OVER, closed=closed)
    assert run_at(functions, "passed").outcome is (Outcome.FUNCTION_FAULT if closed else Outcome.PASSED)
    found = functions.counted("passed", 0)
    assert (found.handed_over, found.faults) == (0, 1)


@pytest.mark.parametrize("point", POINTS)
def test_eight_functions_run_at_one_point(functions: FunctionDut, point: str) -> None:
    order = (3, 0, 7, 1, 6, 2, 5, 4)
    for slot in order:
        functions.install(point, slot, user_program(GO_ON))
    functions.chains(point, *order)
    assert run_at(functions, point).outcome is USUAL[point]
    assert [functions.counted(point, slot).went_on for slot in range(8)] == [1] * 8


def test_functions_run_in_the_order_of_the_chain(functions: FunctionDut) -> None:
    """Each adds a digit to the payload, in base 10."""
    digit = """
        __be16 *word = stage_word(stage, 42);
        return word && !stage_replace(stage, 42, *word * 10 + {digit}) ? STAGE_GO_ON : 0;"""
    for slot, one in ((2, 1), (0, 2), (1, 3)):
        functions.install("from_endpoint", slot, user_program(digit.format(digit=one)))
    functions.chains("from_endpoint", 2, 0, 1)
    run = functions.from_endpoint(sent(payload=b"\0\0" + PAYLOAD))
    assert run.outcome is Outcome.SENT_DIRECT
    assert int.from_bytes(run.frame[50 + 42 : 50 + 44], "little") == 123


@pytest.mark.parametrize("point", POINTS)
def test_an_empty_slot_of_a_closed_function_drops(functions: FunctionDut, point: str) -> None:
    """At the point dropped a function observes, so that the packet keeps the reason for which it is dropped."""
    functions.chains(point, 4)
    assert run_at(functions, point).outcome is (USUAL[point] if point == "dropped" else Outcome.NO_PROGRAM)


@pytest.mark.parametrize("slots", [(4,), (0,), (7, 3), (3, 0, 7, 1, 6, 2, 5, 4)])
@pytest.mark.parametrize("point", POINTS)
def test_a_packet_passes_over_empty_slots_of_open_functions(
    functions: FunctionDut, point: str, slots: tuple[int, ...]
) -> None:
    functions.chains(point, *slots)
    functions.open_slots(point, *slots)
    usual = run_at(functions, point)
    assert usual.outcome is USUAL[point]
    functions.chains(point)
    assert usual.frame == run_at(functions, point).frame


@pytest.mark.parametrize("closed", [False, True])
@pytest.mark.parametrize("point", POINTS)
def test_the_functions_around_an_empty_slot_run_unless_it_is_closed(
    functions: FunctionDut, point: str, closed: bool
) -> None:
    for slot in (1, 2, 5):
        functions.install(point, slot, user_program(GO_ON))
    functions.chains(point, 2, 5, 1)
    functions.open_slots(point, *(() if closed else (5,)))
    functions.empty(point, 5)
    goes_on = not closed or point == "dropped"
    assert run_at(functions, point).outcome is (USUAL[point] if goes_on else Outcome.NO_PROGRAM)
    assert [functions.counted(point, slot).went_on for slot in (2, 5, 1)] == [1, 0, int(goes_on)]


def test_a_drop_at_an_empty_slot_is_observed_with_its_reason(functions: FunctionDut) -> None:
    functions.chains("from_endpoint", 4)
    functions.install("dropped", 0, user_program(GO_ON))
    functions.chains("dropped", 0)
    assert run_at(functions, "from_endpoint").outcome is Outcome.NO_PROGRAM
    assert functions.counted("dropped", 0).went_on == 1


@pytest.mark.parametrize("point", ["from_endpoint", "to_endpoint"])
def test_an_endpoint_without_the_chain_is_untouched(functions: FunctionDut, point: str) -> None:
    functions.install(point, 0, user_program(DROP))
    functions.chains(point, 0, endpoint=2)
    assert run_at(functions, point).outcome is USUAL[point]
    assert functions.counted(point, 0).packets == 0


@pytest.mark.parametrize("point", ["forwarded", "from_underlay", "dropped"])
def test_another_vpc_is_untouched_also_with_the_same_bit(functions: FunctionDut, point: str) -> None:
    functions.install(point, 0, user_program(DROP))
    functions.chains(point, 0, vni=VNI + 64)
    functions.chains("passed")
    if point == "dropped":
        functions._host(dropped=0)
    assert run_at(functions, point).outcome is USUAL[point]
    assert functions.counted(point, 0).packets == 0


def test_functions_of_the_receiver_run_for_the_same_host_too(functions: FunctionDut) -> None:
    functions.install("to_endpoint", 0, user_program(DROP))
    functions.chains("to_endpoint", 0, endpoint=2)
    assert functions.from_endpoint(sent(B)).outcome is Outcome.FUNCTION_DROPPED
    functions.install("to_endpoint", 0, user_program(GO_ON))
    assert functions.from_endpoint(sent(B)).outcome is Outcome.DELIVERED_SAME_HOST
    functions.install("to_endpoint", 0, user_program(SEND_BACK))
    assert functions.from_endpoint(sent(B)).outcome is Outcome.FUNCTION_SENT_BACK


def mapped_words(address: str) -> str:
    packed = map_layout.mapped(p.ip(address))
    return "".join(
        f"stage->target.word[{i}] = {int.from_bytes(packed[4 * i : 4 * i + 4], 'little')}u;" for i in range(4)
    )


@pytest.mark.parametrize("point", ["from_endpoint", "to_endpoint", "from_underlay", "forwarded"])
def test_a_function_sends_a_packet_to_another_endpoint_of_this_host(functions: FunctionDut, point: str) -> None:
    put(functions, point, mapped_words(B) + "return STAGE_SEND_TO;")
    before = functions.endpoint_traffic(2)[2]
    run = run_at(functions, point)
    assert run.outcome is Outcome.FUNCTION_DELIVERED
    assert run.frame[:6] == MAC[B]
    assert functions.endpoint_traffic(2)[2] == before + 1


@pytest.mark.parametrize("point", ["from_endpoint", "from_underlay", "forwarded"])
def test_a_packet_that_is_sent_to_an_endpoint_meets_the_functions_of_that_endpoint(
    functions: FunctionDut, point: str
) -> None:
    """A function that an operator put there cannot be passed by."""
    functions.install(point, 0, user_program(mapped_words(B) + "return STAGE_SEND_TO;"))
    functions.chains(point, 0)
    functions.install("to_endpoint", 5, user_program(GO_ON))
    functions.chains("to_endpoint", 5, endpoint=2)
    assert run_at(functions, point).outcome is Outcome.FUNCTION_DELIVERED
    assert functions.counted("to_endpoint", 5).went_on == 1
    functions.install("to_endpoint", 5, user_program(DROP))
    assert run_at(functions, point).outcome is Outcome.FUNCTION_DROPPED


def test_functions_that_send_to_one_another_come_to_an_end(functions: FunctionDut) -> None:
    functions.install("to_endpoint", 0, user_program(mapped_words(B) + "return STAGE_SEND_TO;"))
    functions.install("to_endpoint", 1, user_program(mapped_words(A) + "return STAGE_SEND_TO;"))
    functions.chains("to_endpoint", 0)
    functions.chains("to_endpoint", 1, endpoint=2)
    run = functions.from_endpoint(sent(B))
    assert run.outcome is Outcome.FUNCTION_DELIVERED
    assert run.frame[:6] == MAC[A]


@pytest.mark.parametrize("target", [R, "10.0.0.200", "10.0.9.9"])
@pytest.mark.parametrize("point", ["from_endpoint", "to_endpoint", "from_underlay", "forwarded"])
def test_a_target_that_is_not_on_this_host_drops(functions: FunctionDut, point: str, target: str) -> None:
    put(functions, point, mapped_words(target) + "return STAGE_SEND_TO;")
    assert run_at(functions, point).outcome is Outcome.FUNCTION_TARGET


def test_a_function_cannot_send_to_an_endpoint_of_another_vpc(functions: FunctionDut) -> None:
    functions.receiver(2, MAC[B], vni=VNI + 1)
    put(functions, "from_endpoint", mapped_words(B) + "return STAGE_SEND_TO;")
    assert run_at(functions, "from_endpoint").outcome is Outcome.FUNCTION_TARGET


def test_an_answer_written_in_place_returns_to_the_sender(functions: FunctionDut) -> None:
    put(functions, "from_endpoint", "return stage_swap(stage) ? 0 : STAGE_SEND_BACK;")
    run = functions.from_endpoint(sent())
    assert run.outcome is Outcome.FUNCTION_SENT_BACK
    assert run.frame == p.ethernet(MAC[A], MAC[R], p.IPV4, p.ipv4(R, A, p.udp(53, 4000, PAYLOAD)))


def test_a_destination_that_a_function_rewrote_is_routed(functions: FunctionDut) -> None:
    last = int.from_bytes(p.ip(B)[2:], "little")
    put(functions, "from_endpoint", f"return stage_replace(stage, 32, {last}) ? 0 : STAGE_GO_ON;")
    run = functions.from_endpoint(sent())
    assert run.outcome is Outcome.DELIVERED_SAME_HOST
    assert run.frame[14:34] == p.ipv4(A, B, p.udp(4000, 53, PAYLOAD))[:20]


def summed(source: str, to: str, payload: bytes) -> bytes:
    """A UDP packet with a checksum."""
    return p.ipv4(source, to, p.summed(source, to, p.udp(4000, 53, payload)))


@pytest.mark.parametrize("offset", [26, 28, 32, 34, 36, 42, 50])
def test_checksums_stay_right_when_bytes_are_replaced(functions: FunctionDut, offset: int) -> None:
    put(functions, "to_endpoint", f"return stage_replace(stage, {offset}, 0x3412) ? 0 : STAGE_GO_ON;")
    packet = bytearray(summed(R, A, PAYLOAD))
    run = functions.from_underlay(tunnelled(p.ethernet(MAC[A], MAC[R], p.IPV4, bytes(packet))))
    assert run.outcome is Outcome.DELIVERED
    packet[offset - 14 : offset - 12] = b"\x12\x34"
    ip, udp = bytes(packet[:20]), bytes(packet[20:])
    addresses = [".".join(map(str, ip[at : at + 4])) for at in (12, 16)]
    again = p.summed(*addresses, udp[:6] + b"\0\0" + udp[8:])
    assert run.frame[34:] == again
    assert p.checksum(run.frame[14:34]) == 0


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("side", ["source", "destination"])
def test_checksums_stay_right_when_an_address_is_replaced(functions: FunctionDut, side: str, family: int) -> None:
    addresses = {"source": R, "destination": A} if family == 4 else {"source": IPV6_R, "destination": IPV6_A}
    new = "10.9.8.7" if family == 4 else "fd00:9:8:7:6:5:4:3"
    body = mapped_words(new).replace("stage->target", "to") + (
        f"return stage_replace_address(stage, {int(side == 'destination')}, &to) ? 0 : STAGE_GO_ON;"
    )
    put(functions, "to_endpoint", f"struct stage_address to; {body}")
    write = p.ipv4 if family == 4 else p.ipv6
    kind = p.IPV4 if family == 4 else p.IPV6

    def packet(source: str, destination: str) -> bytes:
        return write(source, destination, p.summed(source, destination, p.udp(4000, 53, PAYLOAD)))

    run = functions.from_underlay(tunnelled(p.ethernet(MAC[A], MAC[R], kind, packet(**addresses))))
    assert run.outcome is Outcome.DELIVERED
    assert run.frame[14:] == packet(**{**addresses, side: new})


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("hook", [Hook.TC], indirect=True)
def test_a_checksum_that_a_device_will_complete_follows_an_address(functions: FunctionDut, family: int) -> None:
    """In its place is the sum of the pseudo-header, which has the address."""
    source, to, new = (A, R, B) if family == 4 else (IPV6_A, IPV6_R, IPV6_B)
    body = mapped_words(new).replace("stage->target", "to") + (
        "return stage_replace_address(stage, 1, &to) ? 0 : STAGE_GO_ON;"
    )
    put(functions, "from_endpoint", f"struct stage_address to; {body}")

    def frame(destination: str, mac: bytes) -> bytes:
        segment = p.udp(4000, 53, PAYLOAD)
        unfinished = 0xFFFF ^ p.checksum(p.pseudo(source, destination, len(segment), p.UDP))
        segment = segment[:6] + unfinished.to_bytes(2, "big") + segment[8:]
        write, kind = (p.ipv4, p.IPV4) if family == 4 else (p.ipv6, p.IPV6)
        return p.ethernet(mac, MAC[A], kind, write(source, destination, segment))

    run = functions.from_endpoint(frame(to, MAC[R]))
    assert run.outcome is Outcome.DELIVERED_SAME_HOST
    assert run.frame == frame(new, MAC[B])


DAMAGE = (
    "*(__be16 *)(frame + 16) = 0xffff;",
    "frame[14] = 0x4f;",
    "frame[14] = 0x65;",
    "*(__be16 *)(frame + 12) = 0;",
)
"""To the length, the version and header length of IPv4, and the EtherType."""


@pytest.mark.parametrize("point", ["from_endpoint", "from_underlay"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_packet_that_a_function_damaged_and_declared_is_dropped(
    functions: FunctionDut, point: str, damage: str
) -> None:
    body = f"""
        __u8 *frame = stage_frame(stage);
        if (frame + 34 > (__u8 *)stage_end(stage)) return 0;
        {damage}
        stage->changed = 1;
        return STAGE_GO_ON;"""
    put(functions, point, body)
    other = damage.endswith("12) = 0;") and point == "from_underlay"
    assert run_at(functions, point).outcome is (Outcome.INNER_PROTOCOL if other else Outcome.FUNCTION_FAULT)
    assert functions.counted(point, 0).faults == (0 if other else 1)


@pytest.mark.parametrize("changed", [0, 1])
def test_a_tunnel_packet_cannot_be_moved_to_another_vpc(functions: FunctionDut, changed: int) -> None:
    body = f"""
        __u8 *frame = stage_start(stage);
        if (frame + 50 > (__u8 *)stage_end(stage)) return 0;
        frame[48] = 9; /* the VNI */
        stage->changed = {changed};
        return STAGE_GO_ON;"""
    functions.receiver(2, MAC[B], vni=9)
    put(functions, "from_underlay", body)
    run = run_at(functions, "from_underlay")
    assert run.outcome is Outcome.DELIVERED
    assert run.frame[:6] == MAC[A]


SEEN = """
    struct seen *seen; int only = 0;
    seen = found.lookup(&only);
    if (!seen) return 0;
    seen->vni = stage->vni; seen->length = stage->length;
    seen->sender = stage->sender; seen->receiver = stage->receiver;
    seen->inner = stage->inner; seen->transport = stage->transport; seen->ethertype = stage->ethertype;
    seen->drop_reason = stage->drop_reason; seen->protocol = stage->protocol; seen->point = stage->point;
    seen->direction = stage->direction; seen->flags = stage->flags & 3;
    seen->source = seen->destination = 0;
    stage_ports(stage, &seen->source, &seen->destination);
    seen->peer = stage->peer.word[3];
    return STAGE_GO_ON;"""
SEEN_MAP = """
struct seen { __u32 vni, length, sender, receiver; __u16 inner, transport, ethertype, drop_reason;
    __u8 protocol, point, direction, flags; __u16 source, destination; __u32 peer; };
BPF_ARRAY(found, struct seen, 1);"""
NONE = 0xFFFFFFFF
D2_WORD = int.from_bytes(p.ip(D2), "little")
VIEWS = {
    "from_endpoint": (VNI, 68, 1, NONE, 0, 34, 0x800, 0, 17, 1, 1, 0, 4000, 53, 0),
    "to_endpoint": (VNI, 118, NONE, 1, 0, 34, 0x800, 0, 17, 2, 2, 0, 53, 4000, D2_WORD),
    "from_underlay": (VNI, 118, NONE, NONE, 50, 34, 0x800, 0, 17, 4, 2, 0, 53, 4000, D2_WORD),
}


@pytest.mark.parametrize("point", VIEWS)
def test_a_function_sees_what_the_pipeline_knows(functions: FunctionDut, point: str) -> None:
    functions.install(point, 0, user_program(SEEN, SEEN_MAP))
    functions.chains(point, 0)
    run_at(functions, point)
    seen = bpf.lookup(functions.maps[point, 0]["found"], bytes(4), 36)
    assert seen is not None
    numbers = [*memoryview(seen[:16]).cast("I"), *memoryview(seen[16:24]).cast("H"), *seen[24:28]]
    numbers += [*memoryview(seen[28:32]).cast("H"), *memoryview(seen[32:36]).cast("I")]
    assert tuple(numbers) == VIEWS[point]


def test_a_function_of_one_vpc_does_not_see_which_droplet_a_packet_came_from(functions: FunctionDut) -> None:
    functions.install("to_endpoint", 0, user_program(SEEN, SEEN_MAP), peer=False)
    functions.chains("to_endpoint", 0)
    run_at(functions, "to_endpoint")
    seen = bpf.lookup(functions.maps["to_endpoint", 0]["found"], bytes(4), 36)
    assert seen is not None
    assert int.from_bytes(seen[:4], "little") == VNI
    assert seen[32:36] == bytes(4)


@pytest.mark.parametrize("point", ["from_endpoint", "to_endpoint"])
def test_a_function_does_not_send_to_the_target_of_an_earlier_one(functions: FunctionDut, point: str) -> None:
    word = int.from_bytes(p.ip(B), "little")
    set_target = f"stage->target.word[2] = 0xffff0000; stage->target.word[3] = {word:#x}U; return STAGE_GO_ON;"
    put(functions, point, set_target)
    functions.install(point, 1, user_program("return STAGE_SEND_TO;"))
    functions.chains(point, 0, 1)
    assert run_at(functions, point).outcome is Outcome.FUNCTION_TARGET


def test_a_function_at_dropped_sees_the_reason_and_cannot_undo_it(functions: FunctionDut) -> None:
    functions.install("dropped", 0, user_program(SEEN, SEEN_MAP))
    functions.chains("dropped", 0)
    wrong = p.ethernet(MAC[R], MAC[A], p.IPV4, p.ipv4(B, R, p.udp()))
    assert functions.from_endpoint(wrong).outcome is Outcome.SOURCE_ADDRESS
    seen = bpf.lookup(functions.maps["dropped", 0]["found"], bytes(4), 36)
    assert seen is not None
    assert int.from_bytes(seen[22:24], "little") == Outcome.SOURCE_ADDRESS
    assert int.from_bytes(seen[:4], "little") == VNI


def test_packets_that_a_function_drops_are_seen_at_dropped(functions: FunctionDut) -> None:
    put(functions, "from_endpoint", DROP)
    put(functions, "dropped", GO_ON)
    assert run_at(functions, "from_endpoint").outcome is Outcome.FUNCTION_DROPPED
    assert functions.counted("dropped", 0).packets == 1


def test_a_function_reads_its_configuration(functions: FunctionDut) -> None:
    body = "const __u8 *byte = stage_configuration(stage); return byte[4095] == 7 ? STAGE_DROP : STAGE_GO_ON;"
    functions.install("from_endpoint", 0, user_program(body), configuration=bytes(4095) + b"\7")
    functions.chains("from_endpoint", 0)
    assert run_at(functions, "from_endpoint").outcome is Outcome.FUNCTION_DROPPED
    functions.install("from_endpoint", 0, user_program(body), configuration=b"")
    assert run_at(functions, "from_endpoint").outcome is Outcome.SENT_DIRECT


def test_a_function_sees_ipv6(functions: FunctionDut) -> None:
    body = """
        struct stage_address from, to;
        if (stage_addresses(stage, &from, &to) || stage->ethertype != STAGE_IPV6) return 0;
        return from.word[3] == 0x01000000 && to.word[3] == 0x03000000 ? STAGE_DROP : 0;"""
    put(functions, "from_endpoint", body, closed=True)
    frame = p.ethernet(MAC[R], MAC[A], p.IPV6, p.ipv6(IPV6_A, IPV6_R, p.udp()))
    assert functions.from_endpoint(frame).outcome is Outcome.FUNCTION_DROPPED


def test_a_program_around_a_function_that_nobody_called_drops(functions: FunctionDut) -> None:
    functions.install("from_endpoint", 0, user_program(GO_ON))
    table = functions.fds[map_layout.STAGE_ARRAYS[functions.hook]]
    number = bpf.lookup(table, map_layout.U32.pack(0), 4)
    assert number is not None
    fd = bpf.program_by_id(int.from_bytes(number, "little"))
    verdict, _, _ = bpf.run_program(fd, sent(), ifindex=UPLINK, kind=functions.kind)
    assert verdict in {1, 2}
