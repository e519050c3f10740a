"""What has to be examined again when a change of droplets, networks or VPCs changes how endpoints send. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from agent.core.model.resolved_state import ResolvedState
from protocol.acknowledgements import Reference


def senders(states: Sequence[ResolvedState]) -> Iterator[Reference]:
    """Yield this host's droplets, to which its endpoints refer, if `ResolvedState.sending` differs in two states."""
    new, old = states
    if new.sending() != old.sending():
        yield from (Reference("droplets", id_) for id_ in {**old.own, **new.own})
