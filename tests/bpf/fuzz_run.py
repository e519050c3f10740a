"""Runs frames by the million, for `make fuzz`.

Frames come in episodes of one world each. An episode is made from its seed alone, by which a failure is seen again.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from random import Random

import fuzz_model
from fuzz_frames import Frame, frame
from fuzz_machine import CONFIGURED, Machine, enter_namespace
from fuzz_oracle import Oracle

from agent.core.model.features import Features
from agent.datapath.bpf.compiler import compile_programs, ticks_per_second
from agent.datapath.bpf.outcomes import Outcome

EPISODE = 200
"""The number of frames of one configuration."""
VARIANTS = {
    "everything": Features(vlan_tags=True),
    "plain": Features(vxlan_port=0, families=frozenset({"ipv4"}), underlay=frozenset({"ipv4"})),
    "ipv6": Features(geneve_port=7000, underlay=frozenset({"ipv6"})),
}
"""Programs by what they are compiled for."""


class FoundError(AssertionError):
    """A rule was broken; the message says how to see it again."""

    def __init__(self, variant: str, seed: int, number: int, one: Frame, reason: str, outcome: str) -> None:
        super().__init__(
            f"{reason}\n  variant {variant}, seed {seed}, frame {number}, {one.program} on interface {one.arrival}, "
            f"outcome {outcome}\n  {one.data.hex()}\n"
            f"  again: make fuzz VARIANT={variant} SEED={seed} FRAMES={EPISODE}"
        )


def episode(machine: Machine, variant: str, seed: int, reached: Counter[Outcome]) -> None:
    """Run the frames of one configuration, each with garbage in the frame's state; raises FoundError."""
    rng = Random(seed)
    model = fuzz_model.make(rng, VARIANTS[variant])
    machine.fill(model)
    machine.garbage = Random(seed)
    check, paths = Oracle(model), machine.paths()
    want = model.entries(0x100000000, ticks_per_second())
    for number in range(EPISODE):
        one = frame(rng, model)
        outcome = "none"
        try:
            step = machine.run(one, paths)
            outcome = step.outcome.name
            reached[step.outcome] += 1
            check.check(step)
        except (AssertionError, OSError) as error:
            raise FoundError(variant, seed, number, one, str(error), outcome) from error
        paths = step.after
    found = machine.configured()
    wrong = [name for name in CONFIGURED if found[name] != want[name]]
    if wrong or not machine.fragment_slots() <= set(model.interfaces):
        raise FoundError(variant, seed, number, one, f"programs wrote into {wrong or 'fragments of nobody'}", outcome)


def run(machine: Machine, variant: str, seed: int, frames: int, every: float = 0.0) -> Counter[Outcome]:
    """Run at least `frames` frames from `seed` on; print progress each `every` seconds, unless 0. Raises FoundError."""
    reached: Counter[Outcome] = Counter()
    began = reported = time.monotonic()
    for number in range(-(-frames // EPISODE)):
        episode(machine, variant, seed + number, reached)
        now = time.monotonic()
        if every and now - reported >= every:
            reported, done = now, (number + 1) * EPISODE
            print(
                f"{variant}, seed {seed + number}: {done:,} frames, {done / (now - began) * 60:,.0f} a minute",
                flush=True,
            )
    return reached


def _worker(variant: str, seed: int, frames: int, every: float) -> None:
    with tempfile.TemporaryDirectory() as folder:
        compiled = asyncio.run(compile_programs(Path(folder), features=VARIANTS[variant]))
    enter_namespace()
    began = time.monotonic()
    try:
        reached = run(Machine(compiled), variant, seed, frames, every)
    except FoundError as found:
        print(found, file=sys.stderr, flush=True)
        sys.exit(1)
    rate = reached.total() / (time.monotonic() - began) * 60
    print(f"{variant}: {reached.total():,} frames, {rate:,.0f} a minute, {len(reached)} outcomes reached:")
    print("  " + ", ".join(f"{outcome.name} {count:,}" for outcome, count in reached.most_common()), flush=True)


def main() -> None:
    """Split the frames over variants and processors."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=5_000_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--variant", choices=[*VARIANTS, "all"], default="all")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args()
    variants = list(VARIANTS) if given.variant == "all" else [given.variant]
    jobs = max(1, given.jobs // len(variants)) if given.frames > EPISODE else 1
    share = -(-given.frames // (len(variants) * jobs))
    parts = [(v, given.seed + job * (share // EPISODE + 1)) for v in variants for job in range(jobs)]
    workers = [multiprocessing.Process(target=_worker, args=(v, seed, share, 10.0)) for v, seed in parts]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    sys.exit(any(worker.exitcode for worker in workers))


if __name__ == "__main__":
    main()
