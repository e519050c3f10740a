"""Retries of what the real kernel refuses: each document by its own backoff, and only what it asks for."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent.core.config.delivery import Delivery
from agent.daemon import Parts, compose, connect
from agent.datapath.kernel import Kernel
from agent.reconcile.retry import LONGEST
from agent.settings import Settings
from agent.store.store import Store
from protocol.acknowledgements import State

from .conftest import Topo, ip

FIRST = 5.0
NETWORK = {"id": "front", "vpc": "red", "cidrs": ["192.168.0.0/20"], "bouncers": ["there"]}


def base(topo: Topo) -> dict[str, Any]:
    return {
        "droplets": [
            {"id": "here", "host": "here", "address": topo.address},
            {"id": "there", "host": "there", "address": topo.neighbour},
        ],
        "vpcs": [{"id": "red", "vni": 7, "cidrs": ["192.168.0.0/16"], "dividers": ["there"]}],
        "networks": [NETWORK],
    }


def local(name: str, number: int) -> dict[str, Any]:
    """Return an endpoint of this host in a namespace of its name."""
    return {
        "id": name,
        "network": "front",
        "droplet": "here",
        "addresses": [f"192.168.1.{number}"],
        "mac": f"02:00:00:00:01:{number:02x}",
        "attachment": {"namespace": name},
    }


def remote(number: int) -> dict[str, Any]:
    address, mac = (
        f"192.168.{8 + number // 250}.{1 + number % 250}",
        f"02:00:00:02:{number >> 8:02x}:{number & 255:02x}",
    )
    return {"id": f"r{number}", "network": "front", "droplet": "there", "addresses": [address], "mac": mac}


class Agent:
    """An agent without a bus, by a clock that the test sets."""

    def __init__(self) -> None:
        self.now = 0.0
        self.revision = 0
        self.parts: Parts

    async def publish(self, name: str, **content: Any) -> None:
        self.revision += 1
        await self.parts.reconciler.deliver([Delivery(name, self.revision, msgspec.msgpack.encode(content))])

    async def after(self, seconds: float) -> None:
        self.now += seconds
        await self.parts.retries.try_due(self.parts.resync.retry)

    def state(self, name: str) -> State:
        return self.parts.reconciler.desired.status(name).state


@pytest.fixture
async def agent(topo: Topo, kernel: Kernel, tmp_path: Path) -> AsyncIterator[Agent]:
    settings = Settings(host="here", interfaces=("eth0",), instance=kernel.config.instance)
    made = Agent()
    with contextlib.closing(Store(tmp_path / "state", "here")) as store:
        made.parts = await compose(settings, kernel, store, clock=lambda: made.now)
        connect(made.parts)
        await made.parts.reconciler.start()
        await made.parts.reconciler.begin_snapshot()
        await made.publish("base", **base(topo))
        await made.parts.reconciler.snapshot_complete()
        assert made.state("base") is State.REALIZED
        yield made


def appears(topo: Topo, namespace: str) -> None:
    if namespace not in topo.endpoints:
        topo.endpoints.append(namespace)
    ip("netns", "add", namespace)


FOR_GOOD = {
    "no namespace": lambda topo: [local(f"{topo.prefix}gone", 50)],
    "the map is full": lambda _: [remote(number) for number in range(1500)],
}


@pytest.mark.parametrize("endpoints", FOR_GOOD.values(), ids=FOR_GOOD)
async def test_a_document_that_fails_for_good_slows_no_retry_of_one_that_would_succeed(
    topo: Topo, agent: Agent, endpoints
) -> None:
    await agent.publish("for-good", endpoints=endpoints(topo))
    for _ in range(8):
        assert agent.state("for-good") is State.FAILED
        await agent.after(FIRST * LONGEST)
    late = f"{topo.prefix}late"
    await agent.publish("late", endpoints=[local(late, 51)])
    assert agent.state("late") is State.FAILED
    appears(topo, late)
    await agent.after(FIRST)
    assert (agent.state("late"), agent.state("for-good")) == (State.REALIZED, State.FAILED)
    assert await agent.parts.resync.plan() == []


async def test_an_endpoint_in_force_whose_namespace_was_away_is_put_again_by_its_own_retry(
    topo: Topo, agent: Agent
) -> None:
    name, other = f"{topo.prefix}late", f"{topo.prefix}other"
    for one in (name, other):
        appears(topo, one)
    await agent.publish("late", endpoints=[local(name, 51)])
    await agent.publish("other", endpoints=[local(other, 52)])
    assert (agent.state("late"), agent.state("other")) == (State.REALIZED, State.REALIZED)
    ip("netns", "del", name)
    await agent.parts.resync.repair()
    assert (agent.state("late"), agent.state("other")) == (State.FAILED, State.REALIZED)
    appears(topo, name)
    await agent.after(FIRST)
    assert agent.state("late") is State.REALIZED
    assert "192.168.1.51" in ip("addr", "show", "dev", "eth0", namespace=name)
    assert await agent.parts.resync.plan() == []
