"""Whether the bus can be used as the settings say: the files that it needs, and a server that lets us in."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import nkeys

from agent.bus.client import connect
from agent.bus.reasons import describe
from agent.bus.settings import BusSettings, shown, tls_context
from protocol import permissions

OLDEST = (2, 14)
"""The nats-server from which on a consumer can be reset."""


class BusCheck(NamedTuple):
    """One answer: `ok`, what was found, and what to do where it is not ok."""

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
        return BusCheck(name, False, f"no such file: {file}", f"put it there, or mend {key} in the settings")
    except Exception as error:
        words = describe(error)
        detail = words if file in words else f"{file}: {words}"
        return BusCheck(name, False, detail, f"replace the file by the right one, or mend {key} in the settings")
    return BusCheck(name, True, file)


async def check_servers(host: str, settings: BusSettings) -> list[BusCheck]:
    """Connect to each server in turn, as the agent would."""
    return [await _check_server(host, server, settings) for server in settings.servers]


async def _check_server(host: str, server: str, settings: BusSettings) -> BusCheck:
    async def ignore(_: Exception) -> None:
        await asyncio.sleep(0)

    try:
        connection = await connect(
            server, settings, name=f"droplet-agent {host}", inbox_prefix=permissions.inbox(host), on_error=ignore
        )
    except Exception as error:
        remedy = "start it, or mend [bus] in the settings; an agent goes on trying"
        return BusCheck("bus", False, f"{shown(server)}: {describe(error)}", remedy)
    version = connection.connected_server_version
    await connection.close()
    found = f"{shown(server)}, nats-server {version.major}.{version.minor}.{version.patch}"
    if (version.major, version.minor) < OLDEST:
        return BusCheck("bus", False, found, f"install {OLDEST[0]}.{OLDEST[1]} or newer: it resets consumers")
    return BusCheck("bus", True, found)
