"""Right, malformed, truncated and random frames at every depth, in worlds made by chance; `make fuzz` runs millions."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from random import Random

import fuzz_model
import pytest
from bpf_dut import XDP_ONLY
from fuzz_frames import frame
from fuzz_machine import Machine, Step, enter_namespace, tapped
from fuzz_oracle import Oracle
from fuzz_rules import ViolationError
from fuzz_run import EPISODE, VARIANTS, run

from agent.core.model.endpoint_slots import IFINDEX_BASE
from agent.datapath.bpf import programs
from agent.datapath.bpf.compiler import CompiledObject, compile_programs
from agent.datapath.bpf.outcomes import RECEIVED, Outcome
from agent.datapath.bpf.syscall import XdpAction

FRAMES = {"everything": 20_000, "plain": 10_000}
EPISODES, OUTCOMES = {"everything": 40, "plain": 10}, {"everything": 60, "plain": 40}
"""Of the test without and with garbage, and how many outcomes they reach at least."""
pytestmark = XDP_ONLY


@pytest.fixture(scope="module", autouse=True)
def namespace(interfaces: None) -> None:
    """Interfaces of many endpoints; the namespace goes with that of the fixture it follows."""
    enter_namespace()


@pytest.fixture(scope="module", params=FRAMES)
def variant(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def machine(variant: str, compiled: CompiledObject, lab_cache: Path) -> Iterator[Machine]:
    if variant != "everything":
        compiled = asyncio.run(compile_programs(lab_cache, features=VARIANTS[variant]))
    machine = Machine(compiled)
    yield machine
    machine.close()


@pytest.fixture(scope="module")
def reached(machine: Machine, variant: str) -> Counter[Outcome]:
    return run(machine, variant, 1, FRAMES[variant])


def step_to(machine: Machine, variant: str, outcome: Outcome) -> tuple[Oracle, Step]:
    """Return a step with this outcome, and its oracle, which found no error."""
    for seed in range(1000):
        rng = Random(seed)
        model = fuzz_model.make(rng, VARIANTS[variant])
        machine.fill(model)
        check, paths = Oracle(model), machine.paths()
        for _ in range(EPISODE):
            step = machine.run(frame(rng, model), paths)
            if step.outcome is outcome:
                check.check(step)
                return check, step
            paths = step.after
    raise AssertionError(f"{outcome.name} was never reached")


def test_every_frame_is_counted_once_and_treated_by_the_rules(reached: Counter[Outcome], variant: str) -> None:
    assert reached.total() == FRAMES[variant]


def test_the_frames_reach_every_outcome_of_what_is_compiled_in(reached: Counter[Outcome], variant: str) -> None:
    if variant == "everything":
        assert set(Outcome) - RECEIVED - {Outcome.GSO_PACKET} == set(reached)  # which XDP has none of
    else:
        assert {Outcome.DELIVERED, Outcome.REROUTED, Outcome.ICMP_TOO_BIG_SENT_REMOTE, Outcome.NO_HEADROOM} <= set(
            reached
        )


def seen(step: Step) -> tuple[object, ...]:
    """Return what a step did, but for the times at which paths were heard."""
    paths = {key: value[:24] for key, value in step.after.items()}
    return step.verdict, step.out, step.outcome, step.leaves, step.traffic, paths


def test_garbage_in_the_frame_state_changes_nothing(machine: Machine, variant: str, lab_cache: Path) -> None:
    """Two machines get the same frames: one with zeros there, one with garbage."""
    features = VARIANTS[variant]
    other = Machine(asyncio.run(compile_programs(lab_cache, features=features)))
    reached = set()
    try:
        for seed in range(EPISODES[variant]):
            rng = Random(seed)
            model = fuzz_model.make(rng, features)
            machine.garbage, other.garbage = None, Random(seed)
            for one in (machine, other):
                one.fill(model)
            paths = machine.paths()
            for number in range(EPISODE):
                sent = frame(rng, model)
                for one in (machine, other):
                    one.reset_icmp_ratelimit()
                clean, dirty = machine.run(sent, paths), other.run(sent, paths)
                assert seen(clean) == seen(dirty), f"seed {seed}, frame {number}: {sent}"
                reached.add(clean.outcome)
                paths = clean.after
    finally:
        other.close()
    assert len(reached) > OUTCOMES[variant]


def test_the_programs_under_test_differ_from_the_real_ones_by_the_detour_alone(
    machine: Machine, variant: str, compiled: CompiledObject
) -> None:
    if variant != "everything":
        pytest.skip("the same for every variant")
    for program in compiled.programs:
        real = programs.relocate(program, machine.fds)
        ours = tapped(program, machine.fds, machine.fds["icmp_ratelimit"])
        changed = [at for at in range(0, len(real), 8) if real[at : at + 8] != ours[at : at + 8]]
        assert [real[at : at + 8] for at in changed] == [bytes.fromhex("8500000017000000")]
        assert len(ours) == len(real) + 40


@pytest.mark.parametrize(
    ("outcome", "wrong"),
    [
        (Outcome.DELIVERED, lambda step: {"leaves": IFINDEX_BASE + (step.leaves + 1) % 8}),
        (Outcome.DELIVERED, lambda step: {"verdict": XdpAction.PASS}),
        (Outcome.DELIVERED, lambda step: {"out": step.out[:-1]}),
        (Outcome.DELIVERED, lambda step: {"out": step.out[:30] + bytes([step.out[30] ^ 1]) + step.out[31:]}),
        (Outcome.DELIVERED, lambda step: {"traffic": {}}),
        (Outcome.DELIVERED_SAME_HOST, lambda step: {"leaves": IFINDEX_BASE + (step.leaves + 1) % 8}),
        (Outcome.SENT_DIRECT, lambda step: {"leaves": step.leaves + 1}),
        (Outcome.SENT_DIRECT, lambda step: {"out": step.out[:20] + bytes([step.out[20] ^ 0x20]) + step.out[21:]}),
        (Outcome.SENT_TO_BOUNCER, lambda step: {"out": step.out[:-1]}),
        (Outcome.BOUNCED, lambda step: {"out": step.frame}),
        (Outcome.ARP_ANSWERED, lambda step: {"out": step.frame}),
        (Outcome.ICMP_TOO_BIG_SENT, lambda step: {"out": step.out[:-1] + bytes([step.out[-1] ^ 1])}),
        (Outcome.MALFORMED_INNER, lambda step: {"verdict": XdpAction.REDIRECT, "leaves": 11}),
        (Outcome.MALFORMED_INNER, lambda step: {"after": {**step.after, bytes(20): bytes(40)}}),
    ],
)  # fmt: skip
def test_the_oracle_detects_wrong_results(machine: Machine, variant: str, outcome: Outcome, wrong: object) -> None:
    assert callable(wrong)
    check, step = step_to(machine, variant, outcome)
    with pytest.raises(ViolationError):
        check.check(replace(step, **wrong(step)))
