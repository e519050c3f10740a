"""Loads path records from the store and saves them there, for the agent that starts next."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping

from agent.core.faults.tracker import ReportFaults
from agent.core.probe.paths import NO_PATH_RECORDS, Path, PathRecord, PathRecords
from agent.store.store import Store, StoredPath, StoreError, not_saved

Save = Callable[[Mapping[Path, PathRecord | None]], bool]
"""Called with changed path records, None for those to drop; returns False if they could not be saved."""
SAVE_SECONDS = 10.0
"""Seconds between two attempts to save records."""


def load_path_records(store: Store) -> dict[Path, PathRecord]:
    """Return the path records that the earlier agent saved."""
    return {Path(one.source, one.peer): PathRecord(one.down, one.carries) for one in store.load_paths()}


def saver(store: Store, report: ReportFaults) -> Save:
    """Return a function that writes changes to the store. A failure is a fault, and probing continues."""

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
    """The records of an earlier agent for paths that are not probed yet, and the records for the next agent."""

    def __init__(self, known: PathRecords = NO_PATH_RECORDS, save: Save | None = None) -> None:
        """Start with the `known` records; without `save`, nothing is saved for the next agent."""
        self._known = dict(known)
        self._save = save
        self._unsaved: dict[Path, PathRecord | None] = {}
        self._save_at = 0.0

    @property
    def known(self) -> PathRecords:
        """Return the records of an earlier agent."""
        return self._known

    def probed(self, paths: Iterable[Path], names: Collection[bytes]) -> None:
        """Forget the records of paths that are probed from now on, and of those with an end that is not in `names`."""
        for path in paths:
            self._known.pop(path, None)
        gone = [path for path in self._known if not (path.source in names and path.peer in names)]
        for path in gone:
            del self._known[path]
        self._unsaved |= dict.fromkeys(gone)

    def save(self, changes: Mapping[Path, PathRecord | None], now: float) -> None:
        """Save changes for the agent that starts next; if that fails, try again later."""
        self._unsaved |= changes
        if self._save is None:
            self._unsaved = {}
        elif self._unsaved and now >= self._save_at:
            if self._save(self._unsaved):
                self._unsaved = {}
            else:
                self._save_at = now + SAVE_SECONDS
