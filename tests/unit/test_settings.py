"""Settings from a file and the environment; a mistake names its key."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.settings import SettingsError, load_settings

LEAST = 'host = "h1"\ninterfaces = ["eth0"]\n'


def load(folder: Path, text: str = LEAST, **environment: str):
    file = folder / "agent.toml"
    file.write_text(text)
    return load_settings(file, environment)


def test_host_and_interface_are_enough(tmp_path: Path) -> None:
    settings = load(tmp_path)
    assert (settings.instance, settings.attach_mode, settings.interval.heartbeat) == ("h1", "auto", 3.0)


def test_the_environment_stands_over_the_file(tmp_path: Path) -> None:
    over = {"DROPLET_HOST": "h2", "DROPLET_BUS_SERVERS": "tls://a:1,tls://b:2", "DROPLET_INTERVAL_RETRY": "0.5"}
    settings = load(tmp_path, LEAST + "[interval]\nretry = 9\nobserve = 4\n", **over)
    assert settings.host == settings.instance == "h2"
    assert settings.bus.servers == ("tls://a:1", "tls://b:2")
    assert (settings.interval.retry, settings.interval.observe) == (0.5, 4.0)


def test_the_environment_alone_is_enough() -> None:
    assert load_settings(None, {"DROPLET_HOST": "h1", "DROPLET_INTERFACES": "eth0"}).interface == "eth0"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "host"),
        ('host = "h1"', "interface"),
        (LEAST + 'color = "red"', "color"),
        (LEAST + "[bus]\nserver = 1", "server"),
        (LEAST + "[bus]\nservers = []", "bus.servers"),
        (LEAST + "[interval]\nretry = 0", "interval.retry"),
        (LEAST + "[sizes]\nendpoints = -1", "sizes.endpoints"),
        (LEAST + '[log]\nlevel = "loud"', "log.level"),
        (LEAST + 'attach_mode = "maybe"', "attach_mode"),
        ('host = "H.1"\ninterfaces = ["eth0"]', "host"),
        (LEAST + 'instance = "a b"', "instance"),
        ("host = ", "agent.toml"),
        (LEAST + "bus = 3", "bus"),
    ],
)
def test_a_mistake_names_its_key(tmp_path: Path, text: str, named: str) -> None:
    with pytest.raises(SettingsError, match=named):
        load(tmp_path, text)


def test_a_file_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="No such file"):
        load_settings(tmp_path / "none.toml", {})


def test_a_misspelt_variable_is_refused_and_not_overlooked() -> None:
    with pytest.raises(SettingsError, match="DROPLET_INTREFACE in the environment is no setting"):
        load_settings(None, {"DROPLET_HOST": "h1", "DROPLET_INTERFACES": "eth0", "DROPLET_INTREFACE": "eth1"})


def test_a_mistake_in_the_environment_is_not_told_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "agent.toml"
    file.write_text('host = "h1"\ninterfaces = ["eth0"]\n')
    with pytest.raises(SettingsError, match=r"^DROPLET_INTERVAL_HEARTBEAT in the environment: "):
        load_settings(file, {"DROPLET_INTERVAL_HEARTBEAT": "soon"})


def test_a_wrong_choice_is_told_with_the_right_ones() -> None:
    with pytest.raises(SettingsError, match="one of auto, native, generic"):
        load_settings(None, {"DROPLET_HOST": "h1", "DROPLET_INTERFACES": "eth0", "DROPLET_ATTACH_MODE": "fast"})
