"""droplet-lab's command line where it needs no lab: help, ranges, and what it prints."""

from __future__ import annotations

import json
import socket
import subprocess
import sys

import pytest
from click.testing import CliRunner

from agent import __version__
from controller_sim.cli.droplet_lab import main
from controller_sim.cli.talk import datagrams_text
from controller_sim.talk.transfer import Transfer, reason_of


@pytest.mark.parametrize("name", sorted(main.commands))
def test_the_list_of_commands_shows_whole_sentences(name):
    assert not main.commands[name].get_short_help_str(limit=62).endswith("...")


def test_the_version_is_that_of_the_project():
    assert CliRunner().invoke(main, ["--version"]).output == f"droplet-lab, version {__version__}\n"


@pytest.mark.parametrize(
    ("options", "command"), [(["--name", "nolab"], "droplet-lab --name nolab"), (["--name", "lab"], "droplet-lab")]
)
def test_advice_names_the_command_for_this_lab(options, command, monkeypatch, tmp_path):
    monkeypatch.setattr("controller_sim.lab.state.ROOT", tmp_path)
    done = CliRunner().invoke(main, [*options, "status"])
    assert f"start one with `{command} up TOPOLOGY.yaml`" in done.output


@pytest.mark.parametrize(
    "arguments",
    [
        ["ping", "a", "b", "-c", "0"],
        ["ping", "a", "b", "-c", "-1"],
        ["ping", "a", "b", "-s", "-1"],
        ["ping", "a", "b", "-s", "70000"],
        ["transfer", "a", "b", "-t", "0"],
        ["transfer", "a", "b", "-t", "-1"],
        ["transfer", "a", "b", "-t", "nan"],
        ["transfer", "a", "b", "-t", "inf"],
        ["up", __file__, "--timeout", "nan"],
        ["apply", __file__, "--timeout", "-1"],
        ["publish", __file__, "--keys", "k", "--retry", "-1"],
    ],
)
def test_a_number_out_of_range_is_wrong_usage(arguments):
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 2
    assert f"Invalid value for '{arguments[-2]}'" in done.output


def test_the_result_of_a_transfer_is_one_line():
    assert str(Transfer(0, 0, False, failure="no connection: refused")) == "no connection: refused"
    assert str(Transfer(0, 0, True)) == "nothing came"
    assert str(Transfer(10**6, 1.0, True, failure="interrupted")).endswith(
        "data intact, at most 0 ms of silence; interrupted"
    )
    assert not Transfer(10**6, 1.0, True, failure="the connection broke: timed out").well
    assert Transfer(10**6, 1.0, True).well


def test_the_result_of_datagrams_is_one_line():
    assert datagrams_text({1: True, 100: True}) == "UDP of 1, 100 bytes: all returned intact"
    assert datagrams_text({1: True, 100: False}) == "UDP of 1, 100 bytes: 1 of 2 returned intact, not 100"
    assert datagrams_text({1: False}) == "UDP of 1 bytes: 0 of 1 returned intact"


def test_a_failed_connection_is_explained():
    assert reason_of(TimeoutError()) == "timed out"
    assert reason_of(ConnectionRefusedError(111, "x")) == "refused"
    assert reason_of(OSError(113, "No route to host")) == "No route to host"


def transfer_process(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "controller_sim.talk.transfer", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_sender_without_a_receiver_and_a_receiver_without_its_address_fail_with_one_line():
    with socket.socket() as bound:  # bound and not listening: refused, and no other process can take the port
        bound.bind(("127.0.0.1", 0))
        port = str(bound.getsockname()[1])
        assert transfer_process("send", "127.0.0.1", port, "0.1").communicate(timeout=20) == ("refused\n", "")
        said = transfer_process("receive", "127.0.0.1", port).communicate(timeout=20)
        assert said == ("the receiver cannot listen: Address already in use\n", "")


def test_a_receiver_reports_its_result_as_json():
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port = str(bound.getsockname()[1])
    receiver = transfer_process("receive", "127.0.0.1", port)
    assert receiver.stdout is not None
    assert receiver.stdout.readline() == "listening\n"
    assert transfer_process("send", "127.0.0.1", port, "0.1").communicate(timeout=20) == ("", "")
    done = Transfer(**json.loads(receiver.communicate(timeout=20)[0]))
    assert done.well
