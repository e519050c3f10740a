"""Compiling: each host gets the objects that its endpoints and roles need, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import controller_sim
from controller_sim.control.bus import Stored
from controller_sim.control.compiler import Documents, compile_documents, cut
from controller_sim.control.publisher import Change, bulk_changes, difference, stray_removals
from controller_sim.control.strays import described, strays
from controller_sim.topology.file import parse_topology, read_topology
from controller_sim.topology.ipam import allocate
from controller_sim.topology.placement import place
from protocol import codec, subjects
from protocol.documents import Attachment, Document, Endpoint
from protocol.streams import DELETE_HEADERS

TOPOLOGIES = Path(controller_sim.__file__).parent / "topologies"
SHIPPED = sorted(TOPOLOGIES.glob("*.yaml"))


def compiled(text: str) -> Documents:
    topology = parse_topology(text)
    return compile_documents(topology, allocate(topology), place(topology), lambda name: f"ns-{name}")


def shipped(name: str) -> Documents:
    return compiled((TOPOLOGIES / f"{name}.yaml").read_text())


def test_every_host_knows_every_droplet():
    for documents in shipped("four_hosts").values():
        assert [d.id for d in documents["underlay"].droplets] == ["h1", "h2", "h3", "h4"]


def test_a_host_with_neither_endpoint_nor_role_knows_the_underlay_alone():
    text = (TOPOLOGIES / "one_bouncer.yaml").read_text().replace("vpcs:", "  h4: {address: 172.18.0.14/24}\nvpcs:")
    assert set(compiled(text)["h4"]) == {"underlay"}


def test_an_ordinary_host_knows_its_own_endpoints_and_their_networks_bouncers():
    documents = shipped("two_networks")["h1"]
    assert set(documents) == {"underlay", "vpc.red", "endpoint.web-1", "endpoint.data-2"}
    assert {n.id: n.bouncers for n in documents["vpc.red"].networks} == {"web": ("h3",), "data": ("h5",)}
    (endpoint,) = documents["endpoint.web-1"].endpoints
    assert endpoint.attachment is not None
    assert endpoint.attachment.namespace == "ns-web-1"


def test_a_function_endpoint_has_no_namespace_in_its_document():
    text = (TOPOLOGIES / "two_networks.yaml").read_text()
    line = next(one for one in text.splitlines() if "web-1" in one and "network: web" in one)
    documents = compiled(text.replace(line, line.replace("}", ", attachment: function}")))
    (endpoint,) = documents["h1"]["endpoint.web-1"].endpoints
    assert endpoint.attachment == Attachment(kind="function")
    assert all(one.attachment is None for one in documents["h3"]["network.web.p"].endpoints)


def test_a_bouncer_knows_all_endpoints_of_its_network_and_of_no_other():
    documents = shipped("two_networks")["h3"]
    assert set(documents) == {"underlay", "vpc.red", "network.web.p"}
    assert {e.id for e in documents["network.web.p"].endpoints} == {"web-1", "web-2"}
    assert all(e.attachment is None for e in documents["network.web.p"].endpoints)
    assert [n.id for n in documents["vpc.red"].networks] == ["web"]
    assert documents["vpc.red"].vpcs[0].dividers == ("h4",)


def test_a_divider_knows_all_networks_of_its_vpc_and_no_endpoint():
    documents = shipped("two_networks")["h4"]
    assert set(documents) == {"underlay", "vpc.red"}
    assert {n.id for n in documents["vpc.red"].networks} == {"web", "data"}


def test_a_bouncer_with_endpoints_of_its_own_lists_each_endpoint_once():
    documents = shipped("bouncer_on_host")["h1"]
    ids = [e.id for document in documents.values() for e in document.endpoints]
    assert sorted(ids) == ["web-1", "web-2"]


def test_a_host_of_one_tenant_gets_no_documents_of_another():
    documents = shipped("four_hosts")["h4"]
    assert not any("blue" in name or "shop" in name for name in documents)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_document_is_valid_and_no_object_is_in_two_of_a_host(path):
    topology = read_topology(path)
    for documents in compile_documents(topology, allocate(topology), place(topology), lambda name: name).values():
        seen: set[tuple[str, str]] = set()
        for name, document in documents.items():
            assert subjects.is_document(name)
            assert codec.decode_document(codec.encode(document)) == document
            for kind in ("droplets", "vpcs", "networks", "endpoints"):
                for item in getattr(document, kind):
                    assert (kind, item.id) not in seen
                    seen.add((kind, item.id))


def endpoints(count: int) -> list[Endpoint]:
    return [
        Endpoint(f"e{n}", "web", "h1", (f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}",), "02:00:00:00:00:01")
        for n in range(count)
    ]


@given(st.integers(0, 300), st.integers(1, 50))
def test_a_cut_holds_every_endpoint_once_and_no_document_is_too_large(count, size):
    documents = cut("network.web", endpoints(count), size)
    assert sorted(e.id for d in documents.values() for e in d.endpoints) == sorted(e.id for e in endpoints(count))
    assert all(0 < len(d.endpoints) <= size for d in documents.values())


def test_one_endpoint_more_changes_one_document_of_a_cut():
    before, after = cut("n", endpoints(1000), 300), cut("n", endpoints(1001), 300)
    assert len(before) > 2
    assert set(before) == set(after)
    assert len([name for name in before if before[name] != after[name]]) == 1


def test_a_part_that_splits_leaves_the_others_alone():
    before = cut("n", endpoints(1000), 300)
    size = max(len(d.endpoints) for d in before.values())
    largest = next(name for name, d in before.items() if len(d.endpoints) == size)
    after = cut("n", endpoints(1000), size - 1)
    assert {
        name: d for name, d in before.items() if name != largest and len(d.endpoints) < size
    }.items() <= after.items()
    assert largest not in after
    assert f"{largest}0" in after


def held(host: str, name: str, document: Document | None, sequence: int = 1) -> Stored:
    headers = {} if document is not None else dict(DELETE_HEADERS)
    return Stored(subjects.config(host, name), sequence, headers, codec.encode(document) if document else b"")


def test_documents_in_the_stream_are_not_published_again():
    wanted = shipped("one_bouncer")
    stream = [held(host, name, document) for host, documents in wanted.items() for name, document in documents.items()]
    assert difference(wanted, stream) == []


def test_removals_go_first_then_changes_then_additions():
    one, two = Document(endpoints=tuple(endpoints(1))), Document(endpoints=tuple(endpoints(2)))
    stream = [held("h1", "gone", one), held("h1", "other", one), held("h1", "removed-before", None)]
    changes = difference({"h1": {"new": one, "other": two}}, stream)
    assert changes == [
        Change("h1", "gone", None),
        Change("h1", "other", codec.encode(two)),
        Change("h1", "new", codec.encode(one)),
    ]


def test_messages_that_name_no_document_are_no_documents_to_remove_but_strays():
    stream = [
        held("h1", "Endpoint.X", Document(), 7),
        held("H1", "web", Document(), 8),
        held("h1", "Other.X", None, 9),
        held("h1", "gone", Document(), 10),
    ]
    assert difference({"h1": {}}, stream) == [Change("h1", "gone", None)]
    assert stray_removals(stream) == [Change("h1", "Endpoint.X", None), Change("H1", "web", None)]
    assert [described(message).partition(": ")[::2] for message in strays(stream)] == [
        (
            "droplet.v1.h1.config.Endpoint.X, sequence 7",
            "no document of host h1 can be named 'Endpoint.X'; `droplet-lab apply` removes it",
        ),
        ("droplet.v1.H1.config.web, sequence 8", "no host can be named 'H1'; `droplet-lab apply` removes it"),
    ]


def test_documents_of_hosts_outside_the_request_stay():
    assert difference({"h1": {}}, [held("h2", "gone", Document())]) == []


def test_bulk_changes_hold_every_endpoint_once_in_documents_of_the_size():
    changes = list(bulk_changes("h1", "bulk", endpoints(25), 10))
    assert [change.document for change in changes] == ["bulk.0", "bulk.1", "bulk.2"]
    found = [e for change in changes for e in codec.decode_document(change.body or b"").endpoints]
    assert found == endpoints(25)
