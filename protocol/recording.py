"""A recording of what a host received from the bus: a stream of MessagePack objects. Pure: bytes in, bytes out.

The first object describes the recording, each further one is one message as it was delivered, in the order of delivery:

    {"format": "droplet-recording", "version": 1, "host": "h1", "agent": "0.1.0", "at": 1764355000.0}
    {"subject": "droplet.v1.h1.config.web", "sequence": 7, "at": 1764355001.2, "headers": {}, "body": b"..."}

`at` is in seconds since the epoch, `sequence` is the message's in the configuration stream, `headers` are those of the
message, `body` is the document's MessagePack or empty. Objects hold no schema of their own: unknown fields are ignored.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import msgpack

FORMAT = "droplet-recording"
VERSION = 1
MAX_OBJECT = 4 << 20
"""Bytes of one object: a document has 1 MiB at the most, beside its subject and headers."""


class RecordingError(ValueError):
    """The bytes are not a recording that this version can read; the text says why."""


class Header(NamedTuple):
    """The recorded host, the version of the agent, and the start of the recording (seconds since the epoch)."""

    host: str
    agent: str
    at: float


class Message(NamedTuple):
    """One message as the host received it."""

    subject: str
    sequence: int
    at: float
    headers: Mapping[str, str]
    body: bytes


class Recording(NamedTuple):
    """A whole recording. `cut_at`: the offset in bytes of a truncated last object, None if all are complete."""

    header: Header
    messages: tuple[Message, ...]
    cut_at: int | None = None


def pack_header(header: Header) -> bytes:
    """Return the bytes of a recording's first object."""
    return _packed({"format": FORMAT, "version": VERSION, **header._asdict()})


def pack_message(message: Message) -> bytes:
    """Return the bytes of the object for one message."""
    return _packed({**message._asdict(), "headers": dict(message.headers)})


def unpack(chunks: Iterable[bytes]) -> Recording:
    """Read a whole recording; RecordingError if it is not one.

    A truncated last object is left out and reported: an agent that is killed while it records leaves one.
    """
    objects = _Objects(chunks)
    first = next(objects, None)
    if first is None:
        raise RecordingError("it is empty or cut short in its first object")
    header = _header(first)
    messages = tuple(_message(plain, number) for number, plain in enumerate(objects, 1))
    return Recording(header, messages, objects.cut_at)


class _Objects:
    """Yields the objects of a stream, and knows where an incomplete one begins."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._unpacker = msgpack.Unpacker(raw=False, max_buffer_size=MAX_OBJECT)
        self._fed = 0
        self.cut_at: int | None = None

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        while True:
            begins = self._unpacker.tell()
            try:
                return self._unpacker.unpack()
            except msgpack.OutOfData:
                chunk = next(self._chunks, b"")
            except Exception as error:
                raise RecordingError(f"at byte {begins:,} it is no MessagePack: {error}") from None
            if not chunk:
                self.cut_at = begins if self._fed > begins else None
                raise StopIteration
            self._feed(chunk, begins)

    def _feed(self, chunk: bytes, begins: int) -> None:
        try:
            self._unpacker.feed(chunk)
        except msgpack.BufferFull:
            raise RecordingError(f"the object at byte {begins:,} is longer than {MAX_OBJECT:,} bytes") from None
        self._fed += len(chunk)


def _header(plain: Any) -> Header:
    if not isinstance(plain, dict) or plain.get("format") != FORMAT:
        raise RecordingError("it is not a recording of droplet-agent (its header is missing)")
    if plain.get("version") != VERSION:
        raise RecordingError(f"it is of version {plain.get('version')!r}, and this program reads version {VERSION}")
    return Header(_field(plain, "host", str, 0), _field(plain, "agent", str, 0), _seconds(plain, 0))


def _message(plain: Any, number: int) -> Message:
    if not isinstance(plain, dict):
        raise RecordingError(f"object {number} is no message")
    headers = _field(plain, "headers", dict, number)
    if not all(isinstance(name, str) and isinstance(value, str) for name, value in headers.items()):
        raise RecordingError(f"object {number}: headers are not text")
    return Message(
        _field(plain, "subject", str, number),
        _field(plain, "sequence", int, number),
        _seconds(plain, number),
        headers,
        _field(plain, "body", bytes, number),
    )


def _field(plain: dict[Any, Any], name: str, kind: type, number: int) -> Any:
    value = plain.get(name)
    if not isinstance(value, kind):
        raise RecordingError(f"object {number}: {name} is missing or no {kind.__name__}")
    return value


def _seconds(plain: dict[Any, Any], number: int) -> float:
    value = plain.get("at")
    if not isinstance(value, (int, float)):
        raise RecordingError(f"object {number}: at is missing or no number")
    return float(value)


def _packed(plain: dict[str, Any]) -> bytes:
    packed: bytes = msgpack.packb(plain, use_bin_type=True)
    return packed
