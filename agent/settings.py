"""The agent's settings: a TOML file, overridden by the environment. All errors are reported, with key and remedy."""

from __future__ import annotations

import difflib
import json
import os
import re
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin

import msgspec

from agent.bus.connection.settings import check_server
from agent.core.model.features import Family, Features, FunctionRules
from agent.core.model.map_layout import MAX_LOCAL_DROPLETS
from protocol import binding
from protocol.subjects import is_host

ENVIRONMENT = "DROPLET_"
LAB = "DROPLET_LAB_"
"""`DROPLET_HOST` sets `host`, `DROPLET_BUS_SERVERS` sets `servers` of `[bus]` (comma-separated)."""
INTERFACE_NAME = re.compile(r"[^\s/]{1,15}")
"""The names that the kernel accepts (dev_valid_name), and `.` and `..`, which no interface has."""

Seconds = Annotated[float, msgspec.Meta(gt=0, le=86400, description="seconds, more than 0 and at most 86400")]
Size = Annotated[int, msgspec.Meta(ge=1, le=1 << 24, description=f"a whole number from 1 to {1 << 24}")]
Port = Annotated[int, msgspec.Meta(ge=1, le=65535, description="a port from 1 to 65535")]
PortOrOff = Annotated[int, msgspec.Meta(ge=0, le=65535, description="a port from 1 to 65535, or 0 to disable it")]
Misses = Annotated[int, msgspec.Meta(ge=1, le=1000, description="a whole number from 1 to 1000")]
Rate = Annotated[float, msgspec.Meta(ge=1, le=100_000, description="a number from 1 to 100000")]
Families = Annotated[tuple[Family, ...], msgspec.Meta(min_length=1, description='a list of "ipv4", "ipv6" or both')]
Interfaces = Annotated[
    tuple[str, ...],
    msgspec.Meta(
        min_length=1,
        max_length=MAX_LOCAL_DROPLETS,
        description=f'a list of 1 to {MAX_LOCAL_DROPLETS} names, as in ["eth0"]',
    ),
]
Servers = Annotated[
    tuple[str, ...],
    msgspec.Meta(min_length=1, description='a list of one server or more, as in ["tls://HOST:4222"]'),
]
Publishers = Annotated[
    tuple[str, ...],
    msgspec.Meta(description='a list of public nkeys, as in ["UDXU4RCS..."]; empty to accept unsigned documents'),
]
Forms = Annotated[
    tuple[Literal["source", "object", "file", "process"], ...],
    msgspec.Meta(description='a list of some of "source", "object", "file" and "process"; empty to disable functions'),
]
Patterns = Annotated[
    tuple[str, ...],
    msgspec.Meta(description='a list of names of documents, as in ["operator.*"]; * stands for any text'),
]
Instructions = Annotated[int, msgspec.Meta(ge=1024, le=1_000_000, description="a whole number from 1024 to 1000000")]
SlotsOfVpc = Annotated[int, msgspec.Meta(ge=1, le=8, description="a whole number from 1 to 8")]
MapBytes = Annotated[int, msgspec.Meta(ge=0, le=1 << 40, description="a number of bytes, up to 1 TiB")]
Hang = Annotated[float, msgspec.Meta(ge=0.1, le=60, description="a number of seconds from 0.1 to 60")]
LISTS = ("servers", "trusted_publishers", "interfaces", "families", "underlay", "accept", "host_wide")
"""Settings that are lists; in the environment, their values are separated by commas."""
LONGEST_GIVEN = 60
RENAMED = {"data_plane.substrate": "data_plane.underlay", "interface": "interfaces"}
"""Keys of earlier versions, with today's."""


class SettingsError(ValueError):
    """The settings cannot be used; the message is one line for people."""


class BusSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[bus]`: the NATS servers, this host's credentials, and the trusted publishers.

    With `trusted_publishers`, public nkeys, documents must be signed by one of them.
    """

    servers: Servers = ("nats://127.0.0.1:4222",)
    nkey_seed_file: str = ""
    tls_ca_file: str = ""
    trusted_publishers: Publishers = ()


class LogSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[log]`: `format` is `json` or `human`."""

    format: Literal["json", "human"] = "json"
    level: Literal["debug", "info", "warning", "error"] = "info"


class IntervalSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[interval]`: seconds between heartbeats, resyncs (`observe`), telemetry messages, and retries."""

    heartbeat: Seconds = 3.0
    observe: Seconds = 30.0
    telemetry: Seconds = 10.0
    retry: Seconds = 5.0


class SizesSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[sizes]`: the maximum number of entries of each map."""

    endpoints: Size = 2_000_000
    direct: Size = 65536
    droplets: Size = 65536
    networks: Size = 65536
    vpcs: Size = 65536


class ProbeSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[probe]`: whether and how other hosts' droplets are probed.

    `interval`: seconds between two probes of one droplet, if `per_second` allows it. `misses`: unanswered probes in a
    row after which a droplet is down. `per_second`: limit of small probes; a quarter of it is added for long ones.
    """

    enabled: bool = True
    interval: Seconds = 1.0
    misses: Misses = 3
    per_second: Rate = 200.0


class DataPlaneSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[data_plane]`: the features that the programs are compiled with; `vxlan_port` 0 disables VXLAN.

    `families` are the address families of the overlay, `underlay` those of the droplets' addresses. Features that are
    off cost nothing per packet.
    """

    geneve_port: Port = 6081
    vxlan_port: PortOrOff = 4789
    families: Families = ("ipv4", "ipv6")
    underlay: Families = ("ipv4", "ipv6")

    def features(self) -> Features:
        """Return the section as the programs' features, except those that depend on the interfaces."""
        return Features(self.geneve_port, self.vxlan_port, frozenset(self.families), frozenset(self.underlay))


class FunctionsSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[functions]`: which users' functions run at the stage points; with `accept` empty, none, which costs nothing.

    `accept` are the forms of programs: `source` and `object` in documents, `file` by name from `folder`, which nobody
    but root may be able to write. Functions of documents whose names match `host_wide` need not name a VPC.
    `max_instructions` limits how many the kernel's verifier processes of one function, which bounds its time.
    Functions in processes ask for their packets at Unix sockets in the folder `sockets`; one that takes no packet for
    `hang` seconds is taken out of the path until it does.

    Of each VPC, functions take at most `vpc_slots` of the eight slots at a point, and their maps `vpc_map_bytes` when
    they are full; the maps of all functions of the host take at most `map_bytes`.
    """

    accept: Forms = ()
    folder: str = ""
    host_wide: Patterns = ()
    max_instructions: Instructions = 32768
    sockets: str = "/run/droplet/functions"
    hang: Hang = 1.0
    vpc_slots: SlotsOfVpc = 4
    vpc_map_bytes: MapBytes = 256 << 20
    map_bytes: MapBytes = 1 << 30

    def rules(self) -> FunctionRules:
        """Return what documents are validated by."""
        limits = self.vpc_slots, self.vpc_map_bytes, self.map_bytes
        return FunctionRules(frozenset(self.accept), self.host_wide, *limits)


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All settings of one agent."""

    host: str
    interfaces: Interfaces
    instance: str = ""
    attach_mode: Literal["auto", "native", "generic", "offload"] = "auto"
    endpoint_hook: Literal["auto", "tc", "xdp"] = "auto"
    uplink_hook: Literal["auto", "xdp", "tc"] = "auto"
    count_lost_frames: bool = True
    state: str = "/var/lib/droplet"
    cache: str = "/var/cache/droplet"
    bpffs: str = "/sys/fs/bpf"
    bus: BusSection = BusSection()
    log: LogSection = LogSection()
    interval: IntervalSection = IntervalSection()
    sizes: SizesSection = SizesSection()
    probe: ProbeSection = ProbeSection()
    data_plane: DataPlaneSection = DataPlaneSection()
    functions: FunctionsSection = FunctionsSection()

    def features(self) -> Features:
        """Return the features that the programs are compiled with, except those that depend on the interfaces."""
        return replace(self.data_plane.features(), functions=bool(self.functions.accept))


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
    if wrong := list(_mistakes(overlaid, Settings)):
        raise SettingsError("; ".join(_place(one, file, environment) for one in wrong))
    settings = msgspec.convert(overlaid, Settings, strict=False)
    settings = msgspec.structs.replace(settings, instance=settings.instance or settings.host)
    if broken := list(_broken_rules(settings)):
        raise SettingsError("; ".join(_place(one, file, environment) for one in broken))
    return settings


class _Mistake(NamedTuple):
    """An invalid key with its sections, and the error."""

    key: str
    words: str
    missing: bool = False


def _mistakes(raw: Mapping[str, Any], struct: type[msgspec.Struct], section: str = "") -> Iterator[_Mistake]:
    """Yield every key that is unknown or missing, or whose value has the wrong type or range."""
    fields = {field.encode_name: field for field in msgspec.structs.fields(struct)}
    for name in sorted(raw.keys() - fields.keys()):
        yield _Mistake(f"{section}{name}", _unknown(f"{section}{name}", [f"{section}{known}" for known in fields]))
    for name, field in fields.items():
        key = f"{section}{name}"
        if name not in raw:
            if field.required:
                yield _Mistake(key, "", missing=True)
        elif _is_section(field.type):
            if isinstance(raw[name], dict):
                yield from _mistakes(raw[name], field.type, f"{key}.")
            else:
                yield _Mistake(key, f"{_given(key, raw[name])}; it must be a table, [{key}]")
        else:
            try:
                msgspec.convert(raw[name], field.type, strict=False)
            except msgspec.ValidationError:
                yield _Mistake(key, f"{_given(key, raw[name])}; it must be {_wanted(field.type)}")


def _unknown(key: str, known: Iterable[str]) -> str:
    """Return the error about an unknown key, with the key that was meant if that can be guessed."""
    if key in RENAMED:
        return f"it was renamed: write {RENAMED[key]}"
    near = difflib.get_close_matches(key, known, 1)
    return "unknown setting" + (f"; did you mean {near[0]}?" if near else "")


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


def _given(key: str, value: Any) -> str:
    """Return an invalid value, except those of the bus: their URLs may contain passwords."""
    if key.startswith("bus"):
        return "invalid value"
    text = json.dumps(value, ensure_ascii=False, default=str)
    return f"invalid value {text if len(text) <= LONGEST_GIVEN else text[:LONGEST_GIVEN] + '...'}"


def _wanted(kind: Any) -> str:
    """Return in words which values a setting accepts."""
    if get_origin(kind) is Literal:
        return f"one of {', '.join(get_args(kind))}"
    description = next((one.description for one in get_args(kind)[1:] if isinstance(one, msgspec.Meta)), None)
    return description or {bool: "true or false", str: "a string in quotes"}[kind]


def _place(mistake: _Mistake, file: Path | None, environment: Mapping[str, str]) -> str:
    """Return an error with the place of the invalid value."""
    variable = ENVIRONMENT + mistake.key.replace(".", "_").upper()
    if mistake.missing:
        return f"{mistake.key} is missing: set it in the file that --config names, or in {variable}"
    where = f"{variable} in the environment" if variable in environment else file or "the environment"
    return f"{where}: {mistake.key}: {mistake.words}"


def _broken_rules(settings: Settings) -> Iterator[_Mistake]:
    """Yield violations of rules that types cannot express or that concern several keys."""
    for key, name in (("host", settings.host), ("instance", settings.instance)):
        if not is_host(name) and (key == "host" or name != settings.host):
            yield _Mistake(key, f"{name!r} is not a host name: use lower-case letters, digits and dashes")
    for name, times in Counter(settings.interfaces).items():
        if times > 1:
            yield _Mistake("interfaces", f"{name} is listed twice: list each interface once")
        if not INTERFACE_NAME.fullmatch(name):
            yield _Mistake("interfaces", f"{name!r} is not an interface name: use 1 to 15 characters, no space or /")
    yield from _broken_bus(settings.bus)
    ports = settings.data_plane
    if ports.geneve_port == ports.vxlan_port:
        words = f"{ports.vxlan_port} is also data_plane.geneve_port: use two different ports, or disable VXLAN with 0"
        yield _Mistake("data_plane.vxlan_port", words)
    yield from _broken_functions(settings.functions)


def _broken_functions(section: FunctionsSection) -> Iterator[_Mistake]:
    if "file" in section.accept and not section.folder:
        yield _Mistake("functions.folder", 'it is needed with "file" in functions.accept: name a folder')
    if section.folder and not section.folder.startswith("/"):
        yield _Mistake("functions.folder", f"{section.folder!r} is not an absolute path")
    if not section.sockets.startswith("/"):
        yield _Mistake("functions.sockets", f"{section.sockets!r} is not an absolute path")


def _broken_bus(bus: BusSection) -> Iterator[_Mistake]:
    for server in bus.servers:
        try:
            check_server(server)
        except ValueError as error:
            yield _Mistake("bus.servers", str(error))
    for number, publisher in enumerate(bus.trusted_publishers):
        try:
            binding.public_key(publisher)
        except ValueError as error:
            yield _Mistake("bus.trusted_publishers", f"entry {number + 1} is {error}")


def _overlay(raw: dict[str, Any], environment: Mapping[str, str]) -> dict[str, Any]:
    """Return the file's values, overridden by the environment's."""
    result = {key: dict(value) if isinstance(value, dict) else value for key, value in raw.items()}
    for field in msgspec.structs.fields(Settings):
        name = ENVIRONMENT + field.encode_name.upper()
        if not _is_section(field.type):
            if name in environment:
                result[field.encode_name] = _from_environment(field.encode_name, environment[name])
            continue
        for inner in msgspec.structs.fields(field.type):
            value = environment.get(f"{name}_{inner.encode_name.upper()}")
            if value is not None:
                section = result.setdefault(field.encode_name, {})
                if isinstance(section, dict):
                    section[inner.encode_name] = _from_environment(inner.encode_name, value)
    return result


def _from_environment(key: str, value: str) -> str | list[str]:
    return [part.strip() for part in value.split(",")] if key in LISTS else value


def _names(settings: type[msgspec.Struct], prefix: str) -> dict[str, Any]:
    """Return the environment variable of every setting, with the setting's type."""
    found: dict[str, Any] = {}
    for field in msgspec.structs.fields(settings):
        name = f"{prefix}{field.encode_name.upper()}"
        if _is_section(field.type):
            found |= _names(field.type, f"{name}_")
        else:
            found[name] = field.type
    return found


def _refuse_unknown(environment: Mapping[str, str]) -> None:
    known = _names(Settings, ENVIRONMENT)
    for name in sorted(environment):
        if name.startswith(ENVIRONMENT) and not name.startswith(LAB) and name not in known:
            raise SettingsError(f"{name} in the environment is not a setting; the settings are {', '.join(known)}")
