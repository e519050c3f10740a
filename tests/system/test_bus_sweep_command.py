"""`dropletctl sweep`: it removes documents that the stream does not hold, by name, and only on request."""

from __future__ import annotations

import asyncio

from click.testing import CliRunner, Result
from lab.bus import NatsServer, Recorder, client_of, running, serving, settings_of

from agent.bus.bus import Bus
from agent.bus.rpc import RpcError
from agent.cli.main import main
from protocol import codec, rpc
from protocol.acknowledgements import Acknowledgement, State


class Keeping(Recorder):
    """A host with a document that the stream holds and two that it does not."""

    def __init__(self) -> None:
        super().__init__()
        self.absent = {"lost", "tenant.lost"}
        self.swept: list[rpc.SweepRequest] = []

    async def ask(self, verb: str, body: bytes) -> bytes:
        if verb == "documents":
            names = sorted({"held", *self.absent})
            return codec.encode(
                rpc.DocumentsReply(
                    tuple(Acknowledgement(n, 3, State.REALIZED, 1.0, 3, absent=n in self.absent) for n in names)
                )
            )
        assert verb == "sweep"
        question = codec.decode(body, rpc.SweepRequest)
        if not self.absent.issuperset(question.documents):
            raise RpcError(409, "nothing was removed: held is not among the documents that are missing")
        self.swept.append(question)
        self.absent -= set(question.documents)
        return codec.encode(rpc.SweepReply(question.documents))


async def sweep(server: NatsServer, *words: str, answer: str = "") -> Result:
    arguments = ["--server", server.url, "sweep", "h1", *words]
    return await asyncio.to_thread(CliRunner().invoke, main, arguments, answer)


async def test_a_sweep_names_what_goes_asks_and_removes_no_other_document(server: NatsServer) -> None:
    host = Keeping()
    async with client_of(server) as client, running(Bus("h1", settings_of(server), host)):
        await serving(client, "h1")
        refused = await sweep(server, answer="n\n")
        assert refused.exit_code == 1
        assert "lost\ntenant.lost\n" in refused.output
        wrong = await sweep(server, "held", "--yes")
        assert (wrong.exit_code, "held is not among the documents that are missing" in wrong.output) == (1, True)
        assert host.swept == []
        one = await sweep(server, "lost", "--yes")
        assert (one.exit_code, one.output) == (0, "lost\n1 document removed\n")
        rest = await sweep(server, "--objects", answer="y\n")
        assert rest.exit_code == 0
        assert host.swept == [rpc.SweepRequest(("lost",)), rpc.SweepRequest(("tenant.lost",), objects=True)]
        nothing = await sweep(server)
        assert (nothing.exit_code, nothing.output) == (0, "nothing to remove: every document of h1 is in the stream\n")
