"""Replays a recording: which documents are in force after it, if the kernel accepts everything. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from agent.bus.consumer.admission import Admission
from agent.core.config.desired_state import Desired
from agent.core.config.registry import DocumentStatus
from protocol import streams, subjects
from protocol.acknowledgements import State
from protocol.recording import Message, Recording

MOST_SHOWN = 10
"""The maximum number of reasons that are printed for one document."""


class Unrealized(NamedTuple):
    """A document whose newest revision is not in force, or a subject that names no document, and the reasons."""

    name: str
    state: str
    reasons: tuple[str, ...]


def replay(recording: Recording, desired: Desired, admission: Admission) -> list[Unrealized]:
    """Replay a recording into an empty desired state; return the documents that are not in force after it.

    A document falls back to its last good revision, as on the host: every revision that was in force counts as accepted
    by the kernel. A sequence that does not increase starts a replay of the stream, as a reset of the consumer does.
    """
    last, refused, taken = 0, dict[str, None](), set[str]()
    for message in recording.messages:
        if message.sequence <= last:
            desired.documents.begin_replay()
        last = message.sequence
        name = _document(recording.header.host, message.subject)
        if name is None:
            refused[message.subject] = None
            if streams.is_delete(dict(message.headers), message.body):
                del refused[message.subject]
            continue
        if name in taken:  # apply the earlier revision first; documents without a newer one are applied together
            _resolve(desired, taken)
        _take(name, message, desired, admission)
        taken.add(name)
    _resolve(desired, taken)
    return [*_unrealized(desired), *(Unrealized(one, "refused", ("it names no document",)) for one in refused)]


def _resolve(desired: Desired, taken: set[str]) -> None:
    """Resolve the documents in `taken`, assume that the kernel accepts the result, and empty `taken`."""
    for _ in range(2):  # the first pass may free slots that others lacked
        change = desired.resolve(removing=True)
        desired.documents.confirm(change.changed_documents & desired.documents.entries.keys())
    for name in taken:
        desired.documents.forget(name)
    taken.clear()


def _document(host: str, subject: str) -> str | None:
    prefix = subjects.config(host, "")
    name = subject.removeprefix(prefix)
    return name if subject.startswith(prefix) and subjects.is_document(name) else None


def _take(name: str, message: Message, desired: Desired, admission: Admission) -> None:
    admitted = admission.admit(name, message.subject, _header_block(message), message.body)
    if admitted.refusal is not None:
        desired.documents.refuse(name, message.sequence, (admitted.refusal,))
    elif admitted.removes:
        desired.documents.remove(name, message.sequence)
    else:
        desired.documents.put(name, message.sequence, message.body)


def _header_block(message: Message) -> bytes:
    """Return a message's headers in the wire format (ADR-4 of NATS)."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in message.headers.items())
    return f"NATS/1.0\r\n{lines}\r\n".encode()


def _unrealized(desired: Desired) -> Iterator[Unrealized]:
    for name in desired.documents.names():
        status = desired.status(name)
        if status.state is not State.REALIZED:
            yield Unrealized(name, str(status.state), _reasons(status))


def _reasons(status: DocumentStatus) -> tuple[str, ...]:
    missing = [f"{reference} is missing" for reference in status.missing]
    found = [*missing, *(f"{error.path}: {error.message}" for error in status.errors)]
    more = [f"and {len(found) - MOST_SHOWN} more"] if len(found) > MOST_SHOWN else []
    kept = [f"revision {status.in_force} stays in force"] if status.in_force else []
    return (*found[:MOST_SHOWN], *more, *kept)
