"""Tracks whether every host has realized what was published for it, and how long that took.

The tracker itself is pure: revisions and acknowledgements in with the time at which they were seen, a report out.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

from nats.aio.client import Client
from nats.aio.msg import Msg

from controller_sim.bus import read_stream
from controller_sim.moves import Moved
from controller_sim.publisher import Published
from protocol import codec, streams, subjects
from protocol.acknowledgements import Acknowledgement, State
from protocol.errors import DocumentError


@dataclass(slots=True)
class _Expected:
    revision: int
    published: float
    realized: float | None = None
    answer: Acknowledgement | None = None


@dataclass(frozen=True, slots=True)
class HostReport:
    """One host: documents by what became of their newest revision; seconds from publishing to the realized answer."""

    documents: int
    realized: int
    pending: int
    rejected: int
    failed: int
    unanswered: int
    p50: float | None
    p99: float | None


@dataclass(frozen=True, slots=True)
class Report:
    """All hosts, and every answer that is not `realized` in one line each."""

    hosts: dict[str, HostReport]
    problems: tuple[str, ...] = ()
    moves: tuple[Moved, ...] = ()

    @property
    def converged(self) -> bool:
        """Whether every document is realized."""
        return bool(self.hosts) and all(host.realized == host.documents for host in self.hosts.values())

    def as_data(self) -> dict[str, Any]:
        """Return the report as plain data for JSON."""
        return {"converged": self.converged, **asdict(self)}


@dataclass(slots=True)
class Tracker:
    """Expected revisions against answers. Answers may come before the revision is known, and in any order."""

    expected: dict[tuple[str, str], _Expected] = field(default_factory=dict)
    answers: dict[tuple[str, str], tuple[Acknowledgement, float]] = field(default_factory=dict)
    realized: int = 0

    def expect(self, published: Published) -> None:
        """Take in what was published; only the newest revision of a document counts."""
        key = (published.host, published.document)
        before = self.expected.get(key)
        if before is not None and before.revision >= published.revision:
            return
        if before is not None and before.realized is not None:
            self.realized -= 1
        self.expected[key] = _Expected(published.revision, published.at)
        if key in self.answers:
            self._settle(key, *self.answers[key])

    def answered(self, host: str, answer: Acknowledgement, now: float) -> None:
        """Take in an answer that was seen at `now` (the clock of `Published.at`)."""
        key = (host, answer.document)
        newest = self.answers.get(key)
        if newest is not None and newest[0].revision > answer.revision:
            return
        self.answers[key] = (answer, now)
        if key in self.expected:
            self._settle(key, answer, now)

    def _settle(self, key: tuple[str, str], answer: Acknowledgement, now: float) -> None:
        expected = self.expected[key]
        if answer.revision < expected.revision:
            return
        expected.answer = answer
        if answer.state is State.REALIZED and expected.realized is None:
            expected.realized = now
            self.realized += 1
        elif answer.state is not State.REALIZED and expected.realized is not None:
            expected.realized = None
            self.realized -= 1

    def realized_at(self, host: str, document: str) -> float | None:
        """Return when a document's newest expected revision was seen to be realized, None when it is not."""
        expected = self.expected.get((host, document))
        return None if expected is None else expected.realized

    def times_of(self, host: str, document: str) -> tuple[float, float | None]:
        """Return when a document was published, and when it was seen to be realized; it must be expected."""
        expected = self.expected[host, document]
        return expected.published, expected.realized

    @property
    def converged(self) -> bool:
        """Whether every expected revision is realized."""
        return self.realized == len(self.expected)

    def report(self) -> Report:
        """Return where every host stands."""
        by_host: dict[str, list[_Expected]] = {}
        problems: list[str] = []
        for (host, document), expected in sorted(self.expected.items()):
            by_host.setdefault(host, []).append(expected)
            if expected.answer is None:
                problems.append(f"{host} {document}: revision {expected.revision} is not answered")
            elif expected.answer.state is not State.REALIZED:
                problems.append(f"{host} {document}: {describe(expected.answer)}")
        return Report({host: _host_report(items) for host, items in by_host.items()}, tuple(problems))


def _host_report(items: list[_Expected]) -> HostReport:
    states = [item.answer.state if item.answer is not None else None for item in items]
    times = sorted(item.realized - item.published for item in items if item.realized is not None)
    return HostReport(
        documents=len(items),
        realized=states.count(State.REALIZED),
        pending=states.count(State.PENDING),
        rejected=states.count(State.REJECTED),
        failed=states.count(State.FAILED),
        unanswered=states.count(None),
        p50=percentile(times, 0.50),
        p99=percentile(times, 0.99),
    )


def percentile(sorted_times: list[float], part: float) -> float | None:
    """Return the smallest value that at least `part` of them do not exceed; None of nothing."""
    if not sorted_times:
        return None
    return sorted_times[min(len(sorted_times) - 1, max(0, -(-int(part * 100) * len(sorted_times) // 100) - 1))]


def describe(answer: Acknowledgement) -> str:
    """Return an answer's state and its reasons in one line."""
    reasons = [
        *(f"{reference.kind} {reference.id} is missing" for reference in answer.missing),
        *(f"{error.path}: {error.message}" for error in answer.errors),
        *(f"{failure.object}: {failure.name} {failure.message}" for failure in answer.failures),
    ]
    more = f" (and {len(reasons) - 3} more)" if len(reasons) > 3 else ""
    return f"{answer.state}: {'; '.join(reasons[:3])}{more}" if reasons else str(answer.state)


class Watcher:
    """Feeds a tracker from the hosts' answers, as they come and as the stream holds them."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.tracker = Tracker()
        self.changed = asyncio.Event()

    async def _answer(self, message: Msg) -> None:
        self.take(message.subject, message.data)

    def take(self, subject: str, body: bytes) -> None:
        """Take in one answer; what is no answer is left alone, since hosts write these subjects."""
        try:
            host = subjects.parse_ack(subject).host
            answer = codec.decode(body, Acknowledgement)
        except (ValueError, DocumentError):
            return
        self.tracker.answered(host, answer, time.monotonic())
        self.changed.set()

    async def catch_up(self) -> None:
        """Read the answers that were given before this began."""
        for stored in await read_stream(self.client, streams.ACK_STREAM, streams.ACK_SUBJECTS):
            self.take(stored.subject, stored.body)

    async def wait(self, patience: float) -> bool:
        """Wait until everything is realized; False after `patience` seconds."""
        deadline = time.monotonic() + patience
        while not self.tracker.converged:
            left = deadline - time.monotonic()
            if left <= 0 or not await self.heard(left):
                return False
        return True

    async def heard(self, patience: float) -> bool:
        """Wait for the next answer; False after `patience` seconds."""
        self.changed.clear()
        try:
            await asyncio.wait_for(self.changed.wait(), patience)
        except TimeoutError:
            return False
        return True


@asynccontextmanager
async def watching(client: Client) -> AsyncIterator[Watcher]:
    """Watch answers from now on."""
    watcher = Watcher(client)
    subscription = await client.subscribe(
        streams.ACK_SUBJECTS,
        cb=watcher._answer,  # noqa: SLF001 - the callback is this module's own
        pending_msgs_limit=-1,
        pending_bytes_limit=-1,
    )
    try:
        yield watcher
    finally:
        await subscription.unsubscribe()
