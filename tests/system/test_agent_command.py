"""`droplet-agent` as an operator runs it: checking, refusing, planning without doing, and leaving nothing behind."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab.bare_host import bare_host
from lab.fixtures import SystemLab, running_lab, topology_text
from lab.traffic import pings
from lab.waiting import PATIENCE

from agent.datapath.bpf import syscall as bpf
from controller_sim.lab.namespaces import entered, run_in

PROGRAM = str(Path(sys.executable).parent / "droplet-agent")
INSTANCE = f"command-{os.getpid()}"
OK, FAILURE, USAGE, REFUSED = 0, 1, 2, 3


@pytest.fixture(scope="module")
def lab(lab_cache: None) -> Iterator[SystemLab]:
    with running_lab("command", topology_text("bouncer_on_host")) as lab:
        yield lab


@pytest.fixture(scope="module")
def host() -> Iterator[str]:
    """A host that no agent was on: a namespace with one interface and an address."""
    with bare_host(f"{INSTANCE}-host", "192.0.2.1/24") as name:
        yield name


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    """Sound settings of a host of its own."""
    file = tmp_path / "agent.toml"
    file.write_text(
        f'host = "h1"\ninstance = "{INSTANCE}"\ninterfaces = ["eth0"]\n'
        f'state = "{tmp_path}/state"\ncache = "{tmp_path}/cache"\n'
    )
    return file


def run(
    namespace: str, file: Path, *arguments: str, before: tuple[str, ...] = (), **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        entered(namespace, [*before, PROGRAM, "--config", str(file), *arguments]),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env={**{k: v for k, v in os.environ.items() if not k.startswith("DROPLET_")}, **environment},
    )


def pins() -> list[Path]:
    return list(Path("/sys/fs/bpf/droplet").glob(f"{INSTANCE}*"))


def shown(namespace: str) -> str:
    """Return all links with their programs, and all IPv4 addresses, routes and neighbours, as text."""
    what = (["link"], ["-4", "address"], ["-4", "route"], ["-4", "neigh"])
    return "".join(run_in(namespace, ["ip", "-d", *one]).stdout for one in what)


def test_a_fit_host_passes_the_check_and_is_not_changed(host, settings, tmp_path):
    before = shown(host)
    done = run(host, settings, "--check")
    assert done.returncode == OK, done.stdout + done.stderr
    (printed,) = [line for line in done.stdout.splitlines() if not line.startswith(("ok ", "        "))]
    assert printed.startswith("warning bus: "), "no server runs here; in a lab it does"
    for name in ("capabilities", "kernel", "bpf", "compiler", "interface", "xdp"):
        assert name in done.stdout
    assert shown(host) == before
    assert pins() == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["agent.toml"]


def test_an_interface_that_is_not_there_is_refused_with_a_remedy(host, settings):
    settings.write_text(settings.read_text().replace('"eth0"', '"eth9"'))
    for arguments in (["--check"], [], ["--dry-run"]):
        done = run(host, settings, *arguments)
        assert done.returncode == REFUSED
        assert "eth9 does not exist" in done.stdout + done.stderr
        assert "set `interfaces`" in done.stdout + done.stderr
    assert pins() == []


def test_an_interface_without_an_address_is_refused(host, settings):
    settings.write_text(settings.read_text().replace('"eth0"', '"wire"'))
    done = run(host, settings, "--check")
    assert done.returncode == REFUSED
    assert "wire has no address" in done.stdout


def test_an_interface_with_someone_elses_program_is_refused(host, settings, tmp_path):
    passing = bytes.fromhex("b7000000020000009500000000000000")  # r0 = XDP_PASS; exit
    descriptor = bpf.load_program(passing, name="foreign")
    pin = Path(f"/sys/fs/bpf/{INSTANCE}-foreign")
    try:
        bpf.pin(descriptor, pin)
        assert run_in(host, ["ip", "link", "set", "dev", "wire", "xdpgeneric", "pinned", str(pin)]).returncode == 0
        subprocess.run(["ip", "-n", host, "address", "add", "192.0.2.9/24", "dev", "wire"], check=True)
        settings.write_text(settings.read_text().replace('"eth0"', '"wire"'))
        done = run(host, settings, "--check")
        assert done.returncode == OK, "a veth's program runs at tc, behind the other one"
        settings.write_text(f'uplink_hook = "xdp"\n{settings.read_text()}')
        done = run(host, settings, "--check")
        assert done.returncode == REFUSED
        assert "another owner's XDP program foreign (id " in done.stdout
        assert "is attached to wire" in done.stdout
        assert f"process {os.getpid()} (" in done.stdout, "which has it open"
        assert run(host, settings, "--uninstall").returncode == OK
        assert "xdpgeneric" in run_in(host, ["ip", "link", "show", "wire"]).stdout, "it is left alone"
    finally:
        os.close(descriptor)
        pin.unlink(missing_ok=True)
        run_in(host, ["ip", "link", "set", "dev", "wire", "xdpgeneric", "off"])
        run_in(host, ["ip", "address", "flush", "dev", "wire"])


@pytest.mark.parametrize("capability", ["net_admin", "sys_admin"])
def test_a_missing_capability_is_refused_by_its_name(host, settings, capability):
    for arguments in (["--check"], []):
        done = run(host, settings, *arguments, before=("setpriv", "--bounding-set", f"-{capability}"))
        assert done.returncode == REFUSED, done.stdout + done.stderr
        assert f"CAP_{capability.upper()}" in done.stdout + done.stderr
        assert "Traceback" not in done.stderr
    assert pins() == []


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ('colour = "blue"', "colour"),
        ('[bus]\nserver = "tls://h:1"', "server"),
        ("[bus]\nservers = []", "bus.servers"),
        ('[bus]\nservers = ["http://h:1"]', "http://h:1"),
        ("[interval]\nobserve = 0", "interval.observe"),
        ('[interval]\nheartbeat = "often"', "interval.heartbeat"),
        ("[sizes]\nendpoints = 100000000", "sizes.endpoints"),
        ('attach_mode = "fast"', "attach_mode"),
        ('[log]\nformat = "xml"', "log.format"),
        ("[log", "line"),
    ],
)
def test_wrong_settings_name_the_key(host, settings, line, key):
    settings.write_text(f"{settings.read_text()}{line}\n")
    done = run(host, settings)
    assert done.returncode == USAGE, done.stdout + done.stderr
    assert key in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_missing_settings_and_files_are_named(host, settings, tmp_path):
    done = run(host, tmp_path / "nothing.toml")
    assert done.returncode == USAGE
    assert "nothing.toml" in done.stderr
    settings.write_text('host = "h1"\n')
    done = run(host, settings, "--check")
    assert done.returncode == USAGE
    assert "interface" in done.stderr
    settings.write_text('host = "H 1"\ninterfaces = ["eth0"]\n')
    done = run(host, settings, "--check")
    assert done.returncode == USAGE
    assert "host" in done.stderr


def test_the_environment_takes_precedence_over_the_file(host, settings):
    done = run(host, settings, "--check", DROPLET_INTERFACES="eth8")
    assert done.returncode == REFUSED
    assert "eth8 does not exist" in done.stdout
    done = run(host, settings, "--check", DROPLET_INTERVAL_OBSERVE="never")
    assert done.returncode == USAGE
    assert "interval.observe" in done.stderr


def test_options_that_cannot_be_combined_are_refused(host, settings):
    assert run(host, settings, "--check", "--dry-run").returncode == USAGE
    assert run(host, settings, "--no-such-option").returncode == USAGE


def test_a_dry_run_on_a_fresh_host_changes_nothing(host, settings, lab_cache):
    before = shown(host)
    done = run(host, settings, "--dry-run", DROPLET_CACHE=str(lab_cache))
    assert done.returncode == OK, done.stderr
    assert "nothing was changed" in done.stdout
    assert shown(host) == before
    assert pins() == []


def test_a_dry_run_prints_what_a_start_would_repair_and_repairs_nothing(lab):
    settings = lab.lab.paths.settings("h1")
    namespace = lab.names.droplet("h1")
    lab.kill_agent("h1")
    try:
        assert "0 actions" in run(namespace, settings, "--dry-run").stdout
        gone = next(iter(lab.entries("h1", "endpoints")))
        with lab.map("h1", "endpoints") as descriptor:
            bpf.delete(descriptor, gone)
        lab.ip(namespace, "link", "set", "dev", "eth0", "xdp", "off")
        before = lab.made("h1"), lab.entries("h1", "endpoints")
        done = run(namespace, settings, "--dry-run")
        assert done.returncode == OK, done.stderr
        assert "write 1 entry of map endpoints" in done.stdout
        assert "attach transit XDP" in done.stdout
        assert (lab.made("h1"), lab.entries("h1", "endpoints")) == before
    finally:
        lab.restart_agent("h1")
    assert gone in lab.entries("h1", "endpoints")
    assert pings(lab, "web-1", "web-2")


def test_a_second_agent_on_the_same_documents_is_refused(lab):
    done = run(lab.names.droplet("h1"), lab.lab.paths.settings("h1"))
    assert done.returncode == FAILURE
    assert "another agent uses it" in done.stderr
    assert pings(lab, "web-1", "web-2")


def test_where_a_server_lets_the_agent_in_the_check_finds_nothing_missing(lab):
    done = run(lab.names.droplet("h1"), lab.lab.paths.settings("h1"), "--check")
    assert done.returncode == OK, done.stdout
    assert "nkey seed" in done.stdout
    assert "tls ca" in done.stdout
    assert "nats-server 2." in done.stdout


def test_a_running_agent_is_not_uninstalled(lab):
    before = lab.host_links("h1")
    done = run(lab.names.droplet("h1"), lab.lab.paths.settings("h1"), "--uninstall")
    assert done.returncode == FAILURE
    assert "another agent uses it" in done.stderr
    assert lab.host_links("h1") == before


def test_a_seed_that_is_not_there_ends_the_start_and_is_named(host, settings):
    settings.write_text(settings.read_text() + '\n[bus]\nnkey_seed_file = "/nowhere/host.nk"\n')
    done = run(host, settings)
    assert done.returncode == USAGE
    assert "/nowhere/host.nk" in done.stderr


def test_a_check_reports_the_file_and_not_the_server(host, settings):
    keys = 'servers = ["tls://nats.example.net:4222"]\ntls_ca_file = "/nowhere/ca.pem"\n'
    settings.write_text(f"{settings.read_text()}[bus]\n{keys}")
    done = run(host, settings, "--check")
    assert done.returncode == USAGE, "as a start"
    assert "missing tls ca: no such file: /nowhere/ca.pem\n" in done.stdout
    assert "correct bus.tls_ca_file" in done.stdout
    assert "nats.example.net" not in done.stdout
    assert "warning bus: no server was tried" in done.stdout


def test_an_uninstall_leaves_nothing_and_a_start_brings_all_back(lab):
    namespace, settings = lab.names.droplet("h1"), lab.lab.paths.settings("h1")
    with lab.counting_anew():
        lab.lab.stop_agent("h1")
        done = run(namespace, settings, "--uninstall")
        assert done.returncode == OK, done.stderr
        assert not lab.lab.paths.pins("h1").exists()
        assert set(lab.host_links("h1")) == {"lo", "eth0"}
        assert lab.host_links("h1")["eth0"][3] == 0, "no program is attached"
        assert "eth0" not in lab.links(lab.inside("web-1"))
        assert "managed" not in lab.ip(namespace, "-d", "neigh", "show")
        assert run(namespace, settings, "--uninstall").returncode == OK, "twice is no error"
        lab.restart_agent("h1")
    assert pings(lab, "web-1", "web-2")
    assert pings(lab, "web-2", "web-1")


def test_the_version_and_the_help_are_printed(host, settings):
    assert "droplet-agent" in run(host, settings, "--version").stdout
    assert "Exit status" in run(host, settings, "--help").stdout
