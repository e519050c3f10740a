"""Which revision is in force, and what its document is told."""

from __future__ import annotations

from test_realize import DOCUMENT, HERE

from agent.core.desired import Desired
from protocol import codec
from protocol.acknowledgements import KernelFailure, State
from protocol.documents import Document

SUBSTRATE, REST = Document(droplets=DOCUMENT.droplets), Document((), *(DOCUMENT.vpcs, DOCUMENT.networks))


def test_a_document_waits_for_what_it_refers_to_and_names_it() -> None:
    desired = Desired(HERE)
    desired.documents.put("rest", 1, codec.encode(REST))
    assert desired.settle().after.entries == {}
    verdict = desired.documents.verdict("rest")
    assert verdict.state is State.PENDING
    assert [(missing.kind, missing.id) for missing in verdict.missing] == [("droplets", "d1"), ("droplets", "d2")]
    desired.documents.put("substrate", 2, codec.encode(SUBSTRATE))
    assert desired.settle().adopted == {"rest", "substrate"}


def test_a_revision_that_the_kernel_refused_gives_way_until_it_is_tried_again() -> None:
    desired = Desired(HERE)
    documents = desired.documents
    documents.put("all", 1, codec.encode(DOCUMENT))
    desired.settle()
    documents.confirm(["all"])
    documents.put("all", 2, codec.encode(SUBSTRATE))
    desired.settle()
    documents.fail("all", (KernelFailure(12, "ENOMEM", "x", "y"),))
    desired.settle()
    assert (documents.verdict("all").state, documents.verdict("all").in_force) == (State.FAILED, 1)
    documents.retry(["all"])
    desired.settle()
    documents.confirm(["all"])
    assert (documents.verdict("all").state, documents.verdict("all").in_force) == (State.REALIZED, 2)


def test_an_older_revision_that_comes_late_is_no_news() -> None:
    desired = Desired(HERE)
    assert desired.documents.put("all", 5, codec.encode(DOCUMENT))
    assert not desired.documents.put("all", 4, b"")
    assert not desired.documents.remove("all", 5)
