"""What JetStream says in subjects, headers and replies, taken apart. No I/O.

ADR-15 of NATS (acknowledgement subjects), ADR-13 (pull requests), ADR-60 (consumer reset).
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

ACK_TERM = b"+TERM"
"""The body that tells the server never to deliver a message again."""


def parse_ack_subject(reply: bytes) -> tuple[int, int]:
    """Return a delivered message's sequence in its stream, and how many wait behind it, or raise ValueError.

    Old: `$JS.ACK.<stream>.<consumer>.<delivered>.<stream sequence>.<consumer sequence>.<time>.<pending>`.
    New: `$JS.ACK.<domain>.<account>.<stream>...<pending>`, with or without one token after it.
    """
    tokens = reply.split(b".")
    if reply.startswith(b"$JS.ACK."):
        if len(tokens) == 9:
            return int(tokens[5]), int(tokens[8])
        if len(tokens) >= 11:
            return int(tokens[7]), int(tokens[10])
    raise ValueError(f"{reply!r} is not an acknowledgement subject")


class Headers(NamedTuple):
    """The status of a message's first line (0 without), its text, and the fields."""

    status: int
    text: str
    fields: dict[str, str]


def parse_headers(raw: bytes | None) -> Headers:
    """Return a header block's parts. What cannot be read is left out; nothing is raised (ADR-4 of NATS)."""
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
    """An error as the JetStream API tells it."""

    code: int = 0
    err_code: int = 0
    description: str = ""


class PubAck(msgspec.Struct, frozen=True):
    """The answer to a publish into a stream."""

    stream: str = ""
    seq: int = 0
    error: ApiError | None = None


class ResetReply(msgspec.Struct, frozen=True):
    """The answer to a consumer reset: when the consumer was made, and how many messages wait."""

    created: str = ""
    num_pending: int = 0
    error: ApiError | None = None


_pub_ack = msgspec.json.Decoder(PubAck)
_reset_reply = msgspec.json.Decoder(ResetReply)


def parse_pub_ack(body: bytes) -> PubAck:
    """Return a publish's answer; one that cannot be read is an error."""
    try:
        answer = _pub_ack.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return PubAck(error=ApiError(description=str(error)))
    if answer.error is None and not answer.seq:
        return PubAck(error=ApiError(description="the answer names no sequence"))
    return answer


def parse_reset_reply(body: bytes) -> ResetReply:
    """Return a reset's answer; one that cannot be read is an error."""
    try:
        return _reset_reply.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return ResetReply(error=ApiError(description=str(error)))


def reset_request(sequence: int) -> bytes:
    """Return the body that has a consumer begin again at a stream sequence."""
    return msgspec.json.encode({"seq": sequence})
