"""The configuration file of dropletctl: the settings of an agent, or a file with only `netns` and `[bus]`."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import click
import msgspec

from agent.settings import BusSection, Settings

TOP = {field.encode_name for field in msgspec.structs.fields(Settings)} | {"netns"}
BUS = {field.encode_name for field in msgspec.structs.fields(BusSection)}
USED = "netns, bus.servers, bus.nkey_seed_file and bus.tls_ca_file"


class Misconfigured(click.ClickException):
    """The configuration file cannot be used; the message is one line for people."""

    exit_code = 2


class Configuration(msgspec.Struct, frozen=True):
    """The settings that dropletctl reads from its file; missing ones are empty."""

    servers: tuple[str, ...] = ()
    nkey_seed_file: str = ""
    tls_ca_file: str = ""
    netns: str = ""


def read_configuration(path: Path) -> Configuration:
    """Read a TOML file, or raise Misconfigured with the invalid key and the remedy."""
    try:
        raw = tomllib.loads(path.read_text())
    except FileNotFoundError:
        raise Misconfigured(f"{path}: no such file; --config must name an existing one") from None
    except OSError as error:
        raise Misconfigured(f"{path}: {(error.strerror or str(error)).lower()}") from None
    except ValueError as error:
        raise Misconfigured(f"{path}: {error}") from None
    bus = raw.get("bus", {})
    if not isinstance(bus, dict):
        raise Misconfigured(f"{path}: bus: must be a table, [bus]")
    unknown = sorted(raw.keys() - TOP) + [f"bus.{key}" for key in sorted(bus.keys() - BUS - {"netns"})]
    if unknown:
        raise Misconfigured(f"{path}: {unknown[0]}: unknown setting; dropletctl uses {USED}")
    if "netns" in bus:
        raise Misconfigured(f"{path}: bus.netns: move netns above the first table, [bus]")
    servers = bus.get("servers", [])
    if not isinstance(servers, list) or not all(isinstance(server, str) for server in servers):
        raise Misconfigured(f'{path}: bus.servers: must be a list, as in servers = ["nats://HOST:4222"]')
    return Configuration(
        tuple(servers),
        _text(path, "bus.nkey_seed_file", bus.get("nkey_seed_file", "")),
        _text(path, "bus.tls_ca_file", bus.get("tls_ca_file", "")),
        _text(path, "netns", raw.get("netns", "")),
    )


def _text(path: Path, key: str, value: Any) -> str:
    if not isinstance(value, str):
        raise Misconfigured(f"{path}: {key}: must be a string in quotes")
    return value
