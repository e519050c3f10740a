"""Random, malformed and truncated frames into both programs: each is counted exactly once, and none gets further."""

from __future__ import annotations

import random
from collections.abc import Iterator

import bpf_packets as p
import pytest
from bpf_tunnels import Outer
from bpf_world import D1, D2, DROPLET_MAC, MAC, STRANGER, VNI, A, B, R, World
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.datapath.outcomes import FORWARDED, PASSED, Outcome

SETTINGS = settings(max_examples=1500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
BYTES = st.binary(min_size=14, max_size=200)
OPTIONS = st.lists(
    st.builds(
        p.option,
        st.sampled_from([0xFF4D, 0x0102]),
        st.integers(0, 255),
        st.sampled_from([b"", bytes(4), bytes(8)]),
    ),
    max_size=10,
).map(b"".join)


def mutate(frame: bytes, seed: int, changes: int, cut: int) -> bytes:
    """Return the frame with some bytes changed and its end cut off."""
    picked = random.Random(seed)
    out = bytearray(frame)
    for _ in range(changes):
        out[picked.randrange(len(out))] = picked.randrange(256)
    return bytes(out[: max(14, len(out) - cut)])


def inner(source: str, destination: str, to: bytes) -> bytes:
    return p.ethernet(to, MAC[A], p.IPV4, p.ipv4(source, destination, p.udp()))


INNER = st.builds(
    inner, st.sampled_from([A, R, "10.0.0.77"]), st.sampled_from([A, B, R, "10.0.0.254", "10.1.1.1"]),
    st.sampled_from([MAC[A], p.GATEWAY_MAC]),
)  # fmt: skip
ASKS = st.builds(
    lambda target, operation: p.ethernet(b"\xff" * 6, MAC[A], p.ARP, p.arp(MAC[A], A, target, operation=operation)),
    st.sampled_from([A, B, R, "10.0.0.77"]),
    st.integers(0, 4),
)
MUTATION = st.tuples(st.integers(0, 2**32), st.integers(0, 6), st.sampled_from([0, 0, 0, 1, 7, 20, 60]))


@pytest.fixture(autouse=True)
def unexpected(one_world: World) -> Iterator[None]:
    """What noise comes to is expected by nobody: it does not count as reached."""
    expected = one_world.reached.copy()
    yield
    one_world.reached = expected


@SETTINGS
@given(frame=BYTES)
def test_noise_from_an_endpoint_is_dropped_and_counted(one_world: World, frame: bytes) -> None:
    one_world.fill()
    assert one_world.from_endpoint(frame).outcome not in FORWARDED | PASSED


@SETTINGS
@given(frame=BYTES)
def test_noise_from_the_substrate_is_not_forwarded(one_world: World, frame: bytes) -> None:
    one_world.fill()
    assert one_world.from_substrate(frame).outcome not in FORWARDED


@SETTINGS
@given(frame=st.one_of(INNER, ASKS), mutation=MUTATION)
def test_an_endpoints_mutated_frame_is_counted_and_never_passed(
    one_world: World, frame: bytes, mutation: tuple[int, int, int]
) -> None:
    one_world.fill()
    run = one_world.from_endpoint(mutate(frame, *mutation))
    assert run.outcome not in PASSED
    if run.outcome in {Outcome.SENT_DIRECT, Outcome.SENT_TO_BOUNCER}:
        assert run.frame[26:30] == p.ip(D1), "only the droplet's own address stands on the wire"
        assert run.frame[46:49] == VNI.to_bytes(3, "big"), "no frame leaves the sender's VPC"


@SETTINGS
@given(
    payload=st.one_of(INNER, ASKS),
    options=OPTIONS,
    source=st.sampled_from([D2, D2, D2, STRANGER]),
    mutation=MUTATION,
)
def test_a_mutated_tunnel_packet_is_counted(
    one_world: World, payload: bytes, options: bytes, source: str, mutation: tuple[int, int, int]
) -> None:
    one_world.fill()
    frame = Outer(source=source).wrap(p.geneve(VNI, payload, options=options))
    assert frame.startswith(DROPLET_MAC[D1])
    run = one_world.from_substrate(mutate(frame, *mutation))
    if run.outcome is Outcome.DELIVERED:
        assert run.frame[:6] in (MAC[A], MAC[B])
