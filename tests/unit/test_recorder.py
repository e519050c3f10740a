"""What is recorded can be read again, is readable by its owner alone, and a full disk costs the recording only."""

from __future__ import annotations

import os
import resource
import stat
from collections.abc import Iterable
from pathlib import Path

import pytest

from agent.bus.consumer.documents import Message
from agent.recording.recorder import Recorder
from protocol.recording import unpack
from protocol.status import Fault

SUBJECT = "droplet.v1.h1.config.web"


def message(sequence: int, body: bytes = b"x", subject: str = SUBJECT) -> Message:
    reply = f"$JS.ACK.DROPLET_CONFIG.h1.1.{sequence}.{sequence}.1764355000000000000.0".encode()
    return Message(subject.encode(), reply, body, f"NATS/1.0\r\nDroplet-Subject: {subject}\r\n\r\n".encode())


class Reports:
    def __init__(self) -> None:
        self.faults: list[Fault] = []

    def __call__(self, source: str, faults: Iterable[Fault]) -> None:
        assert source == "recording"
        self.faults = list(faults)


def test_messages_come_back_with_sequence_headers_and_time(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "file", "h1", lambda: 12.5)
    recorder([message(7), message(9, b"", "droplet.v1.h1.config.no document")])
    found = unpack([recorder.path.read_bytes()])
    recorder.close()
    assert (found.header.host, found.header.at, found.cut_at) == ("h1", 12.5, None)
    assert [(one.sequence, one.at, one.body) for one in found.messages] == [(7, 12.5, b"x"), (9, 12.5, b"")]
    assert found.messages[0].headers == {"Droplet-Subject": SUBJECT}
    assert stat.S_IMODE(recorder.path.stat().st_mode) == 0o600


def test_a_message_that_no_consumer_delivered_is_not_recorded(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "file", "h1")
    recorder([message(1)._replace(reply=b"$JS.ACK.x"), message(2)])
    recorder.close()
    assert [one.sequence for one in unpack([recorder.path.read_bytes()]).messages] == [2]


def test_a_second_run_records_beside_the_first(tmp_path: Path) -> None:
    paths = []
    for sequence in (1, 2, 3):
        recorder = Recorder(tmp_path / "file", "h1")
        recorder([message(sequence)])
        recorder.close()
        paths.append(recorder.path)
    assert [path.name for path in paths] == ["file", "file.1", "file.2"]
    assert [unpack([path.read_bytes()]).messages[0].sequence for path in paths] == [1, 2, 3]


def test_a_file_that_is_no_recording_is_left_as_it_is(tmp_path: Path) -> None:
    notes, pipe, link = tmp_path / "notes", tmp_path / "pipe", tmp_path / "link"
    notes.write_text("mine")
    os.mkfifo(pipe)
    link.symlink_to(tmp_path / "elsewhere")
    for path, words in ((notes, "left alone"), (pipe, "no regular file"), (link, "no regular file")):
        with pytest.raises(FileExistsError, match=words):
            Recorder(path, "h1")
    assert notes.read_text() == "mine"
    assert sorted(tmp_path.iterdir()) == [link, notes, pipe]


def test_a_full_disk_ends_the_recording_with_a_lasting_fault_and_a_valid_file(tmp_path: Path) -> None:
    recorder, reports = Recorder(tmp_path / "file", "h1"), Reports()
    recorder.report = reports
    recorder([message(1)])
    assert reports.faults == []
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (recorder.path.stat().st_size + 20, before[1]))
    try:
        recorder([message(2, bytes(100))])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    recorder([message(3)])
    recorder.close()
    assert [(fault.kind, fault.subject) for fault in reports.faults] == [("recording_ended", str(recorder.path))]
    found = unpack([recorder.path.read_bytes()])
    assert ([one.sequence for one in found.messages], found.cut_at) == ([1], None)
