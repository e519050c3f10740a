"""Droplets that serve a network or a VPC: its bouncers or dividers."""

from __future__ import annotations

from agent.core.model.map_layout import mapped
from agent.core.model.resolved_state import ResolvedState
from protocol.addresses import parse_address


def addresses_of(droplets: tuple[str, ...], resolved: ResolvedState) -> tuple[bytes, ...]:
    """Return the addresses (16 bytes) of those that answer, or of all if none does."""
    known = resolved.droplets
    return tuple(mapped(parse_address(known[id_].address)) for id_ in resolved.serving(droplets))


def is_one_here(droplets: tuple[str, ...], resolved: ResolvedState) -> bool:
    """Return whether this host is one of them."""
    return any(resolved.is_here(id_) for id_ in droplets)
