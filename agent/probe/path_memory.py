"""What is known of paths, from one agent to the next: the store on one side, the core's plain data on the other."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping

from agent.core.faults.tracker import ReportFaults
from agent.core.probe.paths import NO_PATH_RECORDS, Path, PathRecord, PathRecords
from agent.reconcile.store import Store, StoredPath, StoreError, not_saved

Save = Callable[[Mapping[Path, PathRecord | None]], bool]
"""Called with what is known of paths now, None for nothing; False when that could not be saved."""
SAVE_SECONDS = 10.0
"""Between two tries to save what could not be saved."""


def load_path_records(store: Store) -> dict[Path, PathRecord]:
    """Return what the agent before this one left."""
    return {Path(one.source, one.peer): PathRecord(one.down, one.carries) for one in store.load_paths()}


def saver(store: Store, report: ReportFaults) -> Save:
    """Return what writes changes to the store. What cannot be written is a fault, and stops nothing."""

    def save(changes: Mapping[Path, PathRecord | None]) -> bool:
        kept = [StoredPath(*path, *known) for path, known in changes.items() if known is not None]
        try:
            store.save_paths(kept, [path for path, known in changes.items() if known is None])
        except StoreError as error:
            report("paths", [not_saved("paths_not_saved", str(error))])
            return False
        report("paths", [])
        return True

    return save


class PathMemory:
    """What an earlier agent knew of paths that are not probed yet, and what the next one is to know."""

    def __init__(self, known: PathRecords = NO_PATH_RECORDS, save: Save | None = None) -> None:
        """Begin with what is `known`; without `save`, nothing is left to the next agent."""
        self._known = dict(known)
        self._save = save
        self._unsaved: dict[Path, PathRecord | None] = {}
        self._save_at = 0.0

    @property
    def known(self) -> PathRecords:
        """Return what an earlier agent knew."""
        return self._known

    def probed(self, paths: Iterable[Path], names: Collection[bytes]) -> None:
        """Forget paths that are probed from here on, and those that have an end which is none of the droplets named."""
        for path in paths:
            self._known.pop(path, None)
        gone = [path for path in self._known if not (path.source in names and path.peer in names)]
        for path in gone:
            del self._known[path]
        self._unsaved |= dict.fromkeys(gone)

    def save(self, changes: Mapping[Path, PathRecord | None], now: float) -> None:
        """Save what changed for the agent that starts next; what cannot be saved now is tried again later."""
        self._unsaved |= changes
        if self._save is None:
            self._unsaved = {}
        elif self._unsaved and now >= self._save_at:
            if self._save(self._unsaved):
                self._unsaved = {}
            else:
                self._save_at = now + SAVE_SECONDS
