"""Settings from a file and the environment; a mistake names its key."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from agent.core.model.features import Features
from agent.daemon import kernel_config
from agent.settings import Settings, SettingsError, _wanted, load_settings

LEAST = 'host = "h1"\ninterfaces = ["eth0"]\n'


def load(folder: Path, text: str = LEAST, **environment: str):
    file = folder / "agent.toml"
    file.write_text(text)
    return load_settings(file, environment)


def test_host_and_interface_are_enough(tmp_path: Path) -> None:
    settings = load(tmp_path)
    assert (settings.instance, settings.attach_mode, settings.interval.heartbeat) == ("h1", "auto", 3.0)


def test_the_environment_overrides_the_file(tmp_path: Path) -> None:
    over = {"DROPLET_HOST": "h2", "DROPLET_BUS_SERVERS": "tls://a:1,tls://b:2", "DROPLET_INTERVAL_RETRY": "0.5"}
    settings = load(tmp_path, LEAST + "[interval]\nretry = 9\nobserve = 4\n", **over)
    assert settings.host == settings.instance == "h2"
    assert settings.bus.servers == ("tls://a:1", "tls://b:2")
    assert (settings.interval.retry, settings.interval.observe) == (0.5, 4.0)


def test_the_environment_alone_is_enough() -> None:
    assert load_settings(None, {"DROPLET_HOST": "h1", "DROPLET_INTERFACES": "eth0"}).interfaces == ("eth0",)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "host"),
        ('host = "h1"', "interface"),
        (LEAST + 'color = "red"', "color"),
        (LEAST + "[bus]\nserver = 1", "server"),
        (LEAST + "[bus]\nservers = []", "bus.servers"),
        (LEAST + "[interval]\nretry = 0", "interval.retry"),
        (LEAST + '[bus]\ntrusted_publishers = "UDXU"', "bus.trusted_publishers"),
        (LEAST + '[bus]\ntrusted_publishers = ["UDXU"]', "bus.trusted_publishers: entry 1 is not the public nkey"),
        (LEAST + "[sizes]\nendpoints = -1", "sizes.endpoints"),
        (LEAST + '[log]\nlevel = "loud"', "log.level"),
        (LEAST + 'attach_mode = "maybe"', "attach_mode"),
        ('host = "H.1"\ninterfaces = ["eth0"]', "host"),
        (LEAST + 'instance = "a b"', "instance"),
        ("host = ", "agent.toml"),
        (LEAST + "bus = 3", "bus"),
        ('host = "h1"\ninterface = "eth0"\n', "interface"),
        ('host = "h1"\ninterfaces = []', "interfaces"),
        ('host = "h1"\ninterfaces = ["eth0", "eth1", "eth0"]', "interfaces: eth0 is listed twice"),
        ('host = "h1"\ninterfaces = ["eth0 "]', "interfaces: 'eth0 '"),
        ('host = "h1"\ninterfaces = ["an-interface-too-long"]', "interfaces"),
        (LEAST + "[data_plane]\ngeneve_port = 0", "data_plane.geneve_port"),
        (LEAST + "[data_plane]\ngeneve_port = 65536", "data_plane.geneve_port"),
        (LEAST + "[data_plane]\nvxlan_port = -1", "data_plane.vxlan_port"),
        (LEAST + "[data_plane]\nvxlan_port = 6081", "data_plane.vxlan_port: 6081"),
        (LEAST + "[data_plane]\nfamilies = []", "data_plane.families"),
        (LEAST + '[data_plane]\nunderlay = ["ipv5"]', "data_plane.underlay"),
        (LEAST + '[functions]\naccept = ["binary"]', "functions.accept"),
        (LEAST + '[functions]\naccept = ["file"]', "functions.folder: it is needed"),
        (LEAST + '[functions]\nfolder = "programs"', "functions.folder: 'programs' is not an absolute path"),
        (LEAST + "[functions]\nmax_instructions = 10", "functions.max_instructions"),
        (LEAST + "[data_plane]\nport = 6081", "port"),
    ],
)
def test_an_error_names_its_key(tmp_path: Path, text: str, named: str) -> None:
    with pytest.raises(SettingsError, match=named):
        load(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            'host = "h1"\ninterfaces = []',
            'interfaces: invalid value []; it must be a list of 1 to 16 names, as in ["eth0"]',
        ),
        (
            LEAST + "[interval]\nretry = 0",
            "interval.retry: invalid value 0; it must be seconds, more than 0 and at most 86400",
        ),
        (LEAST + "[sizes]\nvpcs = 1.5", "sizes.vpcs: invalid value 1.5; it must be a whole number from 1 to 16777216"),
        (LEAST + '[probe]\nenabled = "perhaps"', 'probe.enabled: invalid value "perhaps"; it must be true or false'),
        (LEAST + "cache = 3", "cache: invalid value 3; it must be a string in quotes"),
        (LEAST + "bus = 3", "bus: invalid value; it must be a table, [bus]"),
        (LEAST + 'log = "x"', 'log: invalid value "x"; it must be a table, [log]'),
        (LEAST + "[bus]\nserver = []", "bus.server: unknown setting; did you mean bus.servers?"),
        (
            LEAST + "[data_plane]\nsubstrate = []",
            "data_plane.substrate: it was renamed: write data_plane.underlay",
        ),
        (LEAST + f"state = [{', '.join(['1'] * 99)}]", "1, 1, 1,...; it must be a string"),
    ],
)
def test_an_error_names_the_value_and_what_is_expected(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(SettingsError) as wrong:
        load(tmp_path, text)
    assert words in str(wrong.value)
    assert str(wrong.value).startswith(str(tmp_path))


def test_all_errors_are_reported_together_and_each_with_its_place(tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as wrong:
        load(tmp_path, 'interfaces = []\n[log]\nlevel = "loud"\n[data_plane]\ncolour = 1\n', DROPLET_PROBE_MISSES="-1")
    message = str(wrong.value)
    for part in (
        "host is missing",
        "interfaces: invalid value []",
        "log.level: inval",
        "data_plane.colour: unknown setting",
    ):
        assert part in message
    assert 'DROPLET_PROBE_MISSES in the environment: probe.misses: invalid value "-1"' in message
    assert "\n" not in message
    with pytest.raises(SettingsError) as broken:
        load(tmp_path, 'host = "A"\ninterfaces = ["a b", "c", "c"]\n[bus]\nservers = ["http://h"]\n')
    for part in ("host: 'A'", "interfaces: 'a b'", "interfaces: c is listed twice", "bus.servers: 'http://h'"):
        assert part in str(broken.value)


def test_every_setting_has_a_description_of_its_values(tmp_path: Path) -> None:
    for struct in (
        Settings,
        *(field.type for field in msgspec.structs.fields(Settings) if "Section" in str(field.type)),
    ):
        for field in msgspec.structs.fields(struct):
            if "Section" not in str(field.type):
                assert _wanted(field.type)


def test_a_value_in_place_of_a_section_is_an_error_beside_environment_variables(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"log: invalid value 3; it must be a table, \[log\]"):
        load(tmp_path, LEAST + "log = 3\n", DROPLET_LOG_LEVEL="info")


def test_a_password_in_wrong_servers_is_not_shown(tmp_path: Path) -> None:
    for text in ('[bus]\nservers = "nats://me:secret@h"', 'bus = "nats://me:secret@h"'):
        with pytest.raises(SettingsError) as wrong:
            load(tmp_path, f"{LEAST}{text}\n")
        assert "secret" not in str(wrong.value)


def test_a_file_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="No such file"):
        load_settings(tmp_path / "none.toml", {})


def test_a_misspelt_variable_is_refused_and_not_overlooked() -> None:
    with pytest.raises(SettingsError, match="DROPLET_INTREFACE in the environment is not a setting"):
        load_settings(None, {"DROPLET_HOST": "h1", "DROPLET_INTERFACES": "eth0", "DROPLET_INTREFACE": "eth1"})


def test_an_error_in_the_environment_does_not_name_the_file(tmp_path: Path) -> None:
    file = tmp_path / "agent.toml"
    file.write_text('host = "h1"\ninterfaces = ["eth0"]\n')
    with pytest.raises(SettingsError, match=r"^DROPLET_INTERVAL_HEARTBEAT in the environment: "):
        load_settings(file, {"DROPLET_INTERVAL_HEARTBEAT": "soon"})


def test_an_invalid_choice_is_reported_with_the_valid_ones() -> None:
    with pytest.raises(SettingsError, match="one of auto, native, generic, offload"):
        load_settings(None, {"DROPLET_HOST": "h1", "DROPLET_INTERFACES": "eth0", "DROPLET_ATTACH_MODE": "fast"})


def test_the_data_plane_is_what_the_programs_are_compiled_for(tmp_path: Path) -> None:
    text = LEAST + '[data_plane]\ngeneve_port = 7000\nvxlan_port = 0\nfamilies = ["ipv4"]\n'
    found = load(tmp_path, text, DROPLET_DATA_PLANE_UNDERLAY="ipv6").data_plane.features()
    assert found == Features(7000, 0, frozenset({"ipv4"}), frozenset({"ipv6"}))


def test_several_values_in_the_environment_have_commas_between_them() -> None:
    environment = {"DROPLET_HOST": "h1", "DROPLET_INTERFACES": "eth0, eth1", "DROPLET_DATA_PLANE_FAMILIES": "ipv4,ipv6"}
    settings = load_settings(None, environment)
    assert (settings.interfaces, settings.data_plane.families) == (("eth0", "eth1"), ("ipv4", "ipv6"))


def test_next_hops_has_a_place_for_each_droplet_on_each_interface(tmp_path: Path) -> None:
    """`next_hops` is keyed by both."""
    settings = load(tmp_path, 'host = "h1"\ninterfaces = ["eth0", "eth1", "eth2"]\n[sizes]\ndroplets = 100\n')
    sizes = kernel_config(settings).sizes
    assert (sizes.droplets, sizes.next_hops) == (100, 300)


def test_functions_are_compiled_in_where_any_form_of_program_is_accepted(tmp_path: Path) -> None:
    assert not kernel_config(load(tmp_path)).features.functions
    found = load(tmp_path, LEAST, DROPLET_FUNCTIONS_ACCEPT="source,object", DROPLET_FUNCTIONS_HOST_WIDE="operator.*")
    assert kernel_config(found).features.functions
    rules = found.functions.rules()
    assert (rules.accept, rules.host_wide) == ({"source", "object"}, ("operator.*",))
