"""What `agent.reconcile` needs of the kernel: `agent.datapath.kernel.Kernel`, or the fake that tests use instead."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from agent.core.functions.programs import UncheckedProgram
from agent.core.model.features import Features, Verdict
from agent.core.model.hooks import Hook
from agent.core.model.uplinks import Uplink
from agent.core.plan.actions import Action, Failure
from agent.core.plan.diff import Suspects
from agent.core.plan.observed import Observed


class ExecutorPort(Protocol):
    """Carries out a plan."""

    async def run(self, actions: Iterable[Action]) -> list[Failure]:
        """Execute the actions in order; return the refusals, empty if all succeeded."""
        ...


class KernelPort(Protocol):
    """The objects of one agent in the kernel."""

    @property
    def executor(self) -> ExecutorPort:
        """Changes the kernel."""
        ...

    @property
    def features(self) -> Features:
        """The features that the programs are compiled with."""
        ...

    @property
    def endpoint_hook(self) -> Hook:
        """Where the programs of endpoints are attached."""
        ...

    async def observe(self, namespaces: Mapping[str, str]) -> Observed:
        """Read everything back, and change nothing; `namespaces`: endpoint id -> its own. Raises ObservationError."""
        ...

    async def observe_some(self, suspects: Suspects, namespaces: Mapping[str, str]) -> Observed:
        """Read a few things back, and the uplinks; otherwise as `observe`."""
        ...

    async def check(self, programs: Sequence[UncheckedProgram]) -> Mapping[str, Verdict]:
        """Return what the compiler and the verifier say of functions' programs, by key; nothing is installed.

        Those that could not be checked now, such as for lack of memory, are left out.
        """
        ...

    def map_bytes(self, contents: Iterable[str]) -> Mapping[str, int]:
        """Return what the maps of programs that were checked before take, by content, as far as it is known."""
        ...

    def tend(self, observed: Observed) -> None:
        """Maintain kernel objects of no document; `observed` is the kernel as it was just read.

        Raises OperatorError if pins cannot be maintained, after all else was done, and any other OSError.
        """
        ...

    async def uplinks(self) -> tuple[Uplink, ...]:
        """Read the uplinks, and change nothing; OSError (ENODEV) when one is gone."""
        ...

    async def follow_modes(self, uplinks: Sequence[Uplink]) -> None:
        """Move all attached programs to the mode that these uplinks allow; OSError (ENODEV) if one is gone."""
        ...

    def is_transit_attached(self, ifindex: int) -> bool:
        """Return whether our current transit XDP runs on an interface now; OSError (ENODEV) if it is gone."""
        ...

    def clear_endpoint_counters(self, slot: int) -> None:
        """Set the counters of an endpoint's slot to zero."""
        ...

    def function_faults(self, indexes: Iterable[int]) -> Mapping[int, int]:
        """Return the faults of functions by their indexes in the jump tables, since their slots were assigned."""
        ...

    def clear_function_counters(self, index: int) -> None:
        """Set the counters of a function's index in the jump tables to zero."""
        ...
