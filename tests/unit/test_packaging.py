"""The files that are copied onto a host are right as they are."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import msgspec
import pytest

from agent.datapath.check.machine import CAPABILITIES
from agent.settings import Settings, load_settings

ROOT = Path(__file__).parents[2]
SETTINGS = ROOT / "packaging" / "agent.toml"
UNIT = ROOT / "packaging" / "systemd" / "droplet-agent.service"


def with_defaults_shown(text: str) -> str:
    """Return the file with the values that are commented out written as values."""
    return re.sub(r"(?m)^#(?=\w+ = )", "", text)


def keys(struct: type) -> set[str]:
    return {field.encode_name for field in msgspec.structs.fields(struct)}


def test_the_example_settings_load_and_say_what_they_seem_to():
    settings = load_settings(SETTINGS, {})
    assert (settings.host, settings.instance, settings.interfaces) == ("h1", "h1", ("eth0",))
    assert settings.bus.servers == ("tls://nats.example.net:4222",)


def test_the_values_that_are_commented_out_are_the_defaults(tmp_path):
    shown = tmp_path / "agent.toml"
    shown.write_text(with_defaults_shown(SETTINGS.read_text()))
    assert load_settings(shown, {}) == load_settings(SETTINGS, {})


def test_every_setting_is_in_the_example():
    section, found = "", set()
    for line in with_defaults_shown(SETTINGS.read_text()).splitlines():
        if header := re.match(r"\[(\w+)\]", line):
            section = f"{header[1]}."
        elif key := re.match(r"(\w+) = ", line):
            found.add(section + key[1])
    wanted = set()
    for field in msgspec.structs.fields(Settings):
        if isinstance(field.type, type) and issubclass(field.type, msgspec.Struct):
            wanted |= {f"{field.encode_name}.{key}" for key in keys(field.type)}
        else:
            wanted.add(field.encode_name)
    assert found == wanted


def test_the_unit_grants_exactly_the_capabilities_that_the_agent_asks_for():
    granted = re.search(r"(?m)^CapabilityBoundingSet=(.*)$", UNIT.read_text())
    assert granted is not None
    assert set(granted[1].split()) == set(CAPABILITIES)


def test_the_unit_keeps_the_folders_that_the_settings_name():
    text, settings = UNIT.read_text(), load_settings(SETTINGS, {})
    for key, folder, parent in (("State", settings.state, "/var/lib"), ("Cache", settings.cache, "/var/cache")):
        kept = re.search(rf"(?m)^{key}Directory=(.*)$", text)
        assert kept is not None
        assert folder == f"{parent}/{kept[1]}"


def test_the_unit_gives_the_agent_no_mount_namespace_of_its_own():
    """Any of these would hide namespaces that are made later, or pins from the next agent."""
    wraps = ("ProtectSystem", "ProtectHome", "PrivateTmp", "PrivateDevices", "PrivateMounts", "ProtectKernelTunables")
    assert not [line for line in UNIT.read_text().splitlines() if line.partition("=")[0] in wraps]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_accepts_the_unit(tmp_path):
    """Verified with a program that exists everywhere, since the agent is not installed here."""
    text, count = re.subn(r"(?m)^ExecStart=\S+", f"ExecStart={shutil.which('true')}", UNIT.read_text())
    assert count == 1
    unit = tmp_path / UNIT.name
    unit.write_text(text)
    found = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    assert UNIT.name not in found.stderr, found.stderr
