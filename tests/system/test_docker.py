"""The containers of `docker/`, as a user starts them. Needs a Docker engine, Compose, and the images of `build.sh`."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "docker"
PATIENCE = 90.0


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=FOLDER, capture_output=True, text=True)


def compose_command() -> list[str] | None:
    if shutil.which("docker") and run("docker", "compose", "version").returncode == 0:
        return ["docker", "compose"]
    return ["docker-compose"] if shutil.which("docker-compose") else None


def what_is_missing() -> str | None:
    if not shutil.which("docker") or run("docker", "info", "--format", "{{.ServerVersion}}").returncode != 0:
        return "no Docker engine answers"
    if compose_command() is None:
        return "Compose is not installed"
    if run("docker", "image", "inspect", "droplet", "droplet-lab").returncode != 0:
        return "the images are not built (docker/build.sh)"
    if run("docker", "network", "inspect", "droplet_underlay").returncode == 0:
        return "the containers are up already"
    return None


class Containers:
    """The composition, up."""

    def __init__(self) -> None:
        self.command = compose_command() or []

    def compose(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return run(*self.command, *arguments)

    def execute(self, container: str, *command: str) -> subprocess.CompletedProcess[str]:
        return self.compose("exec", "-T", container, *command)

    def pings(self, host: str, tenant: str, address: str, count: int = 3) -> int:
        """Return how many of the pings were answered."""
        done = self.execute(
            host, "ip", "netns", "exec", tenant, "ping", "-c", str(count), "-i", "0.05", "-W", "1", address
        )
        words = done.stdout.replace(",", "").split()
        assert "received" in words, done.stdout + done.stderr
        return int(words[words.index("received") - 1])

    def controller(self) -> dict[str, object]:
        name = self.compose("ps", "-a", "-q", "controller") if self.command[0] == "docker" else None
        identifier = (name or self.compose("ps", "-q", "controller")).stdout.strip()
        state: dict[str, object] = json.loads(run("docker", "inspect", "-f", "{{json .State}}", identifier).stdout)
        return state


@pytest.fixture(scope="module")
def containers() -> Iterator[Containers]:
    missing = what_is_missing()
    if missing is not None:
        pytest.skip(missing)
    found = Containers()
    try:
        up = found.compose("up", "-d", "--no-build")
        assert up.returncode == 0, up.stderr
        deadline = time.monotonic() + PATIENCE
        while found.controller()["Running"] and time.monotonic() < deadline:
            time.sleep(0.5)
        assert found.controller()["ExitCode"] == 0, found.compose("logs").stdout
        yield found
    finally:
        found.compose("down", "-v", "--timeout", "10")


@pytest.mark.parametrize(
    ("tenant", "address"), [("web-1", "10.0.1.3"), ("web-1", "10.0.1.4"), ("web-1", "10.0.2.2"), ("shop-1", "10.0.1.3")]
)
def test_a_tenant_reaches_its_own_on_every_host(containers, tenant, address):
    assert containers.pings("h1", tenant, address) == 3


def test_a_tenant_reaches_no_other_tenant(containers):
    """10.0.2.2 is the other tenant's alone."""
    assert containers.pings("h1", "shop-1", "10.0.2.2", count=2) == 0


def test_traffic_flows_while_the_agent_is_killed(containers):
    command = [*containers.command, "exec", "-T", "h1", "ip", "netns", "exec", "web-1"]
    pinging = subprocess.Popen(
        [*command, "ping", "-c", "100", "-i", "0.02", "10.0.1.3"], cwd=FOLDER, stdout=subprocess.PIPE, text=True
    )
    killed = containers.execute("h2", "sh", "-c", "kill -9 $(cat /run/droplet-agent.pid)")
    assert killed.returncode == 0, killed.stderr
    output = pinging.communicate()[0]
    assert "100 received" in output, output


def test_a_host_that_was_restarted_carries_its_tenants_again(containers):
    assert containers.compose("restart", "h2").returncode == 0
    deadline = time.monotonic() + PATIENCE
    while containers.pings("h1", "web-1", "10.0.1.3") < 3:
        assert time.monotonic() < deadline, containers.compose("logs", "h2").stdout
