"""The files that the bus settings name, and the errors about them."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import structlog

from agent.bus.bus import Bus
from agent.bus.check import check_files
from agent.bus.connection.errors import describe
from agent.bus.connection.settings import BusSettings, tls_context
from agent.bus.connection.tasks import end


class IdleHandler:
    """A handler that receives nothing."""

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
    tried = asyncio.Event()  # a connection, which is after the check of the file
    with structlog.testing.capture_logs() as logged:
        bus = Bus("h1", settings, IdleHandler(), lambda _source, _faults: tried.set())
        running = asyncio.create_task(bus.run())
        await tried.wait()
        await end([running])
    warnings = [one for one in logged if "nkey_seed" in one["event"]]
    assert {one["file"] for one in warnings} == ({str(seed)} if warned else set())


def test_a_ca_that_cannot_be_used_is_named_with_its_setting(tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    settings = BusSettings(("tls://127.0.0.1:1",), tls_ca_file=str(file))
    with pytest.raises(FileNotFoundError) as missing:
        tls_context(settings)
    assert describe(missing.value) == f"no such file: {file}"
    file.write_text("no certificate")
    with pytest.raises(OSError, match="no certificate") as wrong:
        tls_context(settings)
    assert describe(wrong.value) == f"{file}: no certificate in PEM is in it"
    (found,) = check_files(settings)
    assert found.detail == describe(wrong.value)
    assert "bus.tls_ca_file" in found.remedy
