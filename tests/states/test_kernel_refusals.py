"""What the kernel refuses is reported, undone and retried, and affects no other document."""

from __future__ import annotations

import errno
import random

import pytest
from agent_configurations import CONFIGURATIONS, LOCAL, ONE_BOUNCER, RED, REMOTE, changed, endpoint, red
from agent_under_test import Agent, Stream, publish
from hypothesis import given, settings
from hypothesis import strategies as st
from test_sequences import PLAIN, directly, ends_like, has_nothing_to_do, in_a_folder

from agent.core.model.map_layout import MapName
from agent.core.plan.actions import EnsureFunction
from agent.store.store import StoreError


@settings(max_examples=80, deadline=None)
@given(st.sampled_from(sorted(PLAIN)), st.sampled_from(sorted(PLAIN)), st.randoms(use_true_random=False))
def test_a_kernel_that_refuses_at_random_is_brought_to_the_end_by_retries(
    start: str, end: str, chance: random.Random
) -> None:
    async def scenario(agent: Agent) -> None:
        stream = Stream()
        await publish(agent, stream, CONFIGURATIONS[start])
        agent.kernel.refuse = lambda action: errno.ENOMEM if chance.random() < 0.2 else 0
        await publish(agent, stream, CONFIGURATIONS[end])
        agent.kernel.refuse = lambda action: 0
        await agent.retry()
        await agent.resync.repair()
        await agent.retry()  # the document that got the index of an interface whose removal was refused until now
        await ends_like(agent, end)

    in_a_folder(scenario)


def test_a_function_keeps_the_last_slot_though_an_older_document_that_was_refused_lacks_it() -> None:
    """What runs is not withdrawn: the older document says why it waits, and gets the slot when it is free."""

    async def scenario(agent: Agent) -> None:
        stream = Stream()
        agent.kernel.refuse = lambda action: errno.ENOMEM if isinstance(action, EnsureFunction) else 0
        await publish(agent, stream, CONFIGURATIONS["eight functions at a point"])
        agent.kernel.refuse = lambda action: 0
        await publish(agent, stream, CONFIGURATIONS["nine functions at a point"])
        await agent.retry()
        await agent.resync.repair()
        states = agent.statuses()
        assert (states["f_ninth"][0], states["f_eight"][0]) == ("realized", "rejected")
        assert "no free slot for function" in agent.last_acks["f_eight"].errors[0].message
        await has_nothing_to_do(agent)
        await publish(agent, stream, CONFIGURATIONS["eight functions at a point"])
        await ends_like(agent, "eight functions at a point")

    in_a_folder(scenario)


def test_a_missing_namespace_fails_only_its_document_and_a_retry_recovers_it() -> None:
    async def scenario(agent: Agent) -> None:
        agent.kernel.namespaces = {"other"}
        stream = Stream()
        await publish(agent, stream, ONE_BOUNCER)
        status = agent.acknowledged["a"]
        assert (status.state.value, status.in_force) == ("failed", 0)
        assert [failure.name for failure in status.failures] == ["ENOENT"]
        assert agent.statuses()["b"] == ("realized", 4, 4)
        assert agent.kernel.portrait() == (await directly(changed(ONE_BOUNCER, a=None))).kernel.portrait()
        agent.kernel.namespaces.add("a")
        await agent.retry()
        assert agent.acknowledged["a"].failures == ()
        await ends_like(agent, "one bouncer")

    in_a_folder(scenario)


def test_a_newer_revision_that_fails_leaves_the_good_one_in_force() -> None:
    async def scenario(agent: Agent) -> None:
        stream = Stream()
        await publish(agent, stream, ONE_BOUNCER)
        before = agent.kernel.contents()
        agent.kernel.namespaces = {"a"}
        more = {"endpoints": [*LOCAL["endpoints"], endpoint("c", "front", "d1", "192.168.1.77")]}
        agent.kernel.begin_watch()
        await publish(agent, stream, changed(ONE_BOUNCER, a=(more,)))
        assert agent.kernel.end_watch() == []
        assert agent.statuses()["a"] == ("failed", 5, 3)
        assert agent.kernel.contents() == before

    in_a_folder(scenario)


def test_a_full_map_fails_the_document_that_did_not_fit() -> None:
    async def scenario(agent: Agent) -> None:
        agent.kernel._sizes = {MapName.ENDPOINTS: 2}
        stream = Stream()
        await publish(agent, stream, ONE_BOUNCER)
        before = agent.kernel.contents()
        c = {"endpoints": [endpoint(f"c{n}", "front", "d2", f"192.168.1.{n}") for n in (70, 71)]}
        await publish(agent, stream, changed(ONE_BOUNCER, c=(c,)))
        assert agent.statuses()["c"][0] == "failed"
        assert agent.acknowledged["c"].failures[0].name == "E2BIG"
        assert agent.kernel.contents() == before
        await publish(agent, stream, changed(ONE_BOUNCER, b=None, c=(c,)))
        agent.kernel._sizes = {}
        await agent.retry()
        assert agent.statuses()["c"][0] == "realized"
        await has_nothing_to_do(agent)

    in_a_folder(scenario)


def test_foreign_changes_are_repaired_and_reported() -> None:
    async def scenario(agent: Agent) -> None:
        await publish(agent, Stream(), ONE_BOUNCER)
        kernel = agent.kernel
        kernel.maps[MapName.ENDPOINTS].clear()
        kernel.maps[MapName.VPCS][b"\x63\0\0\0"] = bytes(264)
        kernel.veths.clear()
        kernel.transit.clear()
        await agent.resync.repair()
        assert agent.repaired
        await ends_like(agent, "one bouncer")
        agent.repaired.clear()
        await agent.resync.repair()
        assert agent.repaired == []

    in_a_folder(scenario)


def test_a_refused_document_leaves_its_dependents_in_force() -> None:
    """A revision that drops a network and is wrong by itself must not have that network's endpoints removed."""

    async def scenario(agent: Agent) -> None:
        stream = Stream()
        await publish(agent, stream, ONE_BOUNCER)
        before = agent.kernel.contents()
        agent.kernel.actions.clear()
        wrong = {"vpcs": RED["vpcs"], "networks": [{"id": "bad", "vpc": "red", "cidrs": ["172.16.0.0/24"]}]}
        await publish(agent, stream, changed(ONE_BOUNCER, red=(wrong,)))
        assert {name: status[0] for name, status in agent.statuses().items()} == {
            "underlay": "realized",
            "red": "rejected",
            "a": "realized",
            "b": "realized",
        }
        assert agent.kernel.actions == []
        assert agent.kernel.contents() == before

    in_a_folder(scenario)


def test_a_revision_that_was_never_in_force_can_be_removed() -> None:
    """Its claims and those of the last good revision are the same, and are given up once."""

    async def scenario(agent: Agent) -> None:
        stream = Stream()
        await publish(agent, stream, ONE_BOUNCER)
        await publish(agent, stream, changed(ONE_BOUNCER, red=(red("d9"),)))
        assert agent.statuses()["red"] == ("pending", 5, 2)
        await publish(agent, stream, changed(ONE_BOUNCER, red=None))
        await ends_like(agent, "network document removed")

    in_a_folder(scenario)


@pytest.mark.parametrize("updated", [REMOTE, {"endpoints": [endpoint("b", "front", "d2", "192.168.1.12")]}])
def test_a_restart_gives_nothing_to_a_document_that_claimed_it_second(updated) -> None:
    """The owner may have a newer revision than the rival: what the kernel took before was first."""

    async def scenario(agent: Agent) -> None:
        stream = Stream()
        rival = ({"endpoints": [endpoint("b", "front", "d3", "192.168.1.55")]},)
        await publish(agent, stream, changed(ONE_BOUNCER, rival=rival))
        await publish(agent, stream, changed(ONE_BOUNCER, rival=rival, b=(updated, updated | {"vpcs": []})))
        before, statuses = agent.kernel.contents(), agent.statuses()
        assert statuses["rival"][0] == "rejected"
        agent.kernel.actions.clear()
        await agent.start()
        await agent.deliver(stream.replay())
        await agent.complete()
        assert agent.kernel.actions == []
        assert (agent.kernel.contents(), agent.statuses()) == (before, statuses)

    in_a_folder(scenario)


def test_documents_that_an_interrupted_step_examined_are_acknowledged_by_the_next_one() -> None:
    """They were not delivered in that step, but waited for a document that was."""

    async def scenario(agent: Agent) -> None:
        await agent.complete()
        deliveries = Stream().lead_to(ONE_BOUNCER)
        await agent.deliver([one for one in deliveries if one.document != "underlay"])
        assert {verdict.state.value for verdict in agent.acknowledged.values()} == {"pending"}

        def break_off(action: object) -> int:
            raise RuntimeError("a defect")

        agent.kernel.refuse = break_off
        with pytest.raises(RuntimeError):
            await agent.deliver([one for one in deliveries if one.document == "underlay"])
        agent.kernel.refuse = lambda action: 0
        await agent.deliver([])
        assert {name: verdict.state.value for name, verdict in agent.acknowledged.items()} == dict.fromkeys(
            ONE_BOUNCER, "realized"
        )

    in_a_folder(scenario)


def test_an_interrupted_step_is_completed_by_the_next_one() -> None:
    """Whatever raises, and wherever: no acknowledgement says realized wrongly, and the next message repairs it."""

    async def scenario(agent: Agent) -> None:
        stream = Stream()
        deliveries = stream.lead_to(ONE_BOUNCER)

        def break_off(action: object) -> int:
            raise RuntimeError("a defect")

        agent.kernel.refuse = break_off
        with pytest.raises(RuntimeError):
            await agent.deliver(deliveries)
        assert agent.acknowledged == {}
        agent.kernel.refuse = lambda action: 0
        await agent.deliver(deliveries)
        await ends_like(agent, "one bouncer")

    in_a_folder(scenario)


def test_a_resolution_that_fails_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(agent: Agent) -> None:
        stream = Stream()
        deliveries = stream.lead_to(ONE_BOUNCER)
        with monkeypatch.context() as patch:
            patch.setattr("agent.core.config.desired_state.render", lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                await agent.deliver(deliveries)
        assert all(state != "realized" for state, _, _ in agent.statuses().values())
        await agent.deliver(deliveries)
        await ends_like(agent, "one bouncer")

    in_a_folder(scenario)


def test_a_full_disk_stops_nothing_and_is_recovered_later() -> None:
    async def scenario(agent: Agent) -> None:
        store = agent.store
        real, store.save = store.save, raising  # type: ignore[method-assign]
        await publish(agent, Stream(), ONE_BOUNCER)
        assert {name for name, status in agent.acknowledged.items() if status.state.value == "realized"} == set(
            ONE_BOUNCER
        )
        assert store.load() == []
        store.save = real  # type: ignore[method-assign]
        agent.reconciler.desired.documents.touch(["a"])
        await agent.reconciler.deliver([])
        assert {kept.name for kept in store.load()} == set(ONE_BOUNCER)

    def raising(*_: object) -> None:
        raise StoreError("database or disk is full")

    in_a_folder(scenario)
