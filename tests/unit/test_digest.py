"""The digest of realized documents does not depend on their order."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from protocol import digest

pairs = st.lists(st.tuples(st.text(max_size=8), st.integers(0, 2**64 - 1)), max_size=8, unique=True)


@given(pairs, st.randoms(use_true_random=False))
def test_order_does_not_matter_and_removal_undoes(documents, chance) -> None:
    total = 0
    for name, revision in documents:
        total = digest.add(total, name, revision)
    shuffled = list(documents)
    chance.shuffle(shuffled)
    other = 0
    for name, revision in shuffled:
        other = digest.add(other, name, revision)
    assert other == total
    for name, revision in documents:
        total = digest.remove(total, name, revision)
    assert digest.text(total) == "0" * 32


def test_a_published_vector_binds_other_implementations() -> None:
    """BLAKE2b-128 over the bytes 61 00 05 00 00 00 00 00 00 00, read as a little-endian number."""
    assert digest.text(digest.add(0, "a", 5)) == "4b04d99c01bb7b73a9231f85d128e4db"


def test_name_and_revision_are_kept_apart() -> None:
    assert digest.term("a", 256) != digest.term("a\0", 1)
    assert digest.term("a", 1) != digest.term("a", 2)
