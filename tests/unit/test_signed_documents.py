"""Versions of signed documents outlive the agent, and what cannot be kept or was refused is a fault."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from agent.core.config.delivery import Delivery
from agent.store.signed_documents import Publishers
from agent.store.store import FILE, Store, StoreError
from protocol.errors import ErrorCode, FieldError
from protocol.signed_versions import SignedVersion
from protocol.status import Fault

REFUSAL = FieldError("$", ErrorCode.UNTRUSTED, "it is not signed")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(tmp_path, "h1")
    yield made
    made.close()


class Faults:
    """What was reported last."""

    def __init__(self) -> None:
        self.standing: tuple[Fault, ...] = ()

    def report(self, _source: str, faults: Iterable[Fault]) -> None:
        self.standing = tuple(faults)

    @property
    def kinds(self) -> list[str]:
        return [fault.kind for fault in self.standing]


def test_accepted_versions_are_saved_for_the_next_agent(store: Store, tmp_path: Path) -> None:
    publishers = Publishers("h1", store, Faults().report)
    publishers.take(
        [Delivery("a", 1, b"x", version=SignedVersion(10, b"ten")), Delivery("b", 2, None, version=SignedVersion(20))]
    )
    publishers.take(
        [
            Delivery("a", 3, b"y", version=SignedVersion(30, b"thirty")),
            Delivery("c", 4, b"z", REFUSAL),
            Delivery("d", 5, b"z"),
        ]
    )
    store.close()
    again = Store(tmp_path, "h1")
    assert again.load_versions() == {"a": (30, b"thirty"), "b": (20, b"")}
    again.close()


def test_of_removed_documents_the_last_versions_are_kept(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.store.store.MOST_REMOVED", 2)
    store.save_versions(
        [("old", SignedVersion(1), False), *((f"gone-{n}", SignedVersion(n), True) for n in range(2, 9))]
    )
    assert store.load_versions() == {"old": (1, b""), "gone-7": (7, b""), "gone-8": (8, b"")}


def test_a_version_that_an_older_agent_kept_has_no_content(store: Store, tmp_path: Path) -> None:
    """It keeps numbers alone, and leaves what is known of the content of an earlier version as it is."""
    store.save_versions([("a", SignedVersion(1, b"one"), False), ("b", SignedVersion(1, b"one"), False)])
    store.close()
    with contextlib.closing(sqlite3.connect(tmp_path / FILE)) as older, older:
        older.execute("INSERT OR REPLACE INTO versions VALUES ('a', 2, 0)")
    again = Store(tmp_path, "h1")
    assert again.load_versions() == {"a": (2, b""), "b": (1, b"one")}
    again.close()


def test_versions_that_cannot_be_kept_are_a_fault_until_they_are(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    faults = Faults()
    publishers = Publishers("h1", store, faults.report)
    with monkeypatch.context() as broken:

        def refuse(_versions: object) -> None:
            raise StoreError("no space left on device")

        broken.setattr(store, "save_versions", refuse)
        publishers.take([Delivery("a", 1, b"x", version=SignedVersion(10, b"ten"))])
        assert faults.kinds == ["versions_not_kept"]
        assert "no space left" in faults.standing[0].detail
    publishers.take([Delivery("b", 2, b"x")])
    assert faults.kinds == []
    assert store.load_versions() == {"a": (10, b"ten")}


def test_a_refused_message_is_a_fault_until_its_document_comes_again(store: Store) -> None:
    faults = Faults()
    publishers = Publishers("h1", store, faults.report)
    publishers.take([Delivery("a", 1, b"x", REFUSAL)])
    publishers.begin_snapshot()
    publishers.take([Delivery("b", 2, b"x")])
    assert faults.kinds == ["untrusted_document"], "it stands until it is known to be over"
    publishers.take([Delivery("a", 1, b"x", REFUSAL)])
    publishers.snapshot_complete()
    assert faults.kinds == ["untrusted_document"]
    publishers.take([Delivery("a", 3, b"x")])
    assert faults.kinds == []
