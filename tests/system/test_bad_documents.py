"""Bad input on the bus: the right answer each, forwarding undisturbed, the agent alive, the good revision in force."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
from lab.fixtures import SystemLab, running_lab, topology_text
from lab.traffic import pings, unbroken_flow
from lab.waiting import until

from controller_sim.control.bus import connected
from controller_sim.lab.namespaces import run_coroutine_in
from controller_sim.lab.nats_server import MAX_PAYLOAD
from controller_sim.lab.state import access
from protocol import codec, subjects
from protocol.acknowledgements import Acknowledgement, Reference, State
from protocol.codec import MAX_BODY, MAX_ERRORS
from protocol.documents import Document, Droplet, Endpoint, Network, Vpc
from protocol.errors import ErrorCode

HOST, GOOD = "h1", "endpoint.web-1"
"""The document that holds a talking endpoint, whose newest revision the tests spoil."""
packed = msgspec.msgpack.encode


@pytest.fixture(scope="module")
def lab(lab_cache: None) -> Iterator[SystemLab]:
    with running_lab("bad", topology_text("one_bouncer")) as lab:
        yield lab


@pytest.fixture(autouse=True)
def undisturbed(lab: SystemLab) -> Iterator[None]:
    """Packets flow during every test, none is lost, no agent ends or starts again."""
    pid = lab.pid(HOST)
    assert lab.lab.agent_runs(HOST)
    with unbroken_flow(lab, "web-1", "web-2"):
        yield
        assert lab.lab.agent_runs(HOST)
        if pid == lab.pid(HOST):
            assert lab.status(HOST).repairs == 0


def noise(size: int) -> bytes:
    """Return bytes that begin as a MessagePack map does, and go on at random."""
    return b"\x84" + random.Random(size).randbytes(size - 1)


def spoilt(good: bytes, **fields: Any) -> bytes:
    """Return the good document with fields of its endpoint changed, or taken out where None stands."""
    document = msgspec.msgpack.decode(good)
    for name, value in fields.items():
        if value is None:
            del document["endpoints"][0][name]
        else:
            document["endpoints"][0][name] = value
    return packed(document)


BAD: dict[str, tuple[Callable[[bytes], bytes], set[tuple[str, str]]]] = {
    "wrong fields": (
        lambda good: spoilt(good, mac="zz", network=7, addresses=None, weight=1),
        {
            ("endpoints[0].mac", "invalid"),
            ("endpoints[0].network", "wrong_type"),
            ("endpoints[0].addresses", "missing_field"),
            ("endpoints[0].weight", "unknown_field"),
        },
    ),
    "a multicast MAC": (lambda good: spoilt(good, mac="01:00:5e:00:00:01"), {("endpoints[0].mac", "invalid")}),
    "no address": (lambda good: spoilt(good, addresses=["10.0.1.300"]), {("endpoints[0].addresses[0]", "invalid")}),
    "an address outside its network": (
        lambda good: spoilt(good, addresses=["10.0.9.9"]),
        {("endpoints[0].addresses[0]", "out_of_range")},
    ),
    "the gateway's address": (
        lambda good: spoilt(good, addresses=["10.0.1.1"]),
        {("endpoints[0].addresses[0]", "out_of_range")},
    ),
    "an unknown kind": (lambda _: packed({"policies": []}), {("policies", "unknown_kind")}),
    "a list": (lambda _: packed([1, 2]), {("$", "wrong_type")}),
    "a number": (lambda _: packed(7), {("$", "wrong_type")}),
    "half of it": (lambda good: good[: len(good) // 2], {("$", "not_messagepack")}),
    "all but the last byte": (lambda good: good[:-1], {("$", "not_messagepack")}),
    "a byte too many": (lambda good: good + b"\x00", {("$", "not_messagepack")}),
    "an empty body without a mark that it removes": (lambda _: b"", {("$", "not_messagepack")}),
    "deep nesting": (lambda _: b"\x91" * 100_000 + b"\xc0", {("$", "not_messagepack")}),
    "deep nesting of a field": (
        lambda _: b"\x81\xa9endpoints" + b"\x91" * 100_000 + b"\xc0",
        {("$", "not_messagepack")},
    ),
    "a megabyte of noise": (lambda _: noise(MAX_BODY), {("$", "not_messagepack")}),
    "more than a document may have": (lambda _: noise(MAX_BODY + 1), {("$", "too_large")}),
    "as much as the server takes": (lambda _: noise(MAX_PAYLOAD - 1000), {("$", "too_large")}),
    "an endpoint without its place": (
        lambda good: spoilt(good, attachment=None),
        {("endpoints[0].attachment", "missing_field")},
    ),
}


@pytest.mark.parametrize(("spoil", "errors"), BAD.values(), ids=BAD.keys())
def test_a_revision_that_is(lab, spoil, errors):
    good = lab.body(HOST, GOOD)
    before = lab.publish_and_wait(HOST, GOOD, good, State.REALIZED)
    answer = lab.publish_and_wait(HOST, GOOD, spoil(good), State.REJECTED)
    assert {(error.path, error.code.value) for error in answer.errors} == errors
    assert all(error.message for error in answer.errors)
    assert answer.in_force == before.revision
    assert lab.status(HOST).documents.rejected == 1
    after = lab.publish_and_wait(HOST, GOOD, good, State.REALIZED)
    assert after.in_force == after.revision
    assert lab.status(HOST).documents.rejected == 0


@pytest.fixture(params=["signatures asked for", "no signatures asked for"])
def trusting(lab: SystemLab, request: pytest.FixtureRequest) -> Iterator[None]:
    """Have the agent trust the controller alone, or every client that may publish."""
    file = lab.lab.paths.settings(HOST)
    settings = file.read_text()
    assert "trusted_publishers" in settings
    if request.param == "no signatures asked for":
        file.write_text(re.sub("trusted_publishers.*", "", settings))
        lab.kill_agent(HOST)
        lab.restart_agent(HOST)
    yield
    if file.read_text() != settings:
        file.write_text(settings)
        lab.kill_agent(HOST)
        lab.restart_agent(HOST)


def as_host(lab: SystemLab, host: str, subject: str, reply: str) -> None:
    """Publish with a host's credentials, and name a reply subject."""
    reach = access(lab.lab.paths, lab.topology, host)

    async def work() -> None:
        async with connected(reach) as client:
            await client.publish(subject, b"{}", reply=reply)
            await client.flush()

    run_coroutine_in(lab.names.fabric, work)


def test_another_host_cannot_replace_a_document_by_a_reply_subject(lab, trusting):
    """The server stores its answer to h2 in place of h1's document. The endpoint stays, also across a restart."""
    good = lab.body(HOST, GOOD)
    before = lab.publish_and_wait(HOST, GOOD, good, State.REALIZED)
    as_host(lab, "h2", subjects.ack("h2", "any"), subjects.config(HOST, GOOD))

    def refused() -> Acknowledgement | None:
        newest = lab.newest(HOST, GOOD)
        return newest if newest and newest.state is State.REJECTED else None

    answer = until(refused, "the refusal")
    assert answer.revision > before.revision
    assert answer.in_force == before.revision
    assert [error.code for error in answer.errors] == [ErrorCode.WRONG_SUBJECT]
    for _ in range(2):
        (fault,) = lab.status(HOST).faults
        assert (fault.kind, fault.subject) == ("wrong_subject", subjects.config_of(HOST))
        assert GOOD in fault.detail
        lab.kill_agent(HOST)
        lab.restart_agent(HOST)
        until(lambda: lab.newest(HOST, GOOD).in_force == before.revision, "the acknowledgement again")
    lab.publish_and_wait(HOST, GOOD, good, State.REALIZED)
    until(lambda: lab.status(HOST).faults == (), "the end of the fault")


def test_a_document_with_more_errors_than_fit_is_acknowledged_anyway(lab):
    """Listed one by one, these errors would be more than a server takes by default, and it would cut the agent off."""
    endpoints = tuple(
        Endpoint(
            f"astray-{n}",
            "web",
            "h2",
            (f"10.0.{9 + n // 250}.{n % 250 + 1}",),
            f"02:00:00:01:{n >> 8:02x}:{n & 255:02x}",
        )
        for n in range(8000)
    )
    answer = lab.publish_and_wait(HOST, "astray", codec.encode(Document(endpoints=endpoints)), State.REJECTED)
    assert len(answer.errors) == MAX_ERRORS + 1
    assert answer.errors[-1].message == f"and {8000 - MAX_ERRORS} more wrong fields"
    removed(lab, "astray")


def removed(lab: SystemLab, name: str) -> None:
    assert lab.publish_and_wait(HOST, name, None, State.REALIZED).removed


CLAIMS = {
    "an endpoint": (Document(endpoints=(Endpoint("web-1", "web", "h2", ("10.0.1.50",), "02:00:00:00:00:50"),)), "id"),
    "an endpoint's address": (
        Document(endpoints=(Endpoint("thief", "web", "h2", ("10.0.1.2",), "02:00:00:00:00:50"),)),
        "addresses",
    ),
    "a droplet": (Document(droplets=(Droplet("h2", "h2", "172.18.0.12"),)), "id"),
    "a VPC": (Document(vpcs=(Vpc("red", 7, ("10.0.0.0/16",)),)), "id"),
    "a VNI": (Document(vpcs=(Vpc("green", 1001, ("10.0.0.0/16",)),)), "vni"),
    "a network": (Document(networks=(Network("web", "red", ("10.0.7.0/24",)),)), "id"),
}


@pytest.mark.parametrize(("document", "field"), CLAIMS.values(), ids=CLAIMS.keys())
def test_a_second_document_that_claims(lab, document, field):
    answer = lab.publish_and_wait(HOST, "thief", codec.encode(document), State.REJECTED)
    assert {error.code.value for error in answer.errors} == {"claimed"}
    assert any(field in error.path for error in answer.errors)
    owners = ("underlay", "vpc.red", "endpoint.web-1")
    assert any(repr(owner) in answer.errors[0].message for owner in owners), "the owner is named"
    assert answer.in_force == 0
    removed(lab, "thief")


@pytest.mark.parametrize(
    ("document", "missing"),
    [
        (
            Document(endpoints=(Endpoint("far", "nowhere", "h9", ("10.0.1.50",), "02:00:00:00:00:50"),)),
            {Reference("networks", "nowhere"), Reference("droplets", "h9")},
        ),
        (Document(networks=(Network("new", "unknown", ("10.0.7.0/24",)),)), {Reference("vpcs", "unknown")}),
        (
            Document(vpcs=(Vpc("green", 7, ("10.0.0.0/16",), ("h8", "h9")),)),
            {Reference("droplets", "h8"), Reference("droplets", "h9")},
        ),
    ],
    ids=["an endpoint", "a network", "a VPC"],
)
def test_a_reference_to_nothing_waits_and_names_what_is_missing(lab, document, missing):
    answer = lab.publish_and_wait(HOST, "early", codec.encode(document), State.PENDING)
    assert set(answer.missing) == missing
    assert answer.in_force == 0
    removed(lab, "early")


def test_a_pending_document_is_realized_when_what_it_needs_comes(lab):
    early = Document(endpoints=(Endpoint("later", "more", "h2", ("10.0.8.2",), "02:00:00:00:00:52"),))
    pending = lab.publish_and_wait(HOST, "early", codec.encode(early), State.PENDING)
    need = Document(networks=(Network("more", "red", ("10.0.8.0/24",), ("h3",)),))
    lab.publish_and_wait(HOST, "need", codec.encode(need), State.REALIZED)
    assert lab.answer(HOST, "early", pending.revision, State.REALIZED).in_force == pending.revision
    removed(lab, "early")
    removed(lab, "need")


def test_a_good_revision_stays_in_force_over_a_crash_while_the_newest_is_bad(lab):
    good = lab.body(HOST, GOOD)
    before = lab.publish_and_wait(HOST, GOOD, good, State.REALIZED)
    bad = lab.publish_and_wait(HOST, GOOD, b"\xc1", State.REJECTED)
    made = lab.made(HOST)
    lab.kill_agent(HOST)
    status = lab.restart_agent(HOST)
    assert status.documents.rejected == 1
    answer = lab.answer(HOST, GOOD, bad.revision, State.REJECTED)
    assert (answer.in_force, answer.at > bad.at) == (before.revision, True)
    assert lab.made(HOST) == made
    assert pings(lab, "web-2", "web-1")
    lab.publish_and_wait(HOST, GOOD, good, State.REALIZED)


def test_noise_on_foreign_subjects_of_a_host_changes_nothing(lab):
    before = lab.status(HOST).digest
    for subject in ("config.UPPER", "config." + "a." * 9 + "a"):
        lab.with_client(lambda client, subject=subject: client.publish(f"droplet.v1.{HOST}.{subject}", b"\xc1"))
    lab.publish_and_wait(HOST, "last", codec.encode(Document()), State.REALIZED)
    removed(lab, "last")
    assert lab.status(HOST).digest == before
