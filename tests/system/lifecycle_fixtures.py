"""A lab whose whole life is under test: up from a topology's text, changed, and down with nothing left."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lab.balance import check_balance

from controller_sim.cli.lifecycle import bring_up
from controller_sim.control.convergence import Report
from controller_sim.lab.controller import converge, prepare
from controller_sim.lab.lab import Lab
from controller_sim.lab.state import BPFFS


@contextmanager
def living_lab(text: str, name: str) -> Iterator[Lab]:
    """Bring a lab up, and take it down whatever happens; nothing may be left of it.

    At the end every agent must run, and every host's counters balance.
    """
    lab = Lab(name)
    bring_up(lab, text, "test")
    try:
        yield lab
        check_balance(lab)
    finally:
        lab.down()
    assert leftovers(lab) == []


def held_back(folder: Path, host: str) -> dict[str, str]:
    """Return an environment in which one host's agent never begins: no `up` is done before a test interrupts it."""
    never, agent = folder / "never", folder / "agent"
    os.mkfifo(never)
    real = Path(sys.executable).parent / "droplet-agent"
    waiting = f"exec sh -c 'read -r word < {never}' \"$@\""
    agent.write_text(f'#!/bin/sh\ncase "$*" in */{host}.toml) {waiting} ;; esac\nexec {real} "$@"\n')
    agent.chmod(0o755)
    return {**os.environ, "DROPLET_LAB_AGENT": str(agent)}


def leftovers(lab: Lab) -> list[str]:
    """Return what there is of a lab: namespaces, files, pins."""
    found = lab.names.existing()
    if lab.paths.directory.exists():
        found.append(str(lab.paths.directory))
    pins = BPFFS / "droplet"
    found += [
        str(pin) for pin in (pins.iterdir() if pins.is_dir() else []) if pin.name.startswith(lab.paths.instance(""))
    ]
    return found


def apply(lab: Lab, text: str, patience: float = 30.0) -> Report:
    """Make another topology the one in force, and wait for it."""
    lab.adopt(text)
    prepare(lab)
    report = converge(lab, timeout=patience)
    lab.remove_endpoint_namespaces()
    return report
