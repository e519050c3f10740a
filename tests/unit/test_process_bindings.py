"""Which process a document meant: decided by what was remembered, and never guessed."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.core.model.process_bindings import Binding, Bindings, Process, by_revision, is_of_process
from agent.store.store import Store, StoreError

FIRST = Process("boot", 100, 4, 4026531840)
MEANT = by_revision(7)


def bound() -> Bindings:
    made = Bindings()
    made.bind("web", MEANT, FIRST)
    return made


@pytest.mark.parametrize("namespace", ["1", "4242", "/proc/17/ns/net", "/proc/17/task/18/ns/net", "/h/proc/1/ns/net"])
def test_these_name_a_process(namespace: str) -> None:
    assert is_of_process(namespace)


@pytest.mark.parametrize("namespace", ["web-1", "17a", "/run/netns/17", "/run/docker/netns/4f2a", "/proc/self/ns/net"])
def test_these_name_no_process(namespace: str) -> None:
    assert not is_of_process(namespace)


def test_the_first_process_of_a_revision_is_taken_and_remembered() -> None:
    bindings = bound()
    assert bindings.fault("web", MEANT, FIRST) == ""
    assert bindings.take_changed() == {"web": Binding(MEANT, FIRST)}
    assert bindings.take_changed() == {}


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (FIRST._replace(started=101), "another one has its id now"),
        (FIRST._replace(inode=4026531999), "another network namespace"),
        (FIRST._replace(device=5), "another network namespace"),
        (FIRST._replace(boot="later"), "the host was started again"),
        (FIRST._replace(boot="later", started=7, inode=1), "the host was started again"),
    ],
)
def test_any_other_process_is_a_fault_for_the_same_revision_and_none_for_a_new_one(other: Process, words: str) -> None:
    assert words in bound().fault("web", MEANT, other)
    assert bound().fault("web", by_revision(8), other) == ""


def test_a_revision_that_was_realized_and_not_remembered_is_bound_to_nothing() -> None:
    bindings = Bindings()
    bindings.restore({"web": Binding(by_revision(6), FIRST)}, {"web": 7})
    assert bindings.is_unknown("web", MEANT)
    assert "nothing says which process" in bindings.fault("web", MEANT, FIRST)
    assert bindings.fault("web", by_revision(8), FIRST) == ""


def test_the_saved_binding_of_the_kept_revision_is_used() -> None:
    bindings = Bindings()
    bindings.restore({"web": Binding(MEANT, FIRST)}, {"web": 7})
    assert not bindings.is_unknown("web", MEANT)
    assert bindings.fault("web", MEANT, FIRST) == ""
    assert bindings.take_changed() == {}


def test_unwanted_bindings_are_deleted_also_on_disk(tmp_path: Path) -> None:
    bindings = bound()
    bindings.bind("db", MEANT, FIRST._replace(started=5))
    store = Store(tmp_path, "h1")
    store.save_bindings(bindings.take_changed())
    bindings.forget_unless(lambda endpoint: endpoint == "db")
    store.save_bindings(bindings.take_changed())
    store.close()
    again = Store(tmp_path, "h1")
    assert again.load_bindings() == {"db": Binding(MEANT, FIRST._replace(started=5))}
    again.close()


def test_bindings_that_could_not_be_saved_are_saved_at_the_next_call(tmp_path: Path) -> None:
    bindings = bound()
    store = Store(tmp_path, "h1")
    changed = bindings.take_changed()
    with pytest.raises(StoreError):
        store.save_bindings({"web": Binding(None, FIRST)})  # type: ignore[arg-type]
    bindings.put_back(changed)
    assert bindings.take_changed() == changed
    store.close()
