"""Who owns what, whatever the order in which documents came."""

from __future__ import annotations

import itertools

from agent.core.config.ownership import Claim, Claims
from protocol.documents import Document, Vpc

RED = Document(vpcs=(Vpc("red", 7, ("10.0.0.0/8",)),))
OTHER = Document(vpcs=(Vpc("green", 7, ("10.0.0.0/8",)),))


def test_the_oldest_claim_wins_in_every_order() -> None:
    for order in itertools.permutations([Claim("a", 1), Claim("b", 2), Claim("c", 3)]):
        claims = Claims()
        for claim in order:
            claims.add(claim, RED)
        assert claims.owner("vpc", "red") == "a"
        assert claims.drop("a", RED, ()) >= {"b"}
        assert claims.owner("vpc", "red") == "b"
        claims.drop("c", RED, ())
        claims.drop("b", RED, ())
        assert claims.owner("vpc", "red") is None


def test_a_claim_that_takes_something_away_names_the_loser() -> None:
    claims = Claims()
    assert claims.add(Claim("late", 5), RED) == set()
    assert claims.add(Claim("early", 2), RED) == {"late"}
    assert claims.add(Claim("last", 9), RED) == set()


def test_a_newer_revision_keeps_the_older_claim() -> None:
    claims = Claims()
    claims.add(Claim("a", 1), RED)
    claims.add(Claim("b", 2), RED)
    claims.add(Claim("a", 3), RED)
    claims.drop("a", RED, [RED])
    assert claims.owner("vpc", "red") == "a"
    assert claims.since("vpc", "red") == 1


def test_a_conflict_names_the_place_and_the_owner() -> None:
    claims = Claims()
    claims.add(Claim("a", 1), RED)
    claims.add(Claim("b", 2), OTHER)
    assert claims.conflicts("a", RED) == []
    assert claims.conflicts("b", OTHER) == [("vpcs[0].vni", "vni", "7", ("a",))]


def test_what_two_revisions_list_is_given_up_once() -> None:
    claims = Claims()
    claims.add(Claim("a", 1), RED)
    claims.drop("a", RED, ())
    assert claims.drop("a", RED, ()) == set()
