"""What the kernel's parts need of users' functions: `agent.datapath.functions`, or nothing where functions are off."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

from agent.core.functions.programs import UncheckedProgram
from agent.core.model.desired_entries import Function, FunctionPlace
from agent.core.model.features import Verdict
from agent.core.plan.observed import ObservedFunction


class FunctionPort(Protocol):
    """Loads users' programs and puts them into the jump tables of the stage points."""

    async def check(self, programs: Sequence[UncheckedProgram]) -> Mapping[str, Verdict]:
        """Compile, check and load programs, install nothing; return their verdicts by key.

        Only refusals of the program itself are verdicts. One that could not be checked, such as for lack of memory, is
        left out: `ensure` then meets the cause, and is tried again. Raises nothing.
        """
        ...

    async def ensure(self, function: Function) -> None:
        """Put a function's program and configuration into its slot. If that fails, an older one stays: OSError.

        EINPROGRESS: the program is not kept, and `check` has to compile it again first.
        """
        ...

    async def remove(self, id_: str, point: int, slot: int) -> None:
        """Empty a slot. What the function has in another slot stays. Nothing there is not an error; else OSError."""
        ...

    def is_filled(self, point: int, slot: int) -> bool:
        """Return whether a slot has a program at every hook in use."""
        ...

    async def observe(self, only: Collection[FunctionPlace] | None = None) -> Mapping[FunctionPlace, ObservedFunction]:
        """Read the functions back from pins and marks, or only some of them; OSError if they could not all be read.

        A function that moves to another point is at both for a moment, so that pins of the two have different paths.
        """
        ...
