"""Moves of endpoints that one host does not hear of."""

from __future__ import annotations

from controller_sim.lab.controller import converge
from lab.fixtures import SystemLab
from lab.waiting import until


def adopt_without(lab: SystemLab, text: str, deaf: str) -> None:
    """Publish another topology and wait until every host has realized it but one that cannot hear of it."""
    lab.lab.adopt(text)

    def realized() -> bool:
        problems = converge(lab.lab, timeout=3.0).problems
        assert problems, f"{deaf} cannot have realized it"
        return {problem.split("/")[0].split(" ")[0].rstrip(":") for problem in problems} == {deaf}

    until(realized, f"all hosts but {deaf} to realize it")
    del lab.topology  # it is read anew
    lab.text = text
