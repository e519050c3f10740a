"""What an agent records is replayed: as a plan on another machine, and into a lab."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from lab.bare_host import bare_host
from lab.fixtures import SystemLab, running_lab, topology_text
from lab.waiting import PATIENCE, until

from controller_sim.cli.droplet_lab import main
from controller_sim.lab import processes
from controller_sim.lab.lab import agent_program
from controller_sim.lab.namespaces import entered
from protocol import binding, codec, subjects
from protocol.acknowledgements import State
from protocol.documents import Document, Vpc
from protocol.recording import Header, Message, Recording, pack_header, pack_message, unpack

PROGRAM = str(Path(sys.executable).parent / "droplet-agent")
FIRST, SECOND = (codec.encode(Document(vpcs=(Vpc("green", vni, ("10.9.0.0/16",), ("h1",)),))) for vni in (2001, 2002))


def start_recording(lab: SystemLab, file: Path) -> None:
    """Start h1's agent as the lab does, with --record."""
    command = [agent_program(), "--config", str(lab.lab.paths.settings("h1")), "--record", str(file)]
    state = lab.lab.paths.load()
    state.agents["h1"] = processes.start(lab.names.droplet("h1"), command, lab.lab.paths.log("h1"))
    lab.lab.paths.save(state)
    lab.wait_in_sync("h1")


@pytest.fixture(scope="module")
def lab(lab_cache: None) -> Iterator[SystemLab]:
    with running_lab("recorded", topology_text("bouncer_on_host")) as lab:
        yield lab


@pytest.fixture(scope="module")
def file(lab: SystemLab, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Record h1 while documents come, change and go; it is killed and started again meanwhile."""
    file = tmp_path_factory.mktemp("recorded") / "h1.recording"
    lab.kill_agent("h1")
    start_recording(lab, file)
    lab.publish_and_wait("h1", "extra", FIRST, State.REALIZED)
    lab.publish_and_wait("h1", "extra", SECOND, State.REALIZED)
    lab.publish_and_wait("h1", "broken", b"\xc1", State.REJECTED)
    lab.kill_agent("h1")
    start_recording(lab, file)
    lab.publish_and_wait("h1", "extra", None, State.REALIZED)
    lab.publish_and_wait("h1", "broken", None, State.REALIZED)
    lab.kill_agent("h1")
    lab.restart_agent("h1")
    return file


@pytest.fixture
def machine() -> Iterator[str]:
    """Another machine with the address that h1 had."""
    with bare_host(f"replay-{os.getpid()}", "172.18.0.11/24") as name:
        yield name


def plan(machine: str, folder: Path, file: Path, *more: str) -> subprocess.CompletedProcess[str]:
    settings = folder / "agent.toml"
    settings.write_text(
        f'host = "support"\ninstance = "{machine}"\ninterfaces = ["eth0"]\n'
        f'state = "{folder}/state"\ncache = "{os.environ["DROPLET_LAB_CACHE"]}"\n'
    )
    command = [PROGRAM, "--config", str(settings), "--replay", str(file), *more]
    return subprocess.run(entered(machine, command), capture_output=True, text=True, timeout=PATIENCE)


def replayed(lab: SystemLab, file: Path, *more: str) -> Result:
    return CliRunner().invoke(main, ["--name", lab.lab.name, "replay", str(file), *more])


def read(file: Path) -> Recording:
    return unpack([file.read_bytes()])


def test_each_run_of_the_agent_has_a_recording_of_its_own(file):
    first, second = read(file), read(file.with_name("h1.recording.1"))
    for found in (first, second):
        assert (found.header.host, found.cut_at) == ("h1", None)
    extra = [one.body for one in first.messages if one.subject.endswith(".extra")]
    assert extra == [FIRST, SECOND]
    assert [one.body for one in second.messages if one.subject.endswith(".extra")] == [SECOND, b""]
    assert first.messages[0].headers[binding.SUBJECT] == first.messages[0].subject
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_the_plan_of_a_recording_is_printed_on_another_machine_with_what_is_rejected(file, machine, tmp_path):
    done = plan(machine, tmp_path, file, "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "attach transit XDP" in done.stdout
    assert "of map endpoints" in done.stdout
    (printed,) = [line for line in done.stdout.splitlines() if line.startswith(("rejected", "pending", "refused"))]
    assert printed.startswith("rejected broken: $")
    assert "recorded on host h1" in done.stdout
    assert done.stdout.endswith("nothing was changed\n")
    assert not Path("/sys/fs/bpf/droplet", machine).exists()
    assert not (tmp_path / "state").exists()


def test_a_recording_that_is_cut_short_is_used_with_a_warning_of_one_line(file, machine, tmp_path):
    cut = tmp_path / "cut"
    cut.write_bytes(file.read_bytes()[:-1])
    done = plan(machine, tmp_path, cut, "--dry-run")
    assert done.returncode == 0
    (line,) = done.stderr.splitlines()
    assert "truncated" in line
    assert "rejected" not in done.stdout, "the last message was the broken one"


def test_what_cannot_be_replayed_is_refused_in_one_line(file, lab, machine, tmp_path):
    foreign = tmp_path / "foreign"
    foreign.write_text("host = 'h1'\n")
    for path, more, words in (
        (foreign, ["--dry-run"], "not a recording of droplet-agent"),
        (tmp_path / "none", ["--dry-run"], "No such file"),
        (file, [], "--replay needs --dry-run"),
        (file, ["--dry-run", "--record", str(tmp_path / "x")], "--record needs a running agent"),
    ):
        done = plan(machine, tmp_path, path, *more)
        assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
        assert words in done.stderr
    done = replayed(lab, foreign)
    assert (done.exit_code, len(done.output.splitlines())) == (2, 1), done.output


def test_an_agent_does_not_record_over_a_file_that_is_no_recording(lab, machine, tmp_path):
    mine = tmp_path / "mine"
    mine.write_text("mine")
    settings = tmp_path / "agent.toml"
    settings.write_text(
        f'host = "h"\ninstance = "{machine}"\ninterfaces = ["eth0"]\nstate = "{tmp_path}/s"\ncache = "{tmp_path}/c"\n'
    )
    command = entered(machine, [PROGRAM, "--config", str(settings), "--record", str(mine)])
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
    assert str(mine) in done.stderr
    assert mine.read_text() == "mine"


def test_a_replay_into_a_lab_shows_each_document_and_fails_while_one_is_rejected(file, lab):
    done = replayed(lab, file)
    assert done.exit_code == 1, done.output
    (row,) = [line for line in done.output.splitlines() if "broken" in line]
    assert "rejected" in row
    again = replayed(lab, file.with_name("h1.recording.1"))
    assert again.exit_code == 0, again.output
    assert "rejected" not in again.output
    until(lambda: (found := lab.newest("h1", "extra")) and found.in_force == 0, "the removal of extra")


def test_a_recording_of_a_host_outside_the_lab_is_replayed_on_a_named_host(lab, tmp_path):
    subject = subjects.config("h9", "extra")
    foreign = tmp_path / "h9"
    foreign.write_bytes(
        pack_header(Header("h9", "0.1.0", 1.0))
        + pack_message(Message(subject, 1, 1.0, {binding.SUBJECT: subject}, FIRST))
    )
    done = replayed(lab, foreign)
    assert done.exit_code == 1
    assert "--host" in done.output
    mapped = replayed(lab, foreign, "--host", "h2")
    assert mapped.exit_code == 0, mapped.output
    assert "still name h9" in mapped.output
    found = lab.newest("h2", "extra")
    assert found is not None
    assert found.state is State.REALIZED
    lab.publish_and_wait("h2", "extra", None, State.REALIZED)


def test_an_agent_whose_recording_fills_the_disk_continues_and_reports_it(lab, tmp_path):
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path)], check=True)
    try:
        lab.kill_agent("h1")
        start_recording(lab, tmp_path / "small")
        lab.publish_and_wait("h1", "large", b"\xc1" * 100_000, State.REJECTED)
        lab.publish_and_wait("h1", "large", None, State.REALIZED)
        assert ("recording_ended", str(tmp_path / "small")) in [
            (fault.kind, fault.subject) for fault in lab.status("h1").faults
        ]
        found = read(tmp_path / "small")
        assert found.messages
        assert found.cut_at is None
        assert not [one for one in found.messages if one.subject.endswith(".large")]
    finally:
        lab.kill_agent("h1")
        subprocess.run(["umount", str(tmp_path)], check=True)
        lab.restart_agent("h1")
