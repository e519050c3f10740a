"""Records shortfalls of the host for documents in force: a missing address, too small an MTU, an older program."""

from __future__ import annotations

from collections.abc import Iterable

import structlog

from agent.core.config.desired_state import Desired
from agent.core.kinds.droplets import DROPLETS
from agent.core.kinds.endpoints import ENDPOINTS
from agent.core.model.resolved_state import HostState
from agent.core.uplinks.lost_addresses import lost
from agent.core.uplinks.narrow_uplinks import endpoints_short_of_mtu, is_narrow
from agent.reconcile.function_versions import rolled_back_failures
from protocol.acknowledgements import KernelFailure

log = structlog.get_logger()


def note_shortfalls(desired: Desired, found: HostState, names: Iterable[str]) -> None:
    """Set `lacking` of the named documents from the host as found, and log changes."""
    resolved, documents = desired.resolved, desired.documents
    lost_by: dict[str | None, tuple[KernelFailure, ...]] = {}
    for droplet, failure in lost(found, resolved).items():
        owner = documents.owner(DROPLETS, droplet)
        lost_by[owner] = (*lost_by.get(owner, ()), failure)
    narrow, back = is_narrow(resolved), rolled_back_failures(desired)
    for name in documents.entries.keys() & set(names):
        entry, lacking = documents.entries[name], lost_by.get(name, ()) + back.get(name, ())
        if narrow and entry.in_force is not None and entry.in_force.lists(ENDPOINTS.name):
            lacking += endpoints_short_of_mtu(entry.in_force.document(), resolved)
        if lacking != entry.lacking:
            reason = lacking[0].message if lacking else ""
            log.warning("host_shortfall_changed", document=name, lacking=len(lacking), reason=reason)
        entry.lacking = lacking


def owners_of_lost(desired: Desired, before: HostState, now: HostState) -> set[str]:
    """Return the documents whose droplets lost or regained their address between two states of the host."""
    resolved, documents = desired.resolved, desired.documents
    changed = lost(before, resolved).keys() ^ lost(now, resolved).keys()
    owners = (documents.owner(DROPLETS, droplet) for droplet in changed)
    return {owner for owner in owners if owner is not None}
