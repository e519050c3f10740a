"""How dropletctl connects: its settings, credentials and namespace, and what it says where it cannot."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from lab.bus import (
    NatsServer,
    free_port,
    make_user,
    user_block,
)

from agent.cli.configuration import USED
from agent.cli.main import main
from protocol import permissions, streams


@pytest.mark.parametrize(
    ("who", "words", "verb", "subject"),
    [
        ("host", ["status"], "publish", "$SRV.PING.droplet"),
        ("host", ["status", "h1"], "publish", "droplet.v1.h1.rpc.status"),
        ("host", ["get", "endpoints", "--host", "h1"], "publish", "droplet.v1.h1.rpc.get"),
        ("host", ["acks"], "publish", f"$JS.API.DIRECT.GET.{streams.ACK_STREAM}"),
        ("no-inbox", ["status", "h1"], "subscribe", "_INBOX_operator.>"),
    ],
)
async def test_a_request_that_the_server_refuses_names_its_subject(
    tmp_path: Path, who: str, words: list[str], verb: str, subject: str
) -> None:
    """`--config agent.toml` logs in as the agent, which may ask no host. The answer comes before any timeout."""
    seen = permissions.of_host("h1").subscribe
    inbox = f"{permissions.OPERATOR_INBOX}.>"
    allowed = {
        "host": permissions.Permissions(permissions.of_host("h1").publish, (*seen, inbox)),
        "no-inbox": permissions.Permissions(permissions.of_operator().publish, seen),
    }[who]
    user = make_user(tmp_path, who)
    server = NatsServer(tmp_path, users=[user_block(user, allowed)])
    server.start()
    try:
        config = tmp_path / "agent.toml"
        config.write_text(f'[bus]\nservers = ["{server.url}"]\nnkey_seed_file = "{user.seed_file}"\n')
        arguments = ["--config", str(config), "--wait", "600", "--timeout", "600", *words]
        result = await asyncio.to_thread(CliRunner().invoke, main, arguments)
    finally:
        server.stop()
    assert result.exit_code == 3
    assert result.stderr.startswith(f"Error: the server refused the request: these credentials may not {verb} to ")
    assert f" to {subject}; give an operator's nkey" in result.stderr
    assert result.stderr.count("\n") == 1


async def test_the_credentials_of_an_agent_are_refused_as_they_are(tmp_path: Path) -> None:
    user = make_user(tmp_path, "h1")
    server = NatsServer(tmp_path, users=[user_block(user, permissions.of_host("h1"))])
    server.start()
    try:
        options = ["--server", server.url, "--nkey-seed-file", str(user.seed_file), "--wait", "600"]
        result = await asyncio.to_thread(CliRunner().invoke, main, [*options, "status"])
    finally:
        server.stop()
    assert (result.exit_code, result.stderr.count("the server refused the request")) == (3, 1)


def test_a_bus_that_cannot_be_reached_has_its_own_exit_code(tmp_path: Path) -> None:
    config = tmp_path / "agent.toml"
    config.write_text(f'[bus]\nservers = ["nats://127.0.0.1:{free_port()}"]\n')
    result = CliRunner().invoke(main, ["--config", str(config), "status"])
    assert result.exit_code == 3
    assert result.output.startswith("Error: nats://127.0.0.1:")
    assert result.output.count("\n") == 1


def test_without_a_server_the_error_names_the_options(monkeypatch: pytest.MonkeyPatch) -> None:
    address = f"nats://127.0.0.1:{free_port()}"
    monkeypatch.setattr("agent.cli.main.DEFAULT_SERVER", address)
    result = CliRunner().invoke(main, ["status"])
    assert (result.exit_code, result.output) == (
        3,
        f"Error: {address}: connection refused; give --server or --config\n",
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sevrer = 1", f"sevrer: unknown setting; dropletctl uses {USED}"),
        ("[bank]\nservers = []", f"bank: unknown setting; dropletctl uses {USED}"),
        ('[bus]\nserver = "nats://h:1"', f"bus.server: unknown setting; dropletctl uses {USED}"),
        ('[bus]\nservers = "nats://h:1"', 'bus.servers: must be a list, as in servers = ["nats://HOST:4222"]'),
        ("[bus]\nnkey_seed_file = 5", "bus.nkey_seed_file: must be a string in quotes"),
        ("bus = 5", "bus: must be a table, [bus]"),
        ('[bus]\nnetns = "lab_fabric"', "bus.netns: move netns above the first table, [bus]"),
    ],
)
def test_a_wrong_setting_is_named_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    config = tmp_path / "dropletctl.toml"
    config.write_text(text)
    result = CliRunner().invoke(main, ["--config", str(config), "status"])
    assert (result.exit_code, result.output) == (2, f"Error: {config}: {message}\n")


def test_the_settings_of_an_agent_can_be_used(tmp_path: Path) -> None:
    config = tmp_path / "agent.toml"
    config.write_text(
        f'host = "h1"\ninterfaces = ["eth0"]\n[bus]\nservers = ["nats://127.0.0.1:{free_port()}"]\n'
        'nkey_seed_file = ""\n[log]\nlevel = "info"\n'
    )
    assert CliRunner().invoke(main, ["--config", str(config), "status"]).exit_code == 3


def test_the_connection_is_made_from_the_namespace_that_is_named(server: NatsServer, tmp_path: Path) -> None:
    """Loopback is down in a new namespace, so the server that answers here is out of reach from there."""
    name = f"busctl{os.getpid()}"
    config = tmp_path / "dropletctl.toml"
    config.write_text(f'netns = "{name}"\n')
    command = [sys.executable, "-m", "agent.cli.main", "--wait", "0.2", "--server", server.url]
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        outside = subprocess.run([*command, "status"], capture_output=True, text=True, check=False)
        inside = subprocess.run([*command, "--netns", name, "status"], capture_output=True, text=True, check=False)
        command += ["--config", str(config), "status"]
        by_file = subprocess.run(command, capture_output=True, text=True, check=False)
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True)
    assert (outside.returncode, inside.returncode) == (1, 3), outside.stderr + inside.stderr
    assert (by_file.returncode, by_file.stderr) == (3, inside.stderr)
