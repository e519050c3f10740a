"""No acknowledgement claims more than the kernel holds: each case in which one could, and the correct one."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from agent_configurations import DROPLETS, LOCAL, ONE_BOUNCER, body, changed, red
from agent_under_test import Agent, Stream, logged, publish
from test_sequences import ends_like, in_a_folder

from agent.core.config.delivery import Delivery
from agent.core.model.map_layout import MapName
from agent.core.plan.actions import AttachTransit, DeleteVeth
from agent.core.plan.observed import ObservationError


def state_of(agent: Agent, name: str) -> str:
    return agent.acknowledged[name].state.value


def test_a_removal_is_acknowledged_when_it_is_done_and_not_before_the_snapshot_is_complete(tmp_path: Path) -> None:
    async def scenario(_: Agent) -> None:
        agent, stream = Agent(tmp_path), Stream()
        await agent.start()
        await publish(agent, stream, ONE_BOUNCER)
        agent.acknowledged.clear()
        await publish(agent, stream, changed(ONE_BOUNCER, a=None))
        assert "a" in agent.kernel.veths
        assert "a" not in agent.acknowledged
        await agent.complete()
        assert "a" not in agent.kernel.veths
        assert agent.acknowledged["a"].removed
        agent.stop()

    in_a_folder(scenario)


def test_the_log_of_a_snapshot_counts_documents_by_state(tmp_path: Path) -> None:
    async def scenario(_: Agent) -> None:
        agent, stream = Agent(tmp_path), Stream()
        await agent.start()
        lost, noise = ({"vpcs": [{"id": "x"}]},), (b"\xc1noise",)
        await publish(agent, stream, changed(ONE_BOUNCER, lost=lost, noise=noise))
        with logged() as lines:
            await agent.complete()
        counts = {"revision": 6, "absent": 0, "realized": 4, "pending": 0, "rejected": 2, "failed": 0}
        assert [line for line in lines if line["event"] == "snapshot_applied" and counts.items() <= line.items()]
        agent.stop()

    in_a_folder(scenario)


def test_a_removal_that_the_kernel_refused_is_failed_until_it_is_done() -> None:
    async def scenario(agent: Agent) -> None:
        stream = Stream()
        await publish(agent, stream, ONE_BOUNCER)
        agent.kernel.refuse = lambda action: errno.EPERM if isinstance(action, DeleteVeth) else 0
        await publish(agent, stream, changed(ONE_BOUNCER, a=None))
        assert state_of(agent, "a") == "failed"
        assert agent.acknowledged["a"].removed
        assert [failure.name for failure in agent.acknowledged["a"].failures] == ["EPERM"]
        await agent.retry()
        assert state_of(agent, "a") == "failed"
        agent.kernel.refuse = lambda action: 0
        await agent.retry()
        assert state_of(agent, "a") == "realized"
        assert "a" not in agent.kernel.veths

    in_a_folder(scenario)


def test_another_owners_program_in_place_of_ours_fails_every_new_document() -> None:
    async def scenario(agent: Agent) -> None:
        stream = Stream()
        await publish(agent, stream, changed(ONE_BOUNCER, a=None))
        agent.kernel.transit.clear()
        agent.kernel.refuse = lambda action: errno.EEXIST if isinstance(action, AttachTransit) else 0
        await publish(agent, stream, ONE_BOUNCER)
        assert state_of(agent, "a") == "failed"
        assert agent.acknowledged["a"].failures[0].name == "EEXIST"
        agent.kernel.refuse = lambda action: 0
        await agent.retry()
        await ends_like(agent, "one bouncer")

    in_a_folder(scenario)


def test_without_a_droplet_of_this_host_everything_waits_for_it() -> None:
    async def scenario(agent: Agent) -> None:
        others = {"droplets": [one for one in DROPLETS["droplets"] if one["host"] != "h1"]}  # type: ignore[index]
        stream = Stream()
        await publish(agent, stream, {"underlay": (others,)})
        assert state_of(agent, "underlay") == "pending"
        assert agent.acknowledged["underlay"].missing[0].id == "of host h1"
        await publish(agent, stream, {"underlay": (DROPLETS,)})
        assert state_of(agent, "underlay") == "realized"

    in_a_folder(scenario)


def test_the_same_body_again_does_not_hide_a_failure() -> None:
    async def scenario(agent: Agent) -> None:
        stream = Stream()
        await publish(agent, stream, ONE_BOUNCER)
        del agent.kernel.veths["a"]
        agent.kernel.namespaces = set()
        await agent.resync.repair()
        assert state_of(agent, "a") == "failed"
        stream.sequence += 1
        await agent.deliver([Delivery("a", stream.sequence, body(LOCAL))])
        assert state_of(agent, "a") == "failed"
        await publish(agent, stream, changed(ONE_BOUNCER, red=(red("d3"),)))
        assert state_of(agent, "a") == "failed"

    in_a_folder(scenario)


def test_a_repair_is_reported_while_another_document_is_failing() -> None:
    async def scenario(agent: Agent) -> None:
        await publish(agent, Stream(), ONE_BOUNCER)
        del agent.kernel.veths["a"]
        agent.kernel.namespaces = set()
        await agent.resync.repair()
        agent.repaired.clear()
        agent.kernel.maps[MapName.DROPLETS].clear()
        await agent.resync.repair()
        assert any("droplets" in line for line in agent.repaired)
        assert not any("veth" in line for line in agent.repaired)
        agent.repaired.clear()
        await agent.resync.repair()
        assert agent.repaired == []

    in_a_folder(scenario)


def test_a_snapshot_whose_end_broke_off_sweeps_nothing_that_was_listed() -> None:
    async def scenario(agent: Agent) -> None:
        stream = Stream()
        await publish(agent, stream, ONE_BOUNCER)
        await agent.start()
        stream.lead_to(changed(ONE_BOUNCER, b=None))
        for delivery in stream.replay():
            await agent.deliver([delivery])
        observe = agent.kernel.observe

        async def blind(_: object) -> None:
            raise ObservationError("EAGAIN")

        agent.kernel.observe = blind  # type: ignore[assignment,method-assign]
        with pytest.raises(ObservationError):
            await agent.complete()
        agent.kernel.observe = observe  # type: ignore[method-assign]
        await agent.complete()
        assert set(agent.reconciler.desired.documents.names()) == set(ONE_BOUNCER) - {"b"}
        assert agent.kernel.transit

    in_a_folder(scenario)


def test_a_plan_that_is_asked_for_changes_nothing() -> None:
    async def scenario(agent: Agent) -> None:
        await publish(agent, Stream(), ONE_BOUNCER)
        agent.kernel.veths.clear()
        before = agent.kernel.contents()
        assert any("veth" in line for line in await agent.resync.plan())
        assert agent.kernel.contents() == before

    in_a_folder(scenario)
