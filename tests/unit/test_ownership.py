"""Who owns what, whatever the order in which documents came."""

from __future__ import annotations

import itertools

from agent.core.config.ownership import Claim, OwnershipIndex
from agent.core.kinds import catalogue
from protocol.documents import Document, Vpc

RED = catalogue.KINDS.listed(Document(vpcs=(Vpc("red", 7, ("10.0.0.0/8",)),)))
OTHER = catalogue.KINDS.listed(Document(vpcs=(Vpc("green", 7, ("10.0.0.0/8",)),)))


def test_the_oldest_claim_wins_in_every_order() -> None:
    for order in itertools.permutations([Claim("a", 1), Claim("b", 2), Claim("c", 3)]):
        index = OwnershipIndex()
        for claim in order:
            index.add(claim, RED)
        assert index.owner("vpc", "red") == "a"
        assert index.drop("a", RED, ()) >= {"b"}
        assert index.owner("vpc", "red") == "b"
        index.drop("c", RED, ())
        index.drop("b", RED, ())
        assert index.owner("vpc", "red") is None


def test_a_claim_of_an_owned_object_names_the_previous_owner() -> None:
    index = OwnershipIndex()
    assert index.add(Claim("late", 5), RED) == set()
    assert index.add(Claim("early", 2), RED) == {"late"}
    assert index.add(Claim("last", 9), RED) == set()


def test_a_newer_revision_keeps_the_older_claim() -> None:
    index = OwnershipIndex()
    index.add(Claim("a", 1), RED)
    index.add(Claim("b", 2), RED)
    index.add(Claim("a", 3), RED)
    index.drop("a", RED, [RED])
    assert index.owner("vpc", "red") == "a"
    assert index.since("vpc", "red") == 1


def test_a_conflict_names_the_place_and_the_owner() -> None:
    index = OwnershipIndex()
    index.add(Claim("a", 1), RED)
    index.add(Claim("b", 2), OTHER)
    assert index.conflicts("a", RED) == []
    assert index.conflicts("b", OTHER) == [("vpcs[0].vni", "vni", "7", ("a",))]


def test_an_object_in_two_revisions_is_released_once() -> None:
    index = OwnershipIndex()
    index.add(Claim("a", 1), RED)
    index.drop("a", RED, ())
    assert index.drop("a", RED, ()) == set()
