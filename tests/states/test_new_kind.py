"""A kind that is added by one module works completely: from a document to a map, a query and a table."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from agent_configurations import DROPLETS, ONE_BOUNCER, RED, network, vpc
from agent_under_test import Agent, Stream
from lab.toy_kind import BEACON, BeaconMap, BeaconReply, beacons
from test_requests import ask
from test_sequences import in_a_folder

from agent.cli import tables
from agent.core.config.delivery import Delivery
from agent.core.model.map_layout import U32
from agent.core.plan.actions import PutEntries
from protocol.acknowledgements import Acknowledgement, Reference, State
from protocol.errors import ErrorCode

__all__ = ["beacons"]
pytestmark = pytest.mark.usefixtures("beacons")

Deliveries = list[Delivery]


def beacon(number: int, address: str, **more: Any) -> dict[str, Any]:
    return {"id": f"b{number}", "network": "front", "number": number, "address": address, **more}


def lit(*listed: dict[str, Any]) -> bytes:
    return msgspec.msgpack.encode({"beacons": list(listed)})


FIRST, SECOND = beacon(1, "192.168.1.10"), beacon(2, "192.168.1.11", colour="red")


def entry(vni: int, *address: int) -> bytes:
    return BEACON.pack(vni, bytes([*bytes(12), *address]))


async def agent_in_sync(agent: Agent) -> Stream:
    stream = Stream()
    await agent.deliver(stream.lead_to(ONE_BOUNCER))
    await agent.complete()
    return stream


async def deliver(agent: Agent, revision: int, name: str, body: bytes | None) -> Acknowledgement:
    await agent.deliver([Delivery(name, revision, body)])
    return agent.last_acks[name]


def in_map(agent: Agent) -> dict[int, bytes]:
    return {U32.unpack(key)[0]: value for key, value in agent.kernel.maps[BeaconMap.BEACONS].items()}


async def got(agent: Agent, **request: Any) -> BeaconReply:
    body = msgspec.msgpack.encode({"kind": "beacons", **request})
    return msgspec.msgpack.decode(await ask(agent, "get", body), type=BeaconReply)


def test_a_document_fills_the_map_and_is_shown_by_a_query_and_in_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    async def scenario(agent: Agent) -> None:
        await agent_in_sync(agent)
        assert (await deliver(agent, 50, "lights", lit(SECOND, FIRST))).state is State.REALIZED
        assert in_map(agent) == {1: entry(7, 192, 168, 1, 10), 2: entry(7, 192, 168, 1, 11)}
        page = await got(agent, limit=1)
        assert ([one.id for one in page.beacons], page.next) == (["b1"], "lights b1")
        rest = await got(agent, after=page.next)
        assert ([one.id for one in rest.beacons], rest.next) == (["b2"], "")
        tables.objects("beacons", [("h1", one) for one in (*page.beacons, *rest.beacons)], wide=True)
        await deliver(agent, 51, "lights", None)
        assert in_map(agent) == {}
        assert (await got(agent)).beacons == ()

    in_a_folder(scenario)
    heading, _, first, second = capsys.readouterr().out.splitlines()
    assert heading.split() == ["HOST", "BEACON", "NETWORK", "NUMBER", "ADDRESS", "COLOUR"]
    assert first.split() == ["h1", "b1", "front", "1", "192.168.1.10", "white"]
    assert second.split() == ["h1", "b2", "front", "2", "192.168.1.11", "red"]


def test_a_column_is_left_out_while_all_cells_are_usual(capsys: pytest.CaptureFixture[str]) -> None:
    async def scenario(agent: Agent) -> None:
        await agent_in_sync(agent)
        await deliver(agent, 50, "lights", lit(FIRST))
        tables.objects("beacons", [("h1", one) for one in (await got(agent)).beacons], wide=True)

    in_a_folder(scenario)
    assert "COLOUR" not in capsys.readouterr().out


def test_a_document_waits_for_a_network_and_names_it() -> None:
    async def scenario(agent: Agent) -> None:
        answer = await deliver(agent, 1, "lights", lit(FIRST))
        assert (answer.state, answer.missing) == (State.PENDING, (Reference("networks", "front"),))
        assert in_map(agent) == {}
        await deliver(agent, 2, "base", msgspec.msgpack.encode(DROPLETS))
        await deliver(agent, 3, "red", msgspec.msgpack.encode(RED))
        assert agent.last_acks["lights"].state is State.REALIZED
        assert in_map(agent) == {1: entry(7, 192, 168, 1, 10)}

    in_a_folder(scenario)


def test_a_number_belongs_to_the_document_that_claimed_it_first() -> None:
    async def scenario(agent: Agent) -> None:
        await agent_in_sync(agent)
        await deliver(agent, 50, "lights", lit(FIRST))
        other = {**FIRST, "id": "other", "address": "192.168.1.12"}
        answer = await deliver(agent, 51, "late", lit(SECOND, other))
        assert answer.state is State.REJECTED
        (error,) = answer.errors
        assert (error.path, error.code) == ("beacons[1].number", ErrorCode.CLAIMED)
        assert error.message == "number 1 belongs to document 'lights'"
        assert in_map(agent) == {1: entry(7, 192, 168, 1, 10)}
        await deliver(agent, 52, "lights", None)
        assert agent.last_acks["late"].state is State.REALIZED
        assert in_map(agent) == {1: entry(7, 192, 168, 1, 12), 2: entry(7, 192, 168, 1, 11)}

    in_a_folder(scenario)


def test_an_error_names_the_field_and_the_last_good_revision_stays() -> None:
    async def scenario(agent: Agent) -> None:
        await agent_in_sync(agent)
        await deliver(agent, 50, "lights", lit(FIRST))
        answer = await deliver(agent, 51, "lights", lit(FIRST, beacon(2, "192.168.9.1")))
        assert (answer.state, answer.in_force) == (State.REJECTED, 50)
        assert [(error.path, error.code, error.message) for error in answer.errors] == [
            (
                "beacons[1].address",
                ErrorCode.OUT_OF_RANGE,
                "192.168.9.1 is not in network 'front' (192.168.1.0/24)",
            )
        ]
        assert in_map(agent) == {1: entry(7, 192, 168, 1, 10)}

    in_a_folder(scenario)


@pytest.mark.parametrize(
    ("body", "path", "code"),
    [
        ({"beacons": [{**FIRST, "size": 1}]}, "beacons[0].size", ErrorCode.UNKNOWN_FIELD),
        ({"beacons": [{**FIRST, "number": 0}]}, "beacons[0].number", ErrorCode.INVALID),
        ({"beacons": [{**FIRST, "address": "10.0.0.300"}]}, "beacons[0].address", ErrorCode.INVALID),
        ({"beacon": [FIRST]}, "beacon", ErrorCode.UNKNOWN_KIND),
    ],
)
def test_a_document_that_does_not_decode_is_rejected_with_the_fields_path(
    body: dict[str, Any], path: str, code: ErrorCode
) -> None:
    async def scenario(agent: Agent) -> None:
        answer = await deliver(agent, 1, "lights", msgspec.msgpack.encode(body))
        assert answer.state is State.REJECTED
        (error,) = answer.errors
        assert (error.path, error.code) == (path, code)
        if code is ErrorCode.UNKNOWN_KIND:
            assert error.message.endswith("droplets, vpcs, networks, endpoints, functions, beacons")

    in_a_folder(scenario)


def test_entries_follow_what_their_objects_refer_to() -> None:
    """A beacon's entry holds the VNI of its network's VPC, which another document may change."""

    async def scenario(agent: Agent) -> None:
        await agent_in_sync(agent)
        await deliver(agent, 50, "lights", lit(FIRST))
        other = {"vpcs": [vpc("red", 9)], "networks": [network("front", "red", "192.168.1.0/24", "d2")]}
        await deliver(agent, 51, "red", msgspec.msgpack.encode(other))
        assert in_map(agent) == {1: entry(9, 192, 168, 1, 10)}

    in_a_folder(scenario)


def test_what_the_kernel_lost_is_put_back_and_a_restart_changes_nothing() -> None:
    async def scenario(agent: Agent) -> None:
        await agent_in_sync(agent)
        await deliver(agent, 50, "lights", lit(FIRST, SECOND))
        del agent.kernel.maps[BeaconMap.BEACONS][U32.pack(1)]
        agent.kernel.maps[BeaconMap.BEACONS][U32.pack(9)] = entry(7, 1, 2, 3, 4)
        await agent.resync.repair()
        assert in_map(agent).keys() == {1, 2}
        assert agent.repaired == ["write 1 entry of map beacons", "delete 1 entry of map beacons"]
        agent.kernel.actions.clear()
        await agent.start()
        assert not [action for action in agent.kernel.actions if isinstance(action, PutEntries)]
        assert in_map(agent).keys() == {1, 2}
        assert [one.id for one in (await got(agent)).beacons] == ["b1", "b2"]

    in_a_folder(scenario)
