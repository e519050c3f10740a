"""The store that an agent starts from: the last good documents, the processes bound to them, and path records.

One SQLite file in write-ahead mode. A document is written once the kernel has accepted it completely, and acknowledged
only after that. Signatures are checked when a message arrives, and not again on load: only root can write the file, and
root could replace the agent too. The versions of signed documents are stored because an older document that is replayed
after a restart would pass every other check.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from agent.core.model.process_bindings import Binding, Process
from protocol.signed_versions import SignedVersion
from protocol.status import Fault

FILE = "documents.sqlite"
_IN_USE = "another agent uses it: stop that agent first, or query it while it runs (dropletctl plan {})"
MOST_REMOVED = 100_000
"""Removed documents whose versions are kept: those with the greatest ones."""
_SCHEMA_VERSION = 1


class StoredDocument(NamedTuple):
    """One document that the kernel accepted completely."""

    name: str
    revision: int
    body: bytes


class StoredPath(NamedTuple):
    """A path whose peer has answered a probe: packed addresses, and the path MTU if it is less than expected."""

    source: bytes
    peer: bytes
    down: bool
    carries: int | None


class StoreError(RuntimeError):
    """The file cannot be used; the message is one line for operators."""


def not_saved(kind: str, reason: str) -> Fault:
    """Return the fault of a store that cannot be written: unsaved changes are lost if the agent ends now."""
    remedy = "free space on its file system, or fix its permissions; the agent tries again by itself"
    return Fault(kind, "state", f"an agent that starts now would lack the newest changes: {reason}", remedy)


class Store:
    """Opened by one agent at a time: the file is locked."""

    def __init__(self, folder: Path, host: str) -> None:
        """Open or create `documents.sqlite` in a folder, or raise StoreError. A store belongs to one host."""
        self.file = folder / FILE
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self.file.touch(mode=0o600)
            self._connection = sqlite3.connect(self.file, isolation_level=None, timeout=0)
            self._connection.execute("PRAGMA locking_mode = EXCLUSIVE")
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = NORMAL")
            self._prepare(host)
        except StoreError:
            self._connection.close()
            raise
        except (OSError, sqlite3.Error) as error:
            words = _IN_USE.format(host) if "locked" in str(error) else str(error)
            raise StoreError(f"{self.file}: {words}") from None

    def _prepare(self, host: str) -> None:
        version = self._connection.execute("PRAGMA user_version").fetchone()[0]
        if version not in (0, _SCHEMA_VERSION):
            raise StoreError(f"{self.file}: written by another version ({version}): move it away")
        self._connection.execute("BEGIN IMMEDIATE")
        self._connection.execute(
            "CREATE TABLE IF NOT EXISTS documents ("
            "name TEXT PRIMARY KEY, revision INTEGER NOT NULL, body BLOB NOT NULL) WITHOUT ROWID"
        )
        self._connection.execute(
            "CREATE TABLE IF NOT EXISTS paths (source BLOB NOT NULL, peer BLOB NOT NULL, "
            "down INTEGER NOT NULL, carries INTEGER, PRIMARY KEY (source, peer)) WITHOUT ROWID"
        )
        self._connection.execute(
            "CREATE TABLE IF NOT EXISTS bindings (endpoint TEXT PRIMARY KEY, meant TEXT NOT NULL, boot TEXT NOT NULL, "
            "started INTEGER NOT NULL, device INTEGER NOT NULL, inode INTEGER NOT NULL) WITHOUT ROWID"
        )
        self._connection.execute(
            "CREATE TABLE IF NOT EXISTS versions "
            "(name TEXT PRIMARY KEY, version INTEGER NOT NULL, removed INTEGER NOT NULL) WITHOUT ROWID"
        )
        self._connection.execute(  # a separate table: older agents write `versions` without contents
            "CREATE TABLE IF NOT EXISTS version_contents "
            "(name TEXT PRIMARY KEY, version INTEGER NOT NULL, content BLOB NOT NULL) WITHOUT ROWID"
        )
        self._connection.execute(
            "CREATE TABLE IF NOT EXISTS function_histories "
            "(function TEXT, point INTEGER, history BLOB NOT NULL, PRIMARY KEY (function, point)) WITHOUT ROWID"
        )
        self._connection.execute("CREATE TABLE IF NOT EXISTS owner (host TEXT PRIMARY KEY) WITHOUT ROWID")
        owner = self._connection.execute("SELECT host FROM owner").fetchone()
        if owner is not None and owner[0] != host:
            self._connection.execute("ROLLBACK")
            raise StoreError(f"{self.file}: holds the documents of host {owner[0]!r}: give {host!r} another `state`")
        self._connection.execute("INSERT OR IGNORE INTO owner VALUES (?)", (host,))
        self._connection.execute(f"PRAGMA user_version = {_SCHEMA_VERSION}")
        self._connection.execute("COMMIT")

    def load(self) -> list[StoredDocument]:
        """Return all documents, oldest revision first."""
        rows = self._connection.execute("SELECT name, revision, body FROM documents ORDER BY revision")
        return [StoredDocument(*row) for row in rows]

    def save(self, documents: Iterable[StoredDocument], gone: Iterable[str] = ()) -> None:
        """Write and drop documents in one transaction, or raise StoreError and change nothing."""
        with self._transaction() as connection:
            connection.executemany("INSERT OR REPLACE INTO documents VALUES (?, ?, ?)", documents)
            connection.executemany("DELETE FROM documents WHERE name = ?", ((name,) for name in gone))

    def load_paths(self) -> list[StoredPath]:
        """Return the records of all paths."""
        rows = self._connection.execute("SELECT source, peer, down, carries FROM paths")
        return [StoredPath(source, peer, bool(down), carries) for source, peer, down, carries in rows]

    def save_paths(self, paths: Iterable[StoredPath], gone: Iterable[tuple[bytes, bytes]] = ()) -> None:
        """Write and drop path records, by source and peer, in one transaction as `save` does."""
        with self._transaction() as connection:
            connection.executemany("INSERT OR REPLACE INTO paths VALUES (?, ?, ?, ?)", paths)
            connection.executemany("DELETE FROM paths WHERE source = ? AND peer = ?", gone)

    def load_bindings(self) -> dict[str, Binding]:
        """Return the process bound to each endpoint."""
        rows = self._connection.execute("SELECT endpoint, meant, boot, started, device, inode FROM bindings")
        return {endpoint: Binding(meant, Process(*process)) for endpoint, meant, *process in rows}

    def save_bindings(self, bindings: Mapping[str, Binding | None]) -> None:
        """Write bindings and drop those that are None, in one transaction as `save` does."""
        bound = [(one, it.meant, *it.process) for one, it in bindings.items() if it is not None and it.process]
        gone = bindings.keys() - {row[0] for row in bound}
        with self._transaction() as connection:
            connection.executemany("INSERT OR REPLACE INTO bindings VALUES (?, ?, ?, ?, ?, ?)", bound)
            connection.executemany("DELETE FROM bindings WHERE endpoint = ?", ((one,) for one in gone))

    def load_histories(self) -> dict[tuple[str, int], bytes]:
        """Return the encoded history of each function, by its id and the number of its stage point."""
        rows = self._connection.execute("SELECT function, point, history FROM function_histories")
        return {(function, point): history for function, point, history in rows}

    def save_histories(self, histories: Mapping[tuple[str, int], bytes | None]) -> None:
        """Write histories and drop those that are None, in one transaction as `save` does."""
        with self._transaction() as connection:
            connection.executemany(
                "INSERT OR REPLACE INTO function_histories VALUES (?, ?, ?)",
                ((*place, one) for place, one in histories.items() if one is not None),
            )
            connection.executemany(
                "DELETE FROM function_histories WHERE function = ? AND point = ?",
                (place for place, one in histories.items() if one is None),
            )

    def load_versions(self) -> dict[str, SignedVersion]:
        """Return the version of each accepted signed document, including those removed that are kept."""
        with self._transaction() as connection:
            connection.execute(
                "DELETE FROM versions WHERE removed AND name NOT IN "
                "(SELECT name FROM versions WHERE removed ORDER BY version DESC LIMIT ?)",
                (MOST_REMOVED,),
            )
            connection.execute("DELETE FROM version_contents WHERE name NOT IN (SELECT name FROM versions)")
        rows = self._connection.execute(
            "SELECT name, version, content FROM versions LEFT JOIN version_contents USING (name, version)"
        )
        return {name: SignedVersion(number, content or b"") for name, number, content in rows}

    def save_versions(self, versions: Iterable[tuple[str, SignedVersion, bool]]) -> None:
        """Write the version of each document and whether it was removed, or raise StoreError."""
        rows = list(versions)
        with self._transaction() as connection:
            connection.executemany(
                "INSERT OR REPLACE INTO versions VALUES (?, ?, ?)",
                ((name, version.number, removed) for name, version, removed in rows),
            )
            connection.executemany(
                "INSERT OR REPLACE INTO version_contents VALUES (?, ?, ?)",
                ((name, *version) for name, version, _ in rows),
            )

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        try:
            with self._connection:
                self._connection.execute("BEGIN")
                yield self._connection
        except sqlite3.Error as error:
            raise StoreError(f"{self.file}: {error}") from None

    def close(self) -> None:
        """Write everything out and release the file."""
        self._connection.close()
