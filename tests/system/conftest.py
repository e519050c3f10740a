"""What every system test can have: a nats-server of its own, open or with users."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from lab.bus import NatsServer, User, guarded_server, keep_log_lines, make_users


@pytest.fixture(autouse=True)
def log_lines() -> Iterator[None]:
    with keep_log_lines():
        yield


@pytest.fixture
def server(tmp_path: Path) -> Iterator[NatsServer]:
    """A running nats-server without users."""
    server = NatsServer(tmp_path)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def users(tmp_path: Path) -> dict[str, User]:
    """Users by name; `stranger` is one that no server knows."""
    return make_users(tmp_path)


@pytest.fixture
def guarded(tmp_path: Path, users: dict[str, User]) -> Iterator[NatsServer]:
    """A running nats-server that gives each of its users what `protocol.permissions` says."""
    server = guarded_server(tmp_path, users)
    server.start()
    yield server
    server.stop()
