"""What the bus is told of its files."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import pytest
import structlog

from agent.bus.bus import Bus
from agent.bus.settings import BusSettings


class Nobody:
    """A handler to whom nothing comes."""

    async def begin_snapshot(self) -> None: ...

    async def deliver(self, batch: object) -> None: ...

    async def snapshot_complete(self) -> None: ...

    async def ask(self, verb: str, body: bytes) -> bytes:
        return b""


@pytest.mark.parametrize(("mode", "warned"), [(0o600, False), (0o400, False), (0o640, True), (0o604, True)])
async def test_a_seed_that_others_can_read_is_warned_of_at_the_start(tmp_path: Path, mode: int, warned: bool) -> None:
    seed = tmp_path / "seed"
    seed.touch(mode)
    seed.chmod(mode)
    settings = BusSettings(("nats://127.0.0.1:1",), str(seed))
    with structlog.testing.capture_logs() as logged:
        running = asyncio.create_task(Bus("h1", settings, Nobody(), structlog.get_logger()).run())
        await asyncio.wait([running], timeout=0.05)
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
    warnings = [one for one in logged if "nkey seed" in one["event"]]
    assert [one["file"] for one in warnings] == ([str(seed)] if warned else [])
