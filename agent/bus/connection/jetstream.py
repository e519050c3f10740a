"""Parses JetStream's subjects, headers and replies. No I/O.

ADR-15 of NATS (acknowledgement subjects), ADR-13 (pull requests), ADR-60 (consumer reset).
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

ACK_TERM = b"+TERM"
"""The body that tells the server never to deliver a message again."""


class AckSubject(NamedTuple):
    """The metadata in the acknowledgement subject of a delivered message.

    `stream_sequence` is its place in the stream, `consumer_sequence` counts the consumer's deliveries since it was made
    or reset, `time` is when it was stored in nanoseconds since the epoch, `pending` how many messages the consumer had
    yet to deliver when it delivered this one.
    """

    stream: str
    consumer: str
    delivered: int
    stream_sequence: int
    consumer_sequence: int
    time: int
    pending: int


def parse_ack_subject(reply: bytes) -> AckSubject:
    """Parse the reply subject of a delivered message; ValueError if it is not one.

    Old: `$JS.ACK.<stream>.<consumer>.<delivered>.<stream sequence>.<consumer sequence>.<time>.<pending>`.
    New: `$JS.ACK.<domain>.<account>.<stream>...<pending>`, with or without one token after it.
    """
    tokens = reply.split(b".")
    if not reply.startswith(b"$JS.ACK.") or not (len(tokens) == 9 or len(tokens) >= 11):
        raise ValueError(f"{reply!r} is not an acknowledgement subject")
    first = 2 if len(tokens) == 9 else 4
    stream, consumer = tokens[first].decode("utf-8", "replace"), tokens[first + 1].decode("utf-8", "replace")
    return AckSubject(stream, consumer, *map(int, tokens[first + 2 : first + 7]))


class Headers(NamedTuple):
    """The status of a message's first line (0 without), its text, and the fields."""

    status: int
    text: str
    fields: dict[str, str]


def parse_headers(raw: bytes | None) -> Headers:
    """Parse a header block. Invalid parts are left out; nothing is raised (ADR-4 of NATS)."""
    if not raw:
        return Headers(0, "", {})
    first, *lines = raw.decode("utf-8", "replace").split("\r\n")
    _, _, rest = first.partition(" ")
    code, _, text = rest.strip().partition(" ")
    fields = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if colon:
            fields[name.strip()] = value.strip()
    return Headers(int(code) if code.isascii() and code.isdigit() else 0, text.strip(), fields)


class ApiError(msgspec.Struct, frozen=True):
    """An error as the JetStream API reports it."""

    code: int = 0
    err_code: int = 0
    description: str = ""


class PubAck(msgspec.Struct, frozen=True):
    """The answer to a publish into a stream."""

    stream: str = ""
    seq: int = 0
    error: ApiError | None = None


class ConsumerConfig(msgspec.Struct, frozen=True):
    """The settings of a consumer that matter for reading a host's documents."""

    deliver_policy: str = "all"
    ack_policy: str = "explicit"
    replay_policy: str = "instant"
    filter_subject: str = ""
    filter_subjects: tuple[str, ...] = ()
    headers_only: bool = False
    deliver_subject: str = ""
    pause_until: str = ""


class Delivered(msgspec.Struct, frozen=True):
    """How far a consumer has come."""

    consumer_seq: int = 0
    stream_seq: int = 0


class ConsumerInfo(msgspec.Struct, frozen=True):
    """The answer to a consumer info request or a reset: configuration, progress, and number of pending messages."""

    created: str = ""
    config: ConsumerConfig = ConsumerConfig()
    delivered: Delivered = Delivered()
    num_pending: int = 0
    paused: bool = False
    error: ApiError | None = None


_pub_ack = msgspec.json.Decoder(PubAck)
_consumer_info = msgspec.json.Decoder(ConsumerInfo)


def parse_pub_ack(body: bytes) -> PubAck:
    """Parse the answer to a publish; an unreadable one becomes an error."""
    try:
        answer = _pub_ack.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return PubAck(error=ApiError(description=str(error)))
    if answer.error is None and not answer.seq:
        return PubAck(error=ApiError(description="the answer names no sequence"))
    return answer


def parse_consumer_info(body: bytes) -> ConsumerInfo:
    """Parse the answer to a consumer info request or a reset; an unreadable one becomes an error."""
    try:
        return _consumer_info.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return ConsumerInfo(error=ApiError(description=str(error)))


def reset_request(sequence: int) -> bytes:
    """Return the body of a request to reset a consumer to a stream sequence."""
    return msgspec.json.encode({"seq": sequence})
