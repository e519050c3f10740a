"""Checks that the bus is usable with the settings: the files exist, a server accepts the login, the consumer works.

Only the consumer's configuration is read. It is not reset or pulled from, so a running agent is not disturbed.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import nkeys
from nats.errors import Error as NatsError

from agent.bus.connection.client import Connection, connect
from agent.bus.connection.errors import describe
from agent.bus.connection.faults import permission_violation
from agent.bus.connection.jetstream import ConsumerInfo, parse_consumer_info
from agent.bus.connection.settings import BusSettings, shown, tls_context
from agent.bus.consumer.faults import (
    consumer_missing,
    consumer_paused,
    consumer_unusable,
    documents_waiting,
    unusable_settings,
)
from protocol import permissions, streams
from protocol.status import Fault

INFO_TIMEOUT = 2.0

OLDEST = (2, 14)
"""The oldest nats-server that can reset a consumer."""


class BusCheck(NamedTuple):
    """One result: whether it is `ok`, what was found, and what to do if it is not ok."""

    name: str
    ok: bool
    detail: str
    remedy: str = ""


def check_files(settings: BusSettings) -> list[BusCheck]:
    """Read the nkey seed and the CA, if the settings name them."""
    found = []
    if settings.nkey_seed_file:
        found.append(_check_file("nkey seed", "bus.nkey_seed_file", settings.nkey_seed_file, _read_seed))
    if settings.tls_ca_file:
        found.append(_check_file("tls ca", "bus.tls_ca_file", settings.tls_ca_file, lambda _: tls_context(settings)))
    return found


def _read_seed(file: str) -> None:
    nkeys.from_seed(bytearray(Path(file).read_bytes().strip())).wipe()


def _check_file(name: str, key: str, file: str, read: Callable[[str], object]) -> BusCheck:
    try:
        read(file)
    except FileNotFoundError:
        return BusCheck(name, False, f"no such file: {file}", f"put it there, or correct {key} in the settings")
    except Exception as error:
        words = describe(error)
        detail = words if file in words else f"{file}: {words}"
        return BusCheck(name, False, detail, f"replace the file by the right one, or correct {key} in the settings")
    return BusCheck(name, True, file)


async def check_servers(host: str, settings: BusSettings) -> list[BusCheck]:
    """Connect to each server in turn, as the agent would, and check this host's consumer."""
    return [await _check_server(host, server, settings) for server in settings.servers]


async def _check_server(host: str, server: str, settings: BusSettings) -> BusCheck:
    errors: list[str] = []

    async def keep(error: Exception) -> None:
        errors.append(str(error))

    try:
        connection = await connect(
            server, settings, name=f"droplet-agent {host}", inbox_prefix=permissions.inbox(host), on_error=keep
        )
    except Exception as error:
        remedy = (
            "start the server, let TCP to its port through packet filters, or correct [bus] in the settings; "
            "an agent goes on trying"
        )
        return BusCheck("bus", False, f"{shown(server)}: {describe(error)}", remedy)
    try:
        version = connection.connected_server_version
        found = f"{shown(server)}, nats-server {version.major}.{version.minor}.{version.patch}"
        if (version.major, version.minor) < OLDEST:
            return BusCheck("bus", False, found, f"install {OLDEST[0]}.{OLDEST[1]} or newer: it resets consumers")
        return await _check_consumer(host, found, connection, errors)
    finally:
        await connection.close()


async def _check_consumer(host: str, found: str, connection: Connection, errors: list[str]) -> BusCheck:
    """Check the host's consumer and whether it delivers. `errors` are those that the server reports meanwhile."""
    name = f"consumer {host} of stream {streams.CONFIG_STREAM}"
    try:
        info = parse_consumer_info((await connection.request(streams.info_subject(host), timeout=INFO_TIMEOUT)).data)
    except (NatsError, TimeoutError):
        fault = next(filter(None, (permission_violation(host, error) for error in errors)), None)
        fault = fault or consumer_missing(host, "the server does not answer for it: has it JetStream?")
    else:
        fault = _consumer_fault(host, info)
    if fault is not None:
        return BusCheck("bus", False, f"{found}; {name}: {fault.detail}", fault.remedy)
    waiting = f", {info.num_pending} documents to deliver" if info.num_pending else ""
    return BusCheck("bus", True, f"{found}; {name}{waiting}")


def _consumer_fault(host: str, info: ConsumerInfo) -> Fault | None:
    """Return why a consumer delivers no documents, None if it does."""
    if info.error is not None:
        return consumer_missing(host, info.error.description)
    if reasons := unusable_settings(info, host):
        return consumer_unusable(host, reasons)
    if not info.paused:
        return None
    if info.num_pending:
        return documents_waiting(host, info.num_pending, info.config.pause_until, in_snapshot=True)
    return consumer_paused(host, info.config.pause_until)
