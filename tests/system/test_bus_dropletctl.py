"""dropletctl against agents' ends of the bus, on a real server; what they answer is made up here."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence

import pytest
import yaml
from click.testing import CliRunner, Result
from lab.bus import (
    NatsServer,
    Recorder,
    client_of,
    make_streams,
    running,
    settings_of,
    until,
)

from agent.bus.bus import Bus
from agent.bus.rpc import RpcError
from agent.cli.main import main
from protocol import codec, rpc, subjects
from protocol.acknowledgements import Acknowledgement, KernelFailure, Reference, State
from protocol.documents import Attachment, Endpoint
from protocol.status import (
    AgentState,
    Counters,
    DocumentCounts,
    EndpointTraffic,
    Event,
    ObjectCounts,
    Status,
    Traffic,
    UnresolvedNextHops,
)

PAGE = 3
ENDPOINTS = [
    Endpoint(f"e{i}", "blue", "d1", (f"10.0.1.{i + 2}",), f"02:00:00:00:00:0{i}", Attachment("tenant"))
    for i in range(8)
]


class Answering(Recorder):
    """A host that answers like an agent would."""

    def __init__(self, host: str) -> None:
        super().__init__()
        self.host = host

    async def ask(self, verb: str, body: bytes) -> bytes:
        match verb:
            case "status":
                return codec.encode(
                    Status(
                        host=self.host,
                        version="0.1.0",
                        boot="b",
                        at=1000.0,
                        uptime=3725.0,
                        state=AgentState.DEGRADED,
                        revision=42,
                        digest="0" * 32,
                        documents=DocumentCounts(realized=5, pending=1),
                        objects=ObjectCounts(endpoints=8, local_endpoints=2),
                        unresolved_next_hops=(UnresolvedNextHops("the kernel has no route to it", 1, ("192.0.2.9",)),),
                    )
                )
            case "get":
                return self._page(codec.decode(body, rpc.GetRequest))
            case "documents":
                return codec.encode(rpc.DocumentsReply((Acknowledgement("doc", 3, State.REALIZED, 1.0, in_force=3),)))
            case "counters":
                traffic = EndpointTraffic("e1", Traffic(5, 500), Traffic(4, 400), Traffic(3, 300), Traffic(0, 0))
                return codec.encode(
                    Counters(self.host, 5.0, {"delivered": Traffic(3, 300), "no_vpc": Traffic(0, 0)}, (traffic,))
                )
            case "path":
                question = codec.decode(body, rpc.PathRequest)
                if question.endpoint != "e1":
                    raise RpcError(404, f"no endpoint {question.endpoint} on this host")
                if question.destination == "10.9.9.9":
                    return codec.encode(rpc.PathReply("none", reason="no network holds it"))
                return codec.encode(rpc.PathReply("direct", ("192.0.2.2",), learnt=True, age=0.5))
            case "plan":
                return codec.encode(rpc.PlanReply(("set endpoints e1",)))
        raise AssertionError(verb)

    def _page(self, question: rpc.GetRequest) -> bytes:
        if question.kind != "endpoints":
            return codec.encode(rpc.GetReply())
        rest = [endpoint for endpoint in ENDPOINTS if endpoint.id > question.after]
        page = rest[:PAGE]
        return codec.encode(rpc.GetReply(endpoints=tuple(page), next=page[-1].id if len(rest) > PAGE else ""))


async def ctl(server: NatsServer, *words: str) -> Result:
    arguments = ["--server", server.url, "--wait", "2", "--timeout", "5", *words]
    return await asyncio.to_thread(CliRunner().invoke, main, arguments)


def bus_of(server: NatsServer, host: str) -> Bus:
    return Bus(host, settings_of(server), Answering(host))


async def answering(server: NatsServer, hosts: Sequence[str]) -> None:
    """Wait until the hosts answer."""
    async with client_of(server) as client:
        for host in hosts:
            for _ in range(200):
                try:
                    await client.request(subjects.rpc(host, "plan"), timeout=1)
                    break
                except Exception:
                    await asyncio.sleep(0.05)


async def test_every_command_prints_what_the_hosts_say(server: NatsServer) -> None:
    async with running(bus_of(server, "h1")), running(bus_of(server, "h2")):
        await answering(server, ["h1", "h2"])
        result = await ctl(server, "status")
        assert result.exit_code == 0, result.output
        assert "h1" in result.output
        assert "h2" in result.output
        assert "degraded" in result.output
        assert "1h02m" in result.output
        assert "no next hop to 192.0.2.9" in result.output
        assert "the kernel has no route to it" in result.output
        assert max(map(len, result.output.splitlines())) <= 120
        shown = json.loads((await ctl(server, "status", "h1", "-o", "json")).output)
        assert [(item["host"], item["revision"]) for item in shown] == [("h1", 42)]
        for one in (["h1"], ["--host", "h1"], ["h1", "--host", "h1"]):
            assert yaml.safe_load((await ctl(server, "status", *one, "-o", "yaml")).output) == shown

        found = json.loads((await ctl(server, "get", "endpoints", "-o", "json")).output)
        assert [(item["host"], item["id"]) for item in found] == [(h, f"e{i}") for h in ("h1", "h2") for i in range(8)]
        table = (await ctl(server, "get", "endpoints", "--host", "h1")).output
        assert "10.0.1.9" in table
        assert "tenant:eth0" in table
        assert "no vpcs" in (await ctl(server, "get", "vpcs")).output
        assert "realized" in (await ctl(server, "get", "documents", "--host", "h2")).output

        assert "set endpoints e1" in (await ctl(server, "plan", "h1")).output
        assert "direct, to 192.0.2.2, learnt" in (await ctl(server, "path", "h1", "e1", "10.0.1.9")).output
        nowhere = await ctl(server, "path", "h1", "e1", "10.9.9.9")
        assert (nowhere.exit_code, "no network holds it" in nowhere.output) == (1, True)
        counters = (await ctl(server, "counters", "h1")).output
        assert "delivered" in counters
        assert "no_vpc" not in counters
        assert "RATE" not in counters
        plain = json.loads((await ctl(server, "counters", "h1", "-o", "json")).output)
        assert plain["outcomes"]["delivered"] == {"packets": 3, "bytes": 300}
        assert plain["endpoints"][0]["direct"] == {"packets": 4, "bytes": 400}
        reply = json.loads((await ctl(server, "path", "h1", "e1", "10.0.1.9", "-o", "json")).output)
        path = [reply[key] for key in ("host", "endpoint", "destination", "route")]
        assert path == ["h1", "e1", "10.0.1.9", "direct"]


async def test_hosts_that_do_not_answer_are_named(server: NatsServer) -> None:
    """h2 has acknowledged and is gone; h3 is gone with all its documents, so it is not reported as missing."""
    async with client_of(server) as client:
        await make_streams(client)
        for host, removed in (("h1", False), ("h2", False), ("h3", True)):
            known = Acknowledgement("doc", 3, State.REALIZED, 1.0, in_force=3, removed=removed)
            await client.jetstream().publish(subjects.ack(host, "doc"), codec.encode(known))
    async with running(bus_of(server, "h1")):
        await answering(server, ["h1"])
        shown = await ctl(server, "status")
        assert (shown.exit_code, shown.stderr) == (1, "1 of 2 hosts answered\n")
        hosts, _, why = shown.stdout.partition("\n\n")
        assert [line.split()[:3] for line in hosts.splitlines()[2:]] == [
            ["h1", "degraded", "5"],
            ["h2", "no", "answer"],
        ]
        assert [line.split()[:3] for line in why.splitlines()[2:]] == [["h1", "no", "next"]]
        listed = await ctl(server, "get", "endpoints", "-o", "json")
        assert (listed.exit_code, listed.stderr) == (1, "1 of 2 hosts answered\n")
        assert {item["host"] for item in json.loads(listed.stdout)} == {"h1"}
        assert (await ctl(server, "status", "h1")).exit_code == 0
    silent = await ctl(server, "status")
    assert (silent.exit_code, silent.stderr) == (1, "0 of 2 hosts answered\n")


async def test_acknowledgements_come_from_the_stream_and_then_live(server: NatsServer) -> None:
    failure = KernelFailure(16, "EBUSY", "veth of e1", "busy; free it, and the agent tries again")
    async with client_of(server) as client:
        await make_streams(client)
        async with running(bus_of(server, "h1")) as bus:
            for number in range(1203):
                bus.acknowledge(Acknowledgement(f"d{number}", number, State.REALIZED, 1.0, in_force=number))
            missing = (Reference("vpcs", "blue"),)
            bus.acknowledge(Acknowledgement("waits", 5, State.PENDING, 1.0, missing=missing))
            assert await bus.drain(60)
            found = json.loads((await ctl(server, "acks", "-o", "json")).output)
            assert len(found) == 1204
            one = await ctl(server, "acks", "--host", "h1", "--document", "waits")
            assert "needs VPC blue" in one.output
            assert [item["document"] for item in found] == sorted(item["document"] for item in found)
            nothing = await ctl(server, "acks", "--host", "h9")
            assert (nothing.exit_code, nothing.output) == (1, "Error: no acknowledgement of h9 in the stream\n")

            watching = asyncio.create_task(
                ctl(server, "acks", "--watch", "--document", "late", "--count", "1", "-o", "json")
            )
            while not watching.done():
                bus.acknowledge(Acknowledgement("late", 7, State.FAILED, 1.0, failures=(failure,)))
                await asyncio.sleep(0.1)
            assert json.loads(watching.result().output)["failures"][0]["name"] == "EBUSY"
            shown = (await ctl(server, "acks", "--document", "late", "-o", "wide")).output
            cells = [cell.strip() for cell in shown.splitlines()[-1].split("  ") if cell.strip()]
            assert cells == ["h1", "late", "veth of e1: EBUSY: busy", "free it, and the agent tries again"]


async def test_events_are_shown_as_they_happen(server: NatsServer) -> None:
    async with running(bus_of(server, "h1")) as bus:
        await until(lambda: bus.connected)
        watching = asyncio.create_task(ctl(server, "events", "--count", "1"))
        while not watching.done():
            event = Event("h1", "repaired", 5.0, ("endpoints e1 was gone",))
            bus.publish(subjects.event("h1", "repaired"), codec.encode(event))
            await asyncio.sleep(0.1)
        assert "h1  repaired  endpoints e1 was gone" in watching.result().output


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["status", "h9"], 1, "h9 does not answer"),
        (["status", "--host", "h9"], 1, "h9 does not answer"),
        (["peers", "--host", "h9"], 1, "h9 does not answer"),
        (["status", "h1", "--host", "h2"], 2, "two hosts are given, h1 and --host h2"),
        (["status", "--host", "NOT.A.HOST"], 2, "is not a host name"),
        (["peers", "a1"], 1, "no such host (a host, not a droplet)"),
        (["--timeout", "-1", "status"], 2, "Invalid value for '--timeout': -1 seconds: give more than 0"),
        (["--wait", "nan", "status"], 2, "Invalid value for '--wait': nan seconds: give more than 0"),
        (["counters", "h1", "--watch", "--interval", "-3"], 2, "more than 0 and at most 86400"),
        (["acks", "--count", "3"], 2, "--count needs --watch"),
        (["status"], 1, "no host answered within"),
        (["acks"], 1, "no stream DROPLET_ACK"),
        (["get", "routers"], 2, "Invalid value"),
        (["status", "NOT.A.HOST"], 2, "is not a host name"),
        (["--netns", "no-such-namespace", "status"], 2, "no-such-namespace"),
        (["--config", "/no/such/file", "status"], 2, "no such file; --config must name an existing one\n"),
    ],
)
async def test_an_impossible_request_is_refused_in_one_line(
    server: NatsServer, words: list[str], code: int, text: str
) -> None:
    result = await ctl(server, *words)
    assert result.exit_code == code, result.output
    assert text in result.output
    assert "Traceback" not in result.output


async def test_the_refusal_of_a_host_is_quoted(server: NatsServer) -> None:
    async with running(bus_of(server, "h1")):
        await answering(server, ["h1"])
        result = await ctl(server, "path", "h1", "e99", "10.0.1.9")
        assert (result.exit_code, result.output) == (1, "Error: h1: no endpoint e99 on this host\n")


@pytest.mark.parametrize("words", [[], ["status"], ["get"], ["acks"], ["path"], ["counters"], ["plan"], ["events"]])
def test_help_teaches_by_example(words: list[str]) -> None:
    result = CliRunner().invoke(main, [*words, "--help"])
    assert result.exit_code == 0
    assert "dropletctl " + (words[0] if words else "status") in result.output
