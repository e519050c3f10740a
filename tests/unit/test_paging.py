"""Every page after another, whatever their size: all that is in force, once."""

from __future__ import annotations

import pytest
from test_render import DOCUMENT, HERE

from agent.core.config.desired_state import Desired
from agent.core.config.paging import Order, in_documents
from agent.core.kinds.endpoints import ENDPOINTS
from protocol import codec
from protocol.documents import Document, Endpoint


def desired_with(*sizes: int) -> Desired:
    desired = Desired(HERE)
    desired.documents.put("base", 1, codec.encode(Document(DOCUMENT.droplets, DOCUMENT.vpcs, DOCUMENT.networks)))
    for at, size in enumerate(sizes):
        found = tuple(
            Endpoint(f"e{n:03}-{at}", "front", "d2", (f"192.168.1.{20 * at + n + 10}",), "02:00:00:00:00:05")
            for n in reversed(range(size))
        )
        desired.documents.put(f"of-{9 - at}", at + 2, codec.encode(Document(endpoints=found)))
    desired.resolve()
    return desired


@pytest.mark.parametrize("limit", [1, 2, 3, 5, 7, 100])
@pytest.mark.parametrize("sizes", [(), (1,), (5, 0, 3), (6, 1, 1, 6)])
def test_pages_contain_every_endpoint_once_and_the_last_page_is_marked(sizes: tuple[int, ...], limit: int) -> None:
    desired = desired_with(*sizes)
    found, after, pages = [], "", 0
    while True:
        page, after = in_documents(ENDPOINTS, desired.documents, after, limit)
        found += page
        pages += 1
        assert len(page) == limit or not after
        if not after:
            break
    assert sorted(e.id for e in found) == sorted(f"e{n:03}-{at}" for at, size in enumerate(sizes) for n in range(size))
    assert pages == max(1, -(-sum(sizes) // limit))


def test_the_next_page_follows_even_if_its_start_was_removed() -> None:
    desired = desired_with(4, 4)
    page, after = in_documents(ENDPOINTS, desired.documents, "", 2)
    desired.documents.remove("of-8", 9)
    desired.resolve()
    rest, _ = in_documents(ENDPOINTS, desired.documents, after, 100)
    assert [e.id for e in (*page, *rest)] == ["e000-1", "e001-1", *(f"e00{n}-0" for n in range(4))]


def test_ids_are_sorted_again_when_the_objects_changed() -> None:
    order = Order()
    assert order.page({"b": 1, "a": 2}, "", 1) == (["a"], "a")
    assert order.page({"b": 1, "c": 2}, "a", 5) == (["b", "c"], "")


def test_names_follow_documents_that_come_and_go() -> None:
    desired = desired_with(1)
    documents = desired.documents
    assert documents.names() == ["base", "of-9"]
    documents.put("another", 5, b"\xc1")
    assert documents.names() == ["another", "base", "of-9"]
    documents.remove("another", 6)
    desired.resolve()
    documents.forget("another")
    assert documents.names() == ["base", "of-9"]
