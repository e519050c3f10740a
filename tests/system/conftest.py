"""What every system test can have: a nats-server of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from bus_fixtures import NatsServer


@pytest.fixture
def server(tmp_path: Path) -> Iterator[NatsServer]:
    """A running nats-server without users."""
    server = NatsServer(tmp_path)
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def lab_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Let all labs of a run share one cache of compiled programs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DROPLET_LAB_CACHE", str(tmp_path_factory.mktemp("programs")))
        yield
