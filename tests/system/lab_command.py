"""Runs `droplet-lab` as a user does."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from lab.balance import check_balance
from lab.fixtures import leftovers

from controller_sim.lab.lab import Lab

PROGRAM = Path(sys.executable).parent / "droplet-lab"
NAME = f"tool-{os.getpid()}"


def run(*arguments: str, name: str = NAME, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(PROGRAM), "--name", name, *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "200", **environment},
        timeout=120,
    )


def ok(*arguments: str, name: str = NAME) -> str:
    """Run a command that must succeed, and return what it prints."""
    done = run(*arguments, name=name)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def write(folder: Path, text: str) -> str:
    file = folder / "topology.yaml"
    file.write_text(text)
    return str(file)


@contextlib.contextmanager
def cleared(name: str) -> Iterator[None]:
    """Take a lab down after a block, and hold that its counters balance and nothing of it is left."""
    try:
        yield
        check_balance(Lab(name))
    finally:
        ok("down", name=name)
        assert leftovers(name) == []
