"""Which revision of a document is in force, and how it is acknowledged."""

from __future__ import annotations

import pytest
from test_render import DOCUMENT, HERE

from agent.core.config.desired_state import Desired
from protocol import codec
from protocol.acknowledgements import KernelFailure, State
from protocol.documents import Attachment, Document, Endpoint
from protocol.errors import ErrorCode

UNDERLAY, REST = Document(droplets=DOCUMENT.droplets), Document((), *(DOCUMENT.vpcs, DOCUMENT.networks))


def test_a_document_waits_for_what_it_refers_to_and_names_it() -> None:
    desired = Desired(HERE)
    desired.documents.put("rest", 1, codec.encode(REST))
    assert desired.resolve().after.entries == {}
    status = desired.documents.status("rest")
    assert status.state is State.PENDING
    assert [(missing.kind, missing.id) for missing in status.missing] == [("droplets", "d1"), ("droplets", "d2")]
    desired.documents.put("underlay", 2, codec.encode(UNDERLAY))
    assert desired.resolve().changed_documents == {"rest", "underlay"}


def test_a_revision_that_the_kernel_refused_gives_way_until_it_is_tried_again() -> None:
    desired = Desired(HERE)
    documents = desired.documents
    documents.put("all", 1, codec.encode(DOCUMENT))
    desired.resolve()
    documents.confirm(["all"])
    documents.put("all", 2, codec.encode(UNDERLAY))
    desired.resolve()
    documents.fail("all", (KernelFailure(12, "ENOMEM", "x", "y"),))
    desired.resolve()
    assert (documents.status("all").state, documents.status("all").in_force) == (State.FAILED, 1)
    documents.retry(["all"])
    desired.resolve()
    documents.confirm(["all"])
    assert (documents.status("all").state, documents.status("all").in_force) == (State.REALIZED, 2)


def test_a_late_older_revision_is_ignored() -> None:
    desired = Desired(HERE)
    assert desired.documents.put("all", 5, codec.encode(DOCUMENT))
    assert not desired.documents.put("all", 4, b"")
    assert not desired.documents.remove("all", 5)


def test_a_document_that_exceeded_a_map_is_resolved_again_when_there_is_space(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.core.model.endpoint_slots.MAX_SLOTS", 2)
    desired = Desired(HERE)
    desired.documents.put("base", 1, codec.encode(Document(DOCUMENT.droplets, DOCUMENT.vpcs, DOCUMENT.networks)))
    for n in range(4):
        attached = Endpoint(f"e{n}", "front", "d1", (f"192.168.1.{n + 9}",), "02:00:00:00:00:05", Attachment("a"))
        desired.documents.put(f"of-{n}", n + 2, codec.encode(Document(endpoints=(attached,))))
        desired.resolve(removing=True)
    assert [desired.documents.status(f"of-{n}").errors[0].code for n in (2, 3)] == [ErrorCode.TOO_LARGE] * 2
    desired.documents.remove("of-0", 9)
    desired.resolve(removing=True)
    assert desired.resolve(removing=True).changed_documents == {"of-2"}
    assert desired.documents.status("of-3").errors != ()
    assert desired.resolve(removing=True).affected == set()


def test_the_slot_of_an_existing_interface_is_not_reused() -> None:
    desired = Desired(HERE, {"endpoints": {"gone": 0}})
    desired.documents.put("all", 1, codec.encode(DOCUMENT))
    desired.resolve()
    assert desired.resolved.slots == {"gone": 0, "a": 1}
    desired.resolve(removing=True)
    assert desired.resolved.slots == {"a": 1}


def test_the_owner_of_a_veth_is_the_document_that_lists_its_endpoint() -> None:
    desired = Desired(HERE)
    desired.documents.put("all", 1, codec.encode(DOCUMENT))
    desired.documents.put("again", 2, codec.encode(Document(endpoints=DOCUMENT.endpoints)))
    desired.resolve()
    assert desired.veths
    assert {desired.owner_of_veth(id_) for id_ in desired.veths} == {"all"}
    assert desired.owner_of_veth(DOCUMENT.droplets[0].id) is None, "it has no veth"
