"""`--record FILE`: appends each message that a host receives to a recording (`protocol.recording`).

It writes in the event loop, only to the page cache, and never waits for the disk (no fsync). The data survives a kill
of the agent; a power failure may lose the end of the file, which a reader detects.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from agent import __version__
from agent.bus.connection.jetstream import parse_ack_subject, parse_headers
from agent.bus.consumer.documents import Message
from agent.core.faults.tracker import ReportFaults
from protocol import recording
from protocol.recording import Header, RecordingError
from protocol.status import Fault

MOST_FILES = 10_000
"""The maximum number of recordings with the same base name."""
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC


class Recorder:
    """A recording that is being written. After the first disk error nothing more is appended."""

    def __init__(self, path: Path, host: str, clock: Callable[[], float] = time.time) -> None:
        """Start a new recording that only root can read: documents may be sensitive.

        If `path` is a recording of an earlier run, the new one is `path`.1, `path`.2 and so on. Raises OSError if
        `path` is anything else, or cannot be written.
        """
        self._clock = clock
        self._fault: tuple[Fault, ...] = ()
        self.path, self._file = _create(path)
        try:
            self._size = 0
            self._append(recording.pack_header(Header(host, __version__, clock())))
        except OSError as error:
            self.close()
            self.path.unlink()
            raise OSError(error.errno, error.strerror, str(self.path)) from None
        self.report: ReportFaults = lambda _source, _faults: None

    def __call__(self, messages: Iterable[Message]) -> None:
        """Append messages. A disk error is reported as a fault and does not disturb the agent."""
        if not self._fault:
            at = self._clock()
            data = b"".join(filter(None, (_packed(message, at) for message in messages)))
            try:
                self._append(data)
            except OSError as error:
                self._fault = (_incomplete(self.path, error),)
                with contextlib.suppress(OSError):
                    os.ftruncate(self._file, self._size)
        self.report("recording", self._fault)

    def _append(self, data: bytes) -> None:
        left = memoryview(data)
        while left:
            left = left[os.write(self._file, left) :]
        self._size += len(data)

    def close(self) -> None:
        """Release the file."""
        os.close(self._file)


def _create(path: Path) -> tuple[Path, int]:
    """Return the first free name, and the file descriptor."""
    for number in range(MOST_FILES):
        name = path.with_name(f"{path.name}.{number}") if number else path
        try:
            return name, os.open(name, _NEW, 0o600)
        except FileExistsError:
            if number == 0:
                _refuse_unless_recording(path)
    raise FileExistsError(errno.EEXIST, f"{MOST_FILES:,} recordings of this name exist: move some away", str(path))


def _refuse_unless_recording(path: Path) -> None:
    """Raise OSError if a file is not a recording: its name was probably given by mistake."""
    if not stat.S_ISREG(path.lstat().st_mode):
        raise FileExistsError(errno.EEXIST, "it exists and is no regular file: name another one", str(path))
    with path.open("rb") as file:
        try:
            recording.unpack([file.read(1 << 16)])
        except RecordingError as error:
            words = f"it exists and is left alone: {error}; name another file, or move this one away"
            raise FileExistsError(errno.EEXIST, words, str(path)) from None


def _packed(message: Message, at: float) -> bytes:
    """Return the packed message; empty if no consumer delivered it, as its reply subject shows."""
    try:
        sequence = parse_ack_subject(message.reply).stream_sequence
    except ValueError:
        return b""
    subject, headers = message.subject.decode("utf-8", "replace"), parse_headers(message.headers).fields
    return recording.pack_message(recording.Message(subject, sequence, at, headers, message.body))


def _incomplete(path: Path, error: OSError) -> Fault:
    detail = f"recording has stopped: {error.strerror}; the messages recorded before can be replayed"
    remedy = "free space on its file system, and restart the agent to begin another recording"
    return Fault("recording_ended", str(path), detail, remedy)
