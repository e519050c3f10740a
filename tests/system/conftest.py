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
