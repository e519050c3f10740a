"""Right, malformed, truncated and random frames at every depth, in worlds made by chance; `make fuzz` runs millions."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from random import Random

import fuzz_model
import pytest
from fuzz_frames import frame
from fuzz_machine import Machine, Step, enter_namespace
from fuzz_oracle import Oracle
from fuzz_rules import ViolationError
from fuzz_run import EPISODE, VARIANTS, Part, run
from fuzz_taps import (
    ADJUST_ROOM,
    CB,
    CHANGE_TAIL,
    REDIRECT,
    SHOWN,
    VLAN_POP,
    VLAN_PUSH,
    compile_shown,
    tapped,
)

from agent.core.model.endpoint_slots import IFINDEX_BASE
from agent.core.model.hooks import Hook
from agent.datapath.bpf import programs
from agent.datapath.bpf.compiler import CompiledObject
from agent.datapath.bpf.outcomes import RECEIVED, Outcome
from agent.datapath.bpf.syscall import XdpAction

FRAMES = {"everything": 10_000, "plain": 5_000, "functions": 5_000}
"""For each hook."""
FIRST_SEED = 195
"""Its frames and the following ones reach every outcome."""
EPISODES = {"everything": 20, "plain": 5, "functions": 5}
OUTCOMES = {"everything": 60, "plain": 40, "functions": 50}
"""Of the test without and with garbage, and how many outcomes they reach at least."""
INSTRUCTION, CALL = struct.Struct("<BBhi"), 0x85


@pytest.fixture(scope="module", autouse=True)
def namespace(interfaces: None) -> None:
    """Interfaces of many endpoints; the namespace goes with that of the fixture it follows."""
    enter_namespace()


@pytest.fixture(scope="module", params=FRAMES)
def variant(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def machine(hook: Hook, variant: str, lab_cache: Path) -> Iterator[Machine]:
    machine = Machine(compile_shown(lab_cache, VARIANTS[variant], hook), hook)
    yield machine
    machine.close()


@pytest.fixture(scope="module")
def reached(machine: Machine, variant: str) -> Counter[Outcome]:
    return run(machine, Part(machine.hook, variant, FIRST_SEED, FRAMES[variant]))


def step_to(machine: Machine, variant: str, outcome: Outcome) -> tuple[Oracle, Step]:
    """Return a step with this outcome, and its oracle, which found no error."""
    for seed in range(1000):
        rng = Random(seed)
        model = fuzz_model.make(rng, VARIANTS[variant])
        machine.fill(model)
        check, paths = Oracle(model), machine.paths()
        for _ in range(EPISODE):
            step = machine.run(frame(rng, model, machine.hook), paths)
            if step.outcome is outcome:
                check.check(step)
                return check, step
            paths = step.after
    raise AssertionError(f"{outcome.name} was never reached")


def test_every_frame_is_counted_once_and_treated_by_the_rules(reached: Counter[Outcome], variant: str) -> None:
    assert reached.total() == FRAMES[variant]


def test_the_frames_reach_every_outcome_of_what_is_compiled_in(
    reached: Counter[Outcome], variant: str, hook: Hook
) -> None:
    if variant == "everything":
        never = {one for one in Outcome if one.name.startswith("FUNCTION_")} | {Outcome.NO_FUNCTION}
        never |= {Outcome.GSO_PACKET} if hook is Hook.XDP else set()
        assert set(Outcome) - RECEIVED - never == set(reached)
    else:
        assert {Outcome.DELIVERED, Outcome.REROUTED, Outcome.ICMP_TOO_BIG_SENT_REMOTE, Outcome.NO_HEADROOM} <= set(
            reached
        )


def seen(step: Step) -> tuple[object, ...]:
    """Return what a step did, but for the times at which paths were heard."""
    paths = {key: value[:24] for key, value in step.after.items()}
    return step.verdict, step.out, step.outcome, step.leaves, step.packets, step.traffic, paths


def test_garbage_in_the_frame_state_changes_nothing(machine: Machine, variant: str, lab_cache: Path) -> None:
    """Two machines get the same frames: one with zeros there, one with garbage."""
    features = VARIANTS[variant]
    other = Machine(compile_shown(lab_cache, features, machine.hook), machine.hook)
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
                sent = frame(rng, model, machine.hook)
                for one in (machine, other):
                    one.reset_icmp_ratelimit()
                clean, dirty = machine.run(sent, paths), other.run(sent, paths)
                assert seen(clean) == seen(dirty), f"seed {seed}, frame {number}: {sent}"
                reached.add(clean.outcome)
                paths = clean.after
    finally:
        other.close()
    assert len(reached) > OUTCOMES[variant]


def test_the_programs_under_test_differ_from_the_real_ones_by_what_is_shown_alone(
    machine: Machine, variant: str, hook: Hook, compiled: CompiledObject, lab_cache: Path
) -> None:
    """Helpers are called by way of their taps, and fields of the context are read from `cb`: nothing else differs."""
    if variant != "everything":
        pytest.skip("the same for every variant")
    shown = compile_shown(lab_cache, VARIANTS[variant], hook)
    tapped_calls, moved_loads = set(), set()
    for program, other in zip(compiled.programs, shown.programs, strict=True):
        real = programs.relocate(program, machine.fds)
        ours = tapped(other, machine.fds, machine.fds["icmp_ratelimit"])
        for was, now in zip(INSTRUCTION.iter_unpack(real), INSTRUCTION.iter_unpack(ours[: len(real)]), strict=True):
            if was == now:
                continue
            if was[0] == CALL:
                tapped_calls.add(was[3])
            else:
                assert (*was[:2], was[3]) == (*now[:2], now[3]), "only the offset differs"
                moved_loads.add((was[2], now[2]))
    offsets = {(at, CB + 4 * place) for place, at in enumerate(SHOWN.values())}
    both = {REDIRECT} if hook is Hook.XDP else {REDIRECT, VLAN_PUSH, VLAN_POP, CHANGE_TAIL, ADJUST_ROOM}
    assert (tapped_calls, moved_loads) == (both, set() if hook is Hook.XDP else offsets)


@pytest.mark.parametrize(
    ("outcome", "wrong"),
    [
        (Outcome.DELIVERED, lambda step: {"leaves": IFINDEX_BASE + (step.leaves + 1) % 8}),
        (Outcome.DELIVERED, lambda step: {"verdict": XdpAction.PASS}),
        (Outcome.DELIVERED, lambda step: {"out": step.out[:-1]}),
        (Outcome.DELIVERED, lambda step: {"out": step.out[:30] + bytes([step.out[30] ^ 1]) + step.out[31:]}),
        (Outcome.DELIVERED, lambda step: {"traffic": {}}),
        (Outcome.DELIVERED, lambda step: {"packets": step.packets + 1}),
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
