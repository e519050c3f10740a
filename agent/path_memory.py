"""What is known of paths, from one agent to the next: the store on one side, the core's plain data on the other."""

from __future__ import annotations

from collections.abc import Mapping

from agent.core.faults import ReportFaults
from agent.core.paths import Known, Path
from agent.store import KeptPath, Store, StoreError, not_saved


def known_paths(store: Store) -> dict[Path, Known]:
    """Return what the agent before this one left."""
    return {Path(one.source, one.peer): Known(one.down, one.carries) for one in store.load_paths()}


class PathMemory:
    """Leaves it to the agent that starts next. What cannot be written is said, and stops nothing."""

    def __init__(self, store: Store, report: ReportFaults) -> None:
        self._store = store
        self._report = report

    def keep(self, changes: Mapping[Path, Known | None]) -> bool:
        """Write what changed; None takes a path away. False when that failed."""
        kept = [KeptPath(*path, *known) for path, known in changes.items() if known is not None]
        try:
            self._store.keep_paths(kept, [path for path, known in changes.items() if known is None])
        except StoreError as error:
            self._report("paths", [not_saved("paths_not_saved", str(error))])
            return False
        self._report("paths", [])
        return True
