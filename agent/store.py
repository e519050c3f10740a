"""The last good revision of every document, on disk: what a host goes by when the bus is away or the newest is wrong.

One SQLite file in write-ahead mode. Written only after the kernel took a revision whole; the bus is told only then.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

FILE = "documents.sqlite"
_SCHEMA_VERSION = 1


class Kept(NamedTuple):
    """One document that the kernel took whole."""

    name: str
    revision: int
    body: bytes


class StoreError(RuntimeError):
    """The file cannot be used; the message is one line for people."""


class Store:
    """Opened by one agent at a time: the file is locked."""

    def __init__(self, folder: Path, host: str) -> None:
        """Open or create `documents.sqlite` in a folder, or raise StoreError; it belongs to one host for good."""
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
            words = "another agent uses it" if "locked" in str(error) else str(error)
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
        self._connection.execute("CREATE TABLE IF NOT EXISTS owner (host TEXT PRIMARY KEY) WITHOUT ROWID")
        owner = self._connection.execute("SELECT host FROM owner").fetchone()
        if owner is not None and owner[0] != host:
            self._connection.execute("ROLLBACK")
            raise StoreError(f"{self.file}: holds the documents of host {owner[0]!r}: give {host!r} another `state`")
        self._connection.execute("INSERT OR IGNORE INTO owner VALUES (?)", (host,))
        self._connection.execute(f"PRAGMA user_version = {_SCHEMA_VERSION}")
        self._connection.execute("COMMIT")

    def load(self) -> list[Kept]:
        """Return all documents, oldest revision first, as they were taken in."""
        rows = self._connection.execute("SELECT name, revision, body FROM documents ORDER BY revision")
        return [Kept(*row) for row in rows]

    def keep(self, documents: Iterable[Kept], gone: Iterable[str] = ()) -> None:
        """Write some documents and drop others in one transaction, or raise StoreError and leave all as it was."""
        try:
            with self._connection:
                self._connection.execute("BEGIN")
                self._connection.executemany("INSERT OR REPLACE INTO documents VALUES (?, ?, ?)", documents)
                self._connection.executemany("DELETE FROM documents WHERE name = ?", ((name,) for name in gone))
        except sqlite3.Error as error:
            raise StoreError(f"{self.file}: {error}") from None

    def close(self) -> None:
        """Write everything out and release the file."""
        self._connection.close()
