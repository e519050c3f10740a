"""Runs frames by the million, for `make fuzz`.

Frames come in episodes of one world each. An episode is made from its seed alone, by which a failure is seen again.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from random import Random
from typing import NamedTuple

import fuzz_model
from fuzz_frames import Frame, frame
from fuzz_machine import CONFIGURED, Machine, enter_namespace
from fuzz_oracle import Oracle
from fuzz_taps import compile_shown

from agent.core.model.features import Features
from agent.core.model.hooks import Hook
from agent.datapath.bpf.outcomes import Outcome
from agent.datapath.bpf.ticks import ticks_per_second

EPISODE = 200
"""The number of frames of one configuration."""
VARIANTS = {
    "everything": Features(vlan_tags=True),
    "plain": Features(vxlan_port=0, families=frozenset({"ipv4"}), underlay=frozenset({"ipv4"})),
    "functions": Features(vlan_tags=True, functions=True),
    "ipv6": Features(geneve_port=7000, underlay=frozenset({"ipv6"})),
}
"""Programs by what they are compiled for."""


class Part(NamedTuple):
    """Frames of one hook and variant, from the seed of their first episode on."""

    hook: Hook
    variant: str
    seed: int
    frames: int = EPISODE

    def __str__(self) -> str:
        return f"hook {self.hook}, variant {self.variant}, seed {self.seed}"


class FoundError(AssertionError):
    """A rule was broken; the message says how to see it again."""

    def __init__(self, part: Part, number: int, one: Frame, reason: str, outcome: str) -> None:
        super().__init__(
            f"{reason}\n  {part}, frame {number}, {one.program} on interface {one.arrival}, outcome {outcome}, "
            f"{one.marks}\n  {one.data.hex()}\n"
            f"  again: make fuzz HOOK={part.hook} VARIANT={part.variant} SEED={part.seed} FRAMES={EPISODE}"
        )


def episode(machine: Machine, part: Part, reached: Counter[Outcome]) -> None:
    """Run the frames of one configuration, each with garbage in the frame's state; raises FoundError."""
    rng = Random(part.seed)
    model = fuzz_model.make(rng, VARIANTS[part.variant])
    machine.fill(model)
    machine.garbage = Random(part.seed)
    check, paths = Oracle(model), machine.paths()
    want = model.entries(0x100000000, ticks_per_second())
    for number in range(EPISODE):
        one = frame(rng, model, machine.hook)
        outcome = "none"
        try:
            step = machine.run(one, paths)
            outcome = step.outcome.name
            reached[step.outcome] += 1
            check.check(step)
        except Exception as error:  # the oracle's own, too, has to name the frame
            raise FoundError(part, number, one, f"{type(error).__name__}: {error}", outcome) from error
        paths = step.after
    found = machine.configured()
    wrong = [name for name in CONFIGURED if found[name] != want[name]]
    if wrong or not machine.fragment_slots() <= set(model.interfaces):
        raise FoundError(part, number, one, f"programs wrote into {wrong or 'fragments of nobody'}", outcome)


def run(machine: Machine, part: Part, every: float = 0.0) -> Counter[Outcome]:
    """Run at least the frames of a part; print progress each `every` seconds, unless 0. Raises FoundError."""
    reached: Counter[Outcome] = Counter()
    began = reported = time.monotonic()
    for number in range(-(-part.frames // EPISODE)):
        one = part._replace(seed=part.seed + number)
        episode(machine, one, reached)
        now = time.monotonic()
        if every and now - reported >= every:
            reported, done = now, (number + 1) * EPISODE
            print(f"{one}: {done:,} frames, {done / (now - began) * 60:,.0f} a minute", flush=True)
    return reached


def _worker(part: Part, every: float) -> None:
    with tempfile.TemporaryDirectory() as folder:
        compiled = compile_shown(Path(folder), VARIANTS[part.variant], part.hook)
    enter_namespace()
    began = time.monotonic()
    try:
        reached = run(Machine(compiled, part.hook), part, every)
    except FoundError as found:
        print(found, file=sys.stderr, flush=True)
        sys.exit(1)
    rate = reached.total() / (time.monotonic() - began) * 60
    print(f"{part}: {reached.total():,} frames, {rate:,.0f} a minute, {len(reached)} outcomes reached:")
    print("  " + ", ".join(f"{outcome.name} {count:,}" for outcome, count in reached.most_common()), flush=True)


def parts(given: argparse.Namespace) -> list[Part]:
    """Return the parts of each hook and variant, on as many processors as there are."""
    variants = list(VARIANTS) if given.variant == "all" else [given.variant]
    hooks = list(Hook) if given.hook == "both" else [Hook(given.hook)]
    kinds = [(hook, variant) for hook in hooks for variant in variants]
    jobs = max(1, given.jobs // len(kinds)) if given.frames > EPISODE else 1
    share = -(-given.frames // jobs)
    return [Part(*kind, given.seed + job * (share // EPISODE + 1), share) for kind in kinds for job in range(jobs)]


def main() -> None:
    """Run all parts at once, each in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=1_000_000, help="for each hook and variant")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--variant", choices=[*VARIANTS, "all"], default="all")
    parser.add_argument("--hook", choices=[*Hook, "both"], default="both")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    workers = [multiprocessing.Process(target=_worker, args=(part, 10.0)) for part in parts(parser.parse_args())]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    sys.exit(any(worker.exitcode for worker in workers))


if __name__ == "__main__":
    main()
