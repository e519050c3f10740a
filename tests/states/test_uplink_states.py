"""Interfaces in the underlay that change under a running agent: what is taken in, what waits, what ends the agent."""

from __future__ import annotations

import asyncio
import errno
from dataclasses import replace

import pytest
from agent_configurations import ONE_BOUNCER, SEVERAL
from agent_under_test import SETTINGS, Agent, Stream, publish
from fake_kernel import BOND0, ETH0
from test_sequences import has_nothing_to_do, in_a_folder

from agent.core.model.map_layout import LOCAL_DROPLET, MapName
from agent.core.nexthop.peers import Droplets
from agent.core.plan.actions import AttachTransit
from agent.datapath.nexthop.neighbours import Unresolved
from agent.reconcile.underlay import InterfaceReplacedError
from agent.report.status_messages import heartbeat
from protocol.status import AgentState, Status, UnresolvedNextHops

ANOTHER = replace(ETH0, ifindex=12, carrier=12, egress=12, ingress=(12,), mac=bytes.fromhex("020000000112"))


def states(agent: Agent) -> set[str]:
    return {status.state.value for status in agent.acknowledged.values()}


def local_droplets(agent: Agent) -> set[tuple[int, int, int, bytes]]:
    """Return interface, arrival, departure and MAC of the entries."""
    values = agent.kernel.maps[MapName.LOCAL_DROPLETS].values()
    return {(interface, *rest) for _, interface, *rest, _, _ in map(LOCAL_DROPLET.unpack, values)}


def test_an_interface_in_the_place_of_another_is_taken_in() -> None:
    async def scenario(agent: Agent) -> None:
        await publish(agent, Stream(), ONE_BOUNCER)
        veths = dict(agent.kernel.veths)
        agent.kernel.interfaces = (ANOTHER, BOND0)
        await agent.resync.repair()
        assert local_droplets(agent) == {(12, 12, 12, ANOTHER.mac)}
        assert agent.kernel.transit == {12}
        assert agent.kernel.veths == veths
        assert states(agent) == {"realized"}
        await has_nothing_to_do(agent)

    in_a_folder(scenario)


def test_attached_programs_follow_the_mode_of_the_uplinks_as_read() -> None:
    async def scenario(agent: Agent) -> None:
        await publish(agent, Stream(), ONE_BOUNCER)
        wide = replace(ETH0, mtu=9000)
        agent.kernel.interfaces = (wide, BOND0)
        await agent.resync.plan()
        assert agent.kernel.followed == (), "a plan only reads"
        await agent.resync.repair()
        assert agent.kernel.followed == (replace(wide, transit=True), BOND0)

    in_a_folder(scenario)


def test_one_that_has_no_address_yet_changes_nothing() -> None:
    async def scenario(agent: Agent) -> None:
        await publish(agent, Stream(), ONE_BOUNCER)
        before = agent.kernel.contents()
        agent.kernel.interfaces = (replace(ANOTHER, addresses=()), BOND0)
        await agent.resync.repair()
        assert agent.kernel.contents() == before
        assert "eth0" in agent.resync.unreadable
        assert states(agent) == {"realized"}
        (fault,) = agent.faults.standing()
        assert (fault.kind, fault.detail) == ("kernel_unreadable", agent.resync.unreadable)
        await agent.resync.repair()
        assert agent.faults.standing() == (fault,), "the same one since the same moment"
        agent.kernel.interfaces = (ANOTHER, BOND0)
        await agent.resync.repair()
        assert not agent.resync.unreadable
        assert agent.faults.standing() == ()
        assert agent.kernel.transit == {12}

    in_a_folder(scenario)


def test_a_part_that_fails_on_the_droplets_in_force_keeps_no_document_from_being_realized(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("agent.subscription.RETRY_SECONDS", 0.01)

    async def scenario(agent: Agent) -> None:
        taken: list[set[str]] = []
        broken = True

        def take(droplets: Droplets) -> None:
            if broken:
                raise ValueError("a defect")
            taken.append(set(droplets.resolved.droplets))

        agent.underlay.droplets.subscribe("broken", take, agent.errors)
        await publish(agent, Stream(), ONE_BOUNCER)
        assert states(agent) == {"realized"}
        assert [fault.kind for fault in agent.faults.standing()] == ["internal_error"]
        broken = False
        async with asyncio.timeout(20):
            while not taken:  # noqa: ASYNC110 -- another task's state changes at no known moment
                await asyncio.sleep(0.001)
        assert taken == [set(agent.reconciler.desired.resolved.droplets)]
        assert agent.faults.standing() == ()

    in_a_folder(scenario)


def test_the_heartbeat_contains_why_the_host_is_degraded() -> None:
    def status_of(agent: Agent, *unresolved: Unresolved) -> Status:
        more = {"boot": "b", "now": 1.0, "uptime": 1.0, "memory": 1, "modes": {}, "hooks": {}}
        return heartbeat(SETTINGS, agent.reconciler, agent.resync, unresolved, **more)

    async def scenario(agent: Agent) -> None:
        await publish(agent, Stream(), ONE_BOUNCER)
        await agent.complete()
        assert (status_of(agent).state, status_of(agent).unreadable) == (AgentState.IN_SYNC, "")
        found = status_of(agent, Unresolved("10.0.0.9", "why"))
        assert (found.state, found.unresolved_next_hops) == (
            AgentState.DEGRADED,
            (UnresolvedNextHops("why", 1, ("10.0.0.9",)),),
        )
        agent.kernel.interfaces = (replace(ANOTHER, addresses=()), BOND0)
        await agent.resync.repair()
        assert status_of(agent).state is AgentState.DEGRADED
        assert "has no address yet" in status_of(agent).unreadable

    in_a_folder(scenario)


def test_a_bonds_new_member_is_served() -> None:
    async def scenario(agent: Agent) -> None:
        await publish(agent, Stream(), SEVERAL)
        agent.kernel.interfaces = (ETH0, replace(BOND0, ingress=(5, 3, 4, 6)))
        await agent.resync.repair()
        assert {arrives for interface, arrives, *_ in local_droplets(agent) if interface == 5} == {3, 4, 5, 6}
        assert agent.kernel.transit == {2, 5}

    in_a_folder(scenario)


def test_what_needs_other_programs_ends_the_agent() -> None:
    async def scenario(agent: Agent) -> None:
        await publish(agent, Stream(), ONE_BOUNCER)
        agent.kernel.interfaces = (replace(ETH0, ifindex=12, vlan=100), BOND0)
        with pytest.raises(InterfaceReplacedError, match="eth0 is a VLAN now"):
            await agent.resync.repair()

    in_a_folder(scenario)


def test_one_interface_that_refuses_the_program_is_named_and_retried() -> None:
    async def scenario(agent: Agent) -> None:
        agent.kernel.refuse = lambda action: errno.EOPNOTSUPP if action == AttachTransit(5) else 0
        await publish(agent, Stream(), SEVERAL)
        assert "failed" in states(agent)
        assert agent.kernel.transit == {2}
        agent.kernel.refuse = lambda action: 0
        await agent.retry()
        assert agent.kernel.transit == {2, 5}
        assert states(agent) == {"realized"}

    in_a_folder(scenario)
