"""The agent's settings: a TOML file, and the environment over it. Every mistake names the key and the way out."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import msgspec

from agent.bus.settings import check_server
from agent.core.features import Family, Features
from agent.core.layout import MAX_LOCAL_DROPLETS
from protocol.subjects import is_host

ENVIRONMENT = "DROPLET_"
LAB = "DROPLET_LAB_"
"""`DROPLET_HOST` sets `host`, `DROPLET_BUS_SERVERS` sets `servers` of `[bus]` (commas between)."""
INTERFACE_NAME = re.compile(r"[^\s/]{1,15}")
"""What the kernel takes (dev_valid_name); `.` and `..` name nothing that exists."""

Seconds = Annotated[float, msgspec.Meta(gt=0, le=86400)]
Size = Annotated[int, msgspec.Meta(ge=1, le=1 << 24)]
Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]
PortOrOff = Annotated[int, msgspec.Meta(ge=0, le=65535)]
Families = Annotated[tuple[Family, ...], msgspec.Meta(min_length=1)]
Interfaces = Annotated[tuple[str, ...], msgspec.Meta(min_length=1, max_length=MAX_LOCAL_DROPLETS)]
LISTS = ("servers", "interfaces", "families", "substrate")
"""Keys that take several values: in the environment with commas between."""


class SettingsError(ValueError):
    """The settings cannot be used; the message is one line for people."""


class BusSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[bus]`: where NATS is, and who this host is there."""

    servers: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)] = ("nats://127.0.0.1:4222",)
    nkey_seed_file: str = ""
    tls_ca_file: str = ""


class LogSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[log]`: `format` is `json` or `human`."""

    format: Literal["json", "human"] = "json"
    level: Literal["debug", "info", "warning", "error"] = "info"


class IntervalSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[interval]`: seconds between heartbeats, looks at the kernel, telemetry, and retries."""

    heartbeat: Seconds = 3.0
    observe: Seconds = 30.0
    telemetry: Seconds = 10.0
    retry: Seconds = 5.0


class SizesSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[sizes]`: the most entries that a map holds."""

    endpoints: Size = 2_000_000
    direct: Size = 65536
    droplets: Size = 65536
    networks: Size = 65536
    vpcs: Size = 65536


class ProbeSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[probe]`: whether and how other droplets are probed.

    `interval` is in seconds, between two probes of one droplet while there are few; so many `misses` in a row take one
    down; `per_second` is the most that is sent, with a quarter beside it for long probes.
    """

    enabled: bool = True
    interval: Seconds = 1.0
    misses: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 3
    per_second: Annotated[float, msgspec.Meta(ge=1, le=100_000)] = 200.0


class DataPlaneSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[data_plane]`: what the programs are compiled for. UDP ports, `vxlan_port` 0 for no VXLAN at all.

    `families` are those inside the overlay, `substrate` those of the droplets' addresses; what a host leaves out costs
    its packets nothing.
    """

    geneve_port: Port = 6081
    vxlan_port: PortOrOff = 4789
    families: Families = ("ipv4", "ipv6")
    substrate: Families = ("ipv4", "ipv6")

    def features(self) -> Features:
        """Return the section as the programs' features, without what the interfaces decide."""
        return Features(self.geneve_port, self.vxlan_port, frozenset(self.families), frozenset(self.substrate))


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All settings of one agent."""

    host: str
    interfaces: Interfaces
    instance: str = ""
    attach_mode: Literal["auto", "native", "generic", "offload"] = "auto"
    state: str = "/var/lib/droplet"
    cache: str = "/var/cache/droplet"
    bpffs: str = "/sys/fs/bpf"
    bus: BusSection = BusSection()
    log: LogSection = LogSection()
    interval: IntervalSection = IntervalSection()
    sizes: SizesSection = SizesSection()
    probe: ProbeSection = ProbeSection()
    data_plane: DataPlaneSection = DataPlaneSection()


def load_settings(file: Path | None, environment: Mapping[str, str] = os.environ) -> Settings:
    """Read the settings, or raise SettingsError."""
    raw: dict[str, Any] = {}
    if file is not None:
        try:
            raw = tomllib.loads(file.read_text())
        except OSError as error:
            raise SettingsError(f"{file}: {error.strerror}") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise SettingsError(f"{file}: {error}") from None
    _refuse_unknown(environment)
    overlaid = _overlay(raw, environment)
    try:
        settings = msgspec.convert(overlaid, Settings, strict=False)
    except msgspec.ValidationError as error:
        raise SettingsError(_in_words(str(error), file, environment)) from None
    _check_data_plane(settings)
    if not is_host(settings.host):
        raise SettingsError(f"host: {settings.host!r} is no host name: use lower-case letters, digits and dashes")
    for server in settings.bus.servers:
        try:
            check_server(server)
        except ValueError as error:
            raise SettingsError(f"bus.servers: {error}") from None
    if not settings.instance:
        settings = msgspec.structs.replace(settings, instance=settings.host)
    if not is_host(settings.instance):
        raise SettingsError(f"instance: {settings.instance!r}: use lower-case letters, digits and dashes")
    return settings


def _check_data_plane(settings: Settings) -> None:
    """Hold what one key alone cannot show against the others."""
    twice = [name for name in settings.interfaces if settings.interfaces.count(name) > 1]
    if twice:
        raise SettingsError(f"interfaces: {twice[0]} is named twice: name each interface once")
    for name in settings.interfaces:
        if not INTERFACE_NAME.fullmatch(name):
            raise SettingsError(f"interfaces: {name!r} is no interface's name: 1 to 15 characters, no space and no /")
    ports = settings.data_plane
    if ports.geneve_port == ports.vxlan_port:
        raise SettingsError(
            f"data_plane.vxlan_port: {ports.vxlan_port} is data_plane.geneve_port too: give each a port of its own, "
            "or switch VXLAN off with 0"
        )


def _overlay(raw: dict[str, Any], environment: Mapping[str, str]) -> dict[str, Any]:
    """Return the file's values with the environment's over them."""
    result = {key: dict(value) if isinstance(value, dict) else value for key, value in raw.items()}
    for field in msgspec.structs.fields(Settings):
        name = ENVIRONMENT + field.encode_name.upper()
        if not (isinstance(field.type, type) and issubclass(field.type, msgspec.Struct)):
            if name in environment:
                result[field.encode_name] = _from_environment(field.encode_name, environment[name])
            continue
        for inner in msgspec.structs.fields(field.type):
            value = environment.get(f"{name}_{inner.encode_name.upper()}")
            if value is not None:
                section = result.setdefault(field.encode_name, {})
                section[inner.encode_name] = _from_environment(inner.encode_name, value)
    return result


def _from_environment(key: str, value: str) -> str | list[str]:
    return [part.strip() for part in value.split(",")] if key in LISTS else value


def _names(settings: type[msgspec.Struct], prefix: str) -> dict[str, Any]:
    """Return the environment's name of every setting, with the setting's type."""
    found: dict[str, Any] = {}
    for field in msgspec.structs.fields(settings):
        name = f"{prefix}{field.encode_name.upper()}"
        if isinstance(field.type, type) and issubclass(field.type, msgspec.Struct):
            found |= _names(field.type, f"{name}_")
        else:
            found[name] = field.type
    return found


def _refuse_unknown(environment: Mapping[str, str]) -> None:
    known = _names(Settings, ENVIRONMENT)
    for name in sorted(environment):
        if name.startswith(ENVIRONMENT) and not name.startswith(LAB) and name not in known:
            raise SettingsError(f"{name} in the environment is no setting: known are {', '.join(known)}")


def _in_words(message: str, file: Path | None, environment: Mapping[str, str]) -> str:
    """Turn msgspec's words into the place of the mistake, what is wrong, and what would be right."""
    text, _, where = message.partition(" - at `$.")
    key = where.rstrip("`")
    missing = re.search(r"missing required field `(\w+)`", text)
    if missing:
        return f"{missing[1]} is needed: give --config FILE with it, or set {ENVIRONMENT}{missing[1].upper()}"
    variable = ENVIRONMENT + key.replace(".", "_").upper()
    place = (
        f"{variable} in the environment: {key}" if variable in environment else f"{file or 'the environment'}: {key}"
    )
    choices = get_args(_names(Settings, ENVIRONMENT).get(variable))
    right = f" (one of {', '.join(map(str, choices))})" if "enum" in text else ""
    return f"{place}: {text}{right}" if key else f"{file or 'the environment'}: {text}"
