"""A controller in JavaScript, written from docs/ alone, drives a real agent: nkeys, TLS, signatures, MessagePack, XDP.

What the controller reads of a host is held against docs/asyncapi.yaml on its way in.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from javascript_fixtures import HOST, ControllerError, JavaScriptController, OneHost, answers_pings, one_host
from lab.waiting import until

from controller_sim.control.bus import connected, ensure_consumers, ensure_streams
from controller_sim.lab.namespaces import run_coroutine_in, run_in
from protocol import streams


@pytest.fixture(scope="module")
def host(lab_cache: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OneHost]:
    with one_host(tmp_path_factory.mktemp("javascript"), "web-1", "web-2", "web-3") as host:
        for name, objects in documents(host).items():
            host.controller.settle(name, objects)
        yield host


@pytest.fixture
def controller(host: OneHost) -> JavaScriptController:
    return host.controller


def documents(host: OneHost) -> dict[str, Any]:
    """Return the documents of docs/controller.md, with this test's namespaces."""
    found: dict[str, Any] = host.controller.do("example", "documents: h1")
    found["endpoint.web-1"] = {"endpoints": [endpoint(host, "web-1", 10)]}
    return found


def endpoint(host: OneHost, name: str, number: int) -> dict[str, Any]:
    return {
        "id": name,
        "network": "web",
        "droplet": "h1",
        "addresses": [f"10.0.1.{number}", f"fd10:0:0:1::{number}"],
        "mac": f"02:00:00:00:01:{number}",
        "attachment": {"namespace": host.inside(name), "interface": "eth0"},
    }


def test_documents_are_realized_and_endpoints_reach_each_other(host, controller):
    answer = controller.settle("endpoint.web-2", {"endpoints": [endpoint(host, "web-2", 20)]})
    assert answer["in_force"] == answer["revision"]
    for address in ("10.0.1.20", "fd10:0:0:1::20"):
        until(lambda address=address: answers_pings(host.inside("web-1"), address), f"an answer from {address}")


def test_an_update_replaces_a_document_whole(host, controller):
    one = endpoint(host, "web-3", 30)
    controller.settle("endpoint.web-3", {"endpoints": [one]})
    controller.settle("endpoint.web-3", {"endpoints": [{**one, "addresses": ["10.0.1.31"]}]})
    shown = run_in(host.inside("web-3"), ["ip", "address", "show", "eth0"]).stdout
    assert "10.0.1.31/" in shown
    assert "10.0.1.30/" not in shown
    controller.do("answer", "endpoint.web-3", controller.do("remove", "endpoint.web-3"))


def test_a_superseded_revision_is_answered_by_its_successor(host, controller):
    revisions = [
        controller.do("publish", "endpoint.web-1", {"endpoints": [{**endpoint(host, "web-1", 10), "dscp": value}]})
        for value in range(5)
    ]
    assert controller.do("answer", "endpoint.web-1", revisions[0])["revision"] >= revisions[0]
    assert controller.do("answer", "endpoint.web-1", revisions[-1])["revision"] == revisions[-1]


def test_a_wrong_document_is_rejected_by_field_and_the_last_good_one_stays(host, controller):
    good = controller.settle("endpoint.web-1", {"endpoints": [endpoint(host, "web-1", 10)]})
    wrong = {"endpoints": [{**endpoint(host, "web-1", 10), "addresses": ["10.9.9.9"]}]}
    answer = controller.settle("endpoint.web-1", wrong, "rejected")
    assert answer["in_force"] == good["revision"]
    assert [error["path"] for error in answer["errors"]] == ["endpoints[0].addresses[0]"]
    controller.settle("endpoint.web-1", {"endpoints": [endpoint(host, "web-1", 10)]})


def test_a_document_whose_references_are_not_there_waits_for_them(host, controller):
    lost = {**endpoint(host, "web-3", 40), "network": "shop", "addresses": ["10.0.2.40"]}
    answer = controller.settle("endpoint.web-3", {"endpoints": [lost]}, "pending")
    assert answer["missing"] == [{"kind": "networks", "id": "shop"}]
    controller.settle(
        "shop", {"networks": [{"id": "shop", "vpc": "red", "cidrs": ["10.0.2.0/24"], "bouncers": ["h1"]}]}
    )
    assert controller.do("answer", "endpoint.web-3", answer["revision"])["revision"] == answer["revision"]
    for document in ("endpoint.web-3", "shop"):
        controller.do("answer", document, controller.do("remove", document))


def test_a_removal_deletes_the_interface_and_its_acknowledgement_can_be_purged(host, controller):
    controller.settle("endpoint.web-3", {"endpoints": [endpoint(host, "web-3", 30)]})
    answer = controller.do("answer", "endpoint.web-3", controller.do("remove", "endpoint.web-3"))
    assert answer["removed"]
    assert "eth0" not in run_in(host.inside("web-3"), ["ip", "link", "show"]).stdout
    stored = "stored", "DROPLET_ACK", f"droplet.v1.{HOST}.ack.endpoint.web-3"
    until(lambda: controller.do(*stored), "the acknowledgement in the stream, which subscribers may have earlier")
    assert controller.do("forget", "endpoint.web-3") == 1
    assert controller.do(*stored) == []


def test_an_empty_body_without_the_headers_removes_nothing(host, controller):
    good = controller.settle("endpoint.web-1", {"endpoints": [endpoint(host, "web-1", 10)]})
    answer = controller.do("answer", "endpoint.web-1", controller.do("publishNothing", "endpoint.web-1"), ["rejected"])
    assert (answer["in_force"], answer["errors"][0]["code"]) == (good["revision"], "not_messagepack")
    controller.settle("endpoint.web-1", {"endpoints": [endpoint(host, "web-1", 10)]})


def test_a_document_that_the_stream_lost_stays_until_it_is_swept(host, controller):
    controller.settle("endpoint.web-3", {"endpoints": [endpoint(host, "web-3", 30)]})
    controller.do("purge", "endpoint.web-3")
    controller.do("replaceConsumer")
    assert controller.do("absent", "endpoint.web-3")["in_force"] > 0
    assert "eth0" in run_in(host.inside("web-3"), ["ip", "link", "show"]).stdout
    assert controller.do("ask", "sweep", {"documents": ["endpoint.web-3", "endpoint.web-1"]})["code"] == "409"
    assert controller.do("ask", "sweep", {"documents": ["endpoint.web-3"]}) == {"documents": ["endpoint.web-3"]}
    until(lambda: "eth0" not in run_in(host.inside("web-3"), ["ip", "link", "show"]).stdout, "the end of the interface")


def test_an_unsigned_document_is_rejected_and_the_last_good_one_stays(host, controller):
    one = {"endpoints": [endpoint(host, "web-1", 10)]}
    good = controller.settle("endpoint.web-1", one)
    answer = controller.do(
        "answer", "endpoint.web-1", controller.do("publishUnsigned", "endpoint.web-1", one), ["rejected"]
    )
    assert (answer["in_force"], answer["errors"][0]["code"]) == (good["revision"], "untrusted")
    controller.settle("endpoint.web-1", one)


def test_a_controller_that_is_late_is_refused_by_the_server(host, controller):
    one = {"endpoints": [endpoint(host, "web-1", 10)]}
    seen = controller.do("publishAfter", "endpoint.web-1", one, controller.settle("endpoint.web-1", one)["revision"])
    with pytest.raises(ControllerError, match=r"^10071 wrong last sequence"):
        controller.do("publishAfter", "endpoint.web-1", one, seen - 1)
    controller.do("answer", "endpoint.web-1", seen)


def test_a_controller_that_has_not_seen_all_documents_of_a_host_is_refused_where_it_asks_for_that(host, controller):
    one = {"endpoints": [endpoint(host, "web-1", 10)]}
    seen = controller.settle("endpoint.web-1", one)["revision"]
    newest = controller.settle("other", {})["revision"]
    with pytest.raises(ControllerError, match=r"^10071 wrong last sequence"):
        controller.do("publishAfterAll", "endpoint.web-1", one, seen)
    controller.do("answer", "endpoint.web-1", controller.do("publishAfterAll", "endpoint.web-1", one, newest))
    controller.do("answer", "other", controller.do("remove", "other"))


def test_the_hosts_digest_is_the_controllers(host, controller):
    status = until(
        lambda: (found := controller.do("ask", "status"))["digest"] == controller.do("digest") and found, "the digest"
    )
    assert status["state"] == "in_sync"
    assert controller.do("hear", "status", "Status")["digest"] == status["digest"]


def test_every_method_replies_as_described(host, controller):
    for method in ("status", "counters", "plan", "documents", "peers"):
        assert "error" not in controller.do("ask", method)
    for kind in ("droplets", "vpcs", "networks", "endpoints"):
        assert controller.do("ask", "get", {"kind": kind})[kind]
    path = controller.do("ask", "path", {"endpoint": "web-1", "destination": "10.0.1.1"})
    assert path["route"] == "gateway"
    assert "endpoints" in controller.do("hear", "telemetry", "Counters")


def test_errors_name_what_there_is(host, controller):
    assert controller.do("ask", "get", {"kind": "bridges"})["code"] == "400"
    assert "known methods are status" in controller.do("ask", "reboot")["error"]
    assert controller.do("ask", "get")["error"] == "the body is empty; send a MessagePack map with kind"


def test_the_host_is_found_as_a_micro_service(host, controller):
    assert controller.do("discover", "PING")["metadata"] == {"host": HOST}
    assert controller.do("discover", "INFO")["endpoints"]
    assert controller.do("discover", "STATS")["endpoints"]


def test_streams_and_consumer_of_the_page_are_those_of_the_simulated_controller(host):
    async def configured() -> list[str]:
        async with connected(host.access()) as client:
            js = client.jetstream()

            async def shown() -> list[str]:
                infos = [await js.stream_info(name) for name in (streams.CONFIG_STREAM, streams.ACK_STREAM)]
                consumer = await js.consumer_info(streams.CONFIG_STREAM, HOST)
                return [json.dumps(one.config.as_dict(), sort_keys=True) for one in (*infos, consumer)]

            before = await shown()
            await ensure_streams(client)
            await ensure_consumers(client, [HOST])
            assert await shown() == before
            return before

    assert run_coroutine_in(host.namespace, configured)
