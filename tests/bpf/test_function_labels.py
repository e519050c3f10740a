"""The sender's label as functions see it at each stage point, in programs and in processes."""

from __future__ import annotations

import bpf_packets as p
import pytest
from bpf_dut import D1, D2, D4, ELSEWHERE, MAC, SLOT, A, B, R
from bpf_tunnels import Outer, frame_to, tunnelled
from function_dut import FunctionDut, source_program, user_program
from test_function_examples import example
from test_functions import sent

from agent.core.model import map_layout
from agent.datapath.bpf import syscall as bpf
from agent.datapath.bpf.outcomes import Outcome
from droplet_functions.meta import unpack

OWN, OTHER = 7, 0xFFFFFFFF
ASKS, BOUNCES = map_layout.INTERFACE_LABELS, map_layout.NETWORK_LOCAL_BOUNCER
FROM, TO = map_layout.INTERFACE_STAGES_FROM, map_layout.INTERFACE_STAGES_TO
UNSEEN = 12345
KEEP = "int only = 0; __u32 *kept = labels.lookup(&only); if (kept) *kept = stage->label; return STAGE_GO_ON;"
LABELS = "BPF_ARRAY(labels, __u32, 1);"
LABEL = p.label(OTHER)


def watch(dut: FunctionDut, point: str, endpoint: int = SLOT) -> None:
    dut.install(point, 0, user_program(KEEP, LABELS))
    dut.chains(point, 0, endpoint=endpoint)
    bpf.update(dut.maps[point, 0]["labels"], bytes(4), UNSEEN.to_bytes(4, "little"))


def seen(dut: FunctionDut, point: str) -> int:
    return int.from_bytes(bpf.lookup(dut.maps[point, 0]["labels"], bytes(4), 4) or b"", "little")


def test_an_endpoints_own_label_is_seen_where_it_sends(functions: FunctionDut) -> None:
    functions.interface(label=OWN)
    watch(functions, "from_endpoint")
    assert functions.from_endpoint(sent()).outcome is Outcome.SENT_DIRECT
    assert seen(functions, "from_endpoint") == OWN


@pytest.mark.parametrize("asks", [False, True])
@pytest.mark.parametrize("to", ["this host", "a tunnel"])
def test_a_receiver_sees_labels_only_if_its_network_asks(functions: FunctionDut, to: str, asks: bool) -> None:
    """By a tunnel and from the same host alike, whatever the tunnel packet carries."""
    if to == "a tunnel":
        functions.interface(label=OWN, flags=ASKS if asks else 0)
        watch(functions, "to_endpoint")
        assert functions.from_underlay(tunnelled(options=LABEL)).outcome is Outcome.DELIVERED
        assert seen(functions, "to_endpoint") == (OTHER if asks else 0)
        return
    functions.interface(label=OTHER)
    functions.interface(B, None, slot=2, flags=ASKS if asks else 0)
    watch(functions, "to_endpoint", 2)
    assert functions.from_endpoint(sent(B)).outcome is Outcome.DELIVERED_SAME_HOST
    assert seen(functions, "to_endpoint") == (OTHER if asks else 0)


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(tunnelled(), id="Geneve"),
        pytest.param(Outer(port=4789).wrap(p.vxlan(7, frame_to())), id="VXLAN"),
        pytest.param(tunnelled(options=p.label(0, asking=True)), id="a label of 0"),
    ],
)
def test_a_packet_without_a_label_has_none_after_one_that_had(functions: FunctionDut, frame: bytes) -> None:
    functions.interface(flags=ASKS)
    watch(functions, "to_endpoint")
    for packet, label in ((tunnelled(options=LABEL), OTHER), (frame, 0), (tunnelled(options=LABEL), OTHER)):
        assert functions.from_underlay(packet).outcome is Outcome.DELIVERED
        assert seen(functions, "to_endpoint") == label


def test_a_tunnels_label_is_seen_before_decapsulation_and_where_it_is_forwarded(functions: FunctionDut) -> None:
    watch(functions, "from_underlay")
    watch(functions, "forwarded")
    functions.own_network(flags=BOUNCES)
    inner = p.ethernet(MAC[R], MAC[ELSEWHERE], p.IPV4, p.ipv4(ELSEWHERE, R, p.udp()))
    assert functions.from_underlay(tunnelled(inner, Outer(source=D4), options=LABEL)).outcome is Outcome.BOUNCED
    assert (seen(functions, "from_underlay"), seen(functions, "forwarded")) == (OTHER, OTHER)


def test_where_a_packet_is_dropped_its_label_is_seen_if_it_was_parsed(functions: FunctionDut) -> None:
    watch(functions, "dropped")
    gone = tunnelled(frame_to(ELSEWHERE), options=LABEL + p.rts(D2, 1, p.UNLEARNT))
    assert functions.from_underlay(gone).outcome is Outcome.ENDPOINT_NOT_LOCAL
    assert seen(functions, "dropped") == OTHER
    assert functions.from_underlay(tunnelled(options=LABEL)[:40]).outcome in (Outcome.MALFORMED_OUTER, Outcome.PASSED)
    assert seen(functions, "dropped") in (0, OTHER)
    functions.interface(label=OWN)
    stolen = p.ethernet(MAC[R], MAC[A], p.IPV4, p.ipv4(B, R, p.udp()))
    assert functions.from_endpoint(stolen).outcome is Outcome.SOURCE_ADDRESS
    assert seen(functions, "dropped") == OWN


@pytest.mark.parametrize("label", [OTHER, OWN, 0])
@pytest.mark.parametrize("options", ["direct", "by a bouncer"])
def test_the_pages_function_lets_only_one_label_in(functions: FunctionDut, label: int, options: str) -> None:
    functions.interface(flags=ASKS)
    allowed = OTHER.to_bytes(4, "big")
    functions.install("to_endpoint", 0, source_program(example("label_filter.c")), configuration=allowed)
    functions.chains("to_endpoint", 0)
    option = (p.label(label) if label else b"") + (p.rts(D2, 1) if options == "by a bouncer" else b"")
    run = functions.from_underlay(tunnelled(options=option))
    assert run.outcome is (Outcome.DELIVERED if label == OTHER else Outcome.FUNCTION_DROPPED)


def test_a_packet_that_a_function_sends_back_has_no_label(functions: FunctionDut) -> None:
    """Its new sender is the endpoint that it was for, whose label this droplet does not send in its name."""
    functions.interface(label=OWN, flags=ASKS)
    functions.install("to_endpoint", 0, user_program("return STAGE_SEND_BACK;"))
    functions.chains("to_endpoint", 0)
    run = functions.from_underlay(tunnelled(options=LABEL))
    assert run.outcome is Outcome.FUNCTION_SENT_BACK_REMOTE
    assert run.frame[42:62] == b"\x03\0\x65\x58" + (7).to_bytes(3, "big") + b"\0" + p.rts(D1, 0, p.UNLEARNT)


def test_an_endpoints_packet_keeps_its_label_behind_functions(functions: FunctionDut) -> None:
    functions.interface(label=OWN)
    functions.endpoint(R, D2, flags=map_layout.ENDPOINT_LABELS)
    plain = functions.from_endpoint(sent())
    for changed in (0, 1):
        functions.install("from_endpoint", 0, user_program(f"stage->changed = {changed}; return STAGE_GO_ON;"))
        functions.chains("from_endpoint", 0)
        assert functions.from_endpoint(sent()) == plain
    assert plain.frame[42:58] == b"\x02\0\x65\x58" + (7).to_bytes(3, "big") + b"\0" + p.label(OWN)


@pytest.mark.parametrize("point", ["from_endpoint", "to_endpoint", "from_underlay"])
def test_a_process_gets_the_label_too(functions: FunctionDut, point: str) -> None:
    functions.interface(label=OWN, flags=ASKS)
    functions.install_process(point, 3)
    functions.chains(point, 3)
    if point == "from_endpoint":
        run = functions.from_endpoint(sent())
    else:
        run = functions.from_underlay(tunnelled(options=LABEL))
    assert run.outcome is Outcome.FUNCTION_HANDED_OVER
    assert unpack(run.frame).label == (OWN if point == "from_endpoint" else OTHER)
    functions.renew()  # the kernel gives a queue to one socket only: the next test's
