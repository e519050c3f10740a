"""The last good documents survive the agent, and only one agent has them open."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from agent.store.store import Store, StoredDocument, StoredPath, StoreError


def test_saved_documents_are_loaded_in_order_of_revision(tmp_path: Path) -> None:
    store = Store(tmp_path / "new", "h1")
    store.save([StoredDocument("b", 2, b"two"), StoredDocument("a", 3, b"three"), StoredDocument("c", 1, b"one")])
    store.save([StoredDocument("b", 4, b"four")], gone=["c", "never"])
    store.close()
    again = Store(tmp_path / "new", "h1")
    assert again.load() == [StoredDocument("a", 3, b"three"), StoredDocument("b", 4, b"four")]
    again.close()


def test_a_transaction_that_fails_changes_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path, "h1")
    store.save([StoredDocument("a", 1, b"one")])
    with pytest.raises(StoreError):
        store.save([StoredDocument("b", 2, b"two"), StoredDocument("c", None, b"three")])  # type: ignore[arg-type]
    assert store.load() == [StoredDocument("a", 1, b"one")]
    store.close()


def test_a_second_agent_is_refused(tmp_path: Path) -> None:
    store = Store(tmp_path, "h1")
    with pytest.raises(StoreError, match=r"another agent uses it: stop that agent first, or .*dropletctl plan h1"):
        Store(tmp_path, "h1")
    store.close()


def test_a_file_that_is_no_database_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "documents.sqlite").write_bytes(b"noise" * 1000)
    with pytest.raises(StoreError):
        Store(tmp_path, "h1")


def test_the_documents_of_another_host_are_not_loaded(tmp_path: Path) -> None:
    Store(tmp_path, "h1").close()
    with pytest.raises(StoreError, match="of host 'h1'"):
        Store(tmp_path, "h2")
    Store(tmp_path, "h1").close()


def test_path_state_survives_a_restart(tmp_path: Path) -> None:
    store = Store(tmp_path, "h1")
    first, second = StoredPath(b"\1" * 4, b"\2" * 4, True, None), StoredPath(b"\1" * 16, b"\2" * 16, False, 1400)
    store.save_paths([first, second])
    store.save_paths([first._replace(down=False)], [(second.source, second.peer), (b"never", b"known")])
    store.close()
    again = Store(tmp_path, "h1")
    assert again.load_paths() == [first._replace(down=False)]
    with pytest.raises(StoreError):
        again.save_paths([second, StoredPath(None, b"", False, None)])  # type: ignore[arg-type]
    assert again.load_paths() == [first._replace(down=False)]
    again.close()


def test_a_file_without_path_state_is_migrated(tmp_path: Path) -> None:
    store = Store(tmp_path, "h1")
    store.save([StoredDocument("a", 1, b"one")])
    store.close()
    with sqlite3.connect(tmp_path / "documents.sqlite") as connection:
        connection.execute("DROP TABLE paths")
    connection.close()
    again = Store(tmp_path, "h1")
    assert (again.load(), again.load_paths()) == ([StoredDocument("a", 1, b"one")], [])
    again.close()
