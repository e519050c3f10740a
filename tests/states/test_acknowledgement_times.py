"""The method `documents` returns the times of the acknowledgements, not that of the request."""

from __future__ import annotations

import time

from agent_configurations import ONE_BOUNCER, changed
from agent_under_test import Agent, Stream, one_by_one
from test_sequences import in_a_folder

from agent.report.queries import Queries
from protocol import codec
from protocol.rpc import DocumentsReply, DocumentsRequest

LATER = time.time() + 1e6


async def times(agent: Agent) -> dict[str, float]:
    answers = Queries(agent.reconciler, agent.resync, None, None, None, None, lambda: LATER)  # type: ignore[arg-type]
    reply = codec.decode(await answers.ask("documents", codec.encode(DocumentsRequest())), DocumentsReply)
    return {item.document: item.at for item in reply.documents}


def test_a_document_is_as_old_as_its_state() -> None:
    async def scenario(agent: Agent) -> None:
        began, stream = time.time(), Stream()
        for batch in one_by_one(stream.lead_to(ONE_BOUNCER)):
            await agent.deliver(batch)
        await agent.complete()
        first = await times(agent)
        assert all(began <= at <= time.time() for at in first.values())
        assert first == agent.acknowledged_at
        for batch in one_by_one(stream.lead_to(changed(ONE_BOUNCER, a=None))):
            await agent.deliver(batch)
        second = await times(agent)
        assert "a" not in second
        assert {name: first[name] for name in second} == second, "another document's news make it no younger"

    in_a_folder(scenario)
