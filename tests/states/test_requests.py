"""Requests as a controller in another language sends them: empty bodies, and mistakes that the reply explains."""

from __future__ import annotations

import time

import msgspec
import pytest
from agent_configurations import ONE_BOUNCER
from agent_under_test import Agent, Stream
from test_absent import absent, snapshot
from test_sequences import in_a_folder, walk

from agent.bus.rpc import RpcError
from agent.report.queries import Queries
from protocol import codec
from protocol.documents import KINDS
from protocol.rpc import METHODS, DocumentsReply
from protocol.subjects import RPC_VERBS


async def ask(agent: Agent, verb: str, body: bytes) -> bytes:
    return await Queries(agent.reconciler, agent.resync, None, None, None, None, time.time).ask(verb, body)  # type: ignore[arg-type]


def refusal(verb: str, body: bytes) -> RpcError:
    """Return the error that a request is answered with."""
    errors: list[RpcError] = []

    async def scenario(agent: Agent) -> None:
        with pytest.raises(RpcError) as caught:
            await ask(agent, verb, body)
        errors.append(caught.value)

    in_a_folder(scenario)
    return errors[0]


def test_an_empty_body_asks_with_every_field_at_its_default() -> None:
    async def scenario(agent: Agent) -> None:
        await agent.deliver(Stream().lead_to(ONE_BOUNCER))
        empty = codec.decode(await ask(agent, "documents", b""), DocumentsReply)
        spelled_out = codec.decode(await ask(agent, "documents", msgspec.msgpack.encode({})), DocumentsReply)
        assert {one.document for one in empty.documents} == set(ONE_BOUNCER)
        assert empty == spelled_out

    in_a_folder(scenario)


def test_an_empty_body_where_a_field_is_needed_is_refused_with_the_fields_name() -> None:
    assert (refusal("get", b"").code, "kind" in refusal("get", b"").text) == (400, True)
    assert "endpoint and destination" in refusal("path", b"").text


def test_an_unknown_kind_is_refused_with_the_known_ones() -> None:
    error = refusal("get", msgspec.msgpack.encode({"kind": "bridges"}))
    assert error.code == 400
    assert "'bridges'" in error.text
    assert all(kind in error.text for kind in KINDS)


def test_an_unknown_method_is_refused_with_the_known_ones() -> None:
    error = refusal("reboot", b"")
    assert error.code == 404
    assert "'reboot'" in error.text
    assert all(verb in error.text for verb in RPC_VERBS)


@pytest.mark.parametrize(
    ("body", "word"),
    [({"kind": "vpcs", "page": 1}, "page"), ({"kind": 1}, "kind"), ({"kind": "vpcs", "limit": 0}, "limit")],
)
def test_a_request_with_a_wrong_field_is_refused_with_the_fields_that_there_are(body: object, word: str) -> None:
    error = refusal("get", msgspec.msgpack.encode(body))
    assert error.code == 400
    assert word in error.text
    assert error.text.endswith("its fields are kind, after, limit")


@pytest.mark.parametrize("verb", RPC_VERBS)
@pytest.mark.parametrize("body", [b"x", b"\xc1", msgspec.msgpack.encode([]), msgspec.msgpack.encode({"page": 1})])
def test_no_method_accepts_a_body_that_is_no_map_or_has_an_unknown_field(verb: str, body: bytes) -> None:
    assert refusal(verb, body).code == 400


@pytest.mark.parametrize("verb", [verb for verb in RPC_VERBS if not METHODS[verb].takes_an_empty_body])
@pytest.mark.parametrize("body", [b"", msgspec.msgpack.encode({})])
def test_a_method_that_needs_a_field_refuses_a_request_without_one(verb: str, body: bytes) -> None:
    assert refusal(verb, body).code == 400


SWEEPS_NOTHING = [{}, {"documents": []}, {"objects": False}, {"documents": [], "objects": False}]
WRONG_SWEEPS = [{"documents": "a"}, {"documents": [1]}, {"objects": 1}, {"document": ["a"]}]


@pytest.mark.parametrize("body", [b"", *map(msgspec.msgpack.encode, SWEEPS_NOTHING + WRONG_SWEEPS)])
def test_a_sweep_that_names_nothing_is_refused_and_changes_nothing(body: bytes) -> None:
    async def scenario(agent: Agent) -> None:
        await snapshot(agent, await walk(agent, ["one bouncer"]), set(ONE_BOUNCER))
        before = agent.kernel.contents()
        with pytest.raises(RpcError) as caught:
            await ask(agent, "sweep", body)
        assert caught.value.code == 400
        assert "documents" in caught.value.text
        assert "objects" in caught.value.text
        assert absent(agent) == set(ONE_BOUNCER)
        assert agent.kernel.contents() == before

    in_a_folder(scenario)
