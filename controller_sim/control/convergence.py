"""Tracks whether every host has realized what was published for it, and how long that took.

The tracker itself is pure: revisions and acknowledgements in with the time at which they were seen, a report out.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

from nats.aio.client import Client
from nats.aio.msg import Msg

from controller_sim.control.bus import read_stream
from controller_sim.control.moves import Moved
from controller_sim.control.publisher import Published
from controller_sim.control.strays import described, readable, strays
from protocol import codec, streams, subjects
from protocol.acknowledgements import Acknowledgement, KernelFailure, Reference, State
from protocol.documents import Document
from protocol.errors import DocumentError

QUIET = 1.0
"""Seconds without any acknowledgement after which what is rejected stays so."""


@dataclass(slots=True)
class _Expected:
    revision: int
    removed: bool
    published: float | None
    realized: float | None = None
    ack: Acknowledgement | None = None

    @property
    def state(self) -> State | None:
        """What became of it, None before it is acknowledged."""
        return self.ack.state if self.ack is not None else None


@dataclass(frozen=True, slots=True)
class HostReport:
    """One host: the documents that exist, by what became of their newest revision, and removals that are not realized.

    `p50` and `p99` are seconds from publishing to the acknowledgement `realized`, None if nothing was just published.
    """

    documents: int
    realized: int
    pending: int
    rejected: int
    failed: int
    unacknowledged: int
    removing: int
    p50: float | None
    p99: float | None


@dataclass(frozen=True, slots=True)
class Report:
    """All hosts, and one line for each document that is not realized. `final`: waiting would change nothing."""

    hosts: dict[str, HostReport]
    problems: tuple[str, ...] = ()
    moves: tuple[Moved, ...] = ()
    final: bool = False

    @property
    def converged(self) -> bool:
        """Whether every document is realized, and every removal too."""
        return bool(self.hosts) and all(
            host.realized == host.documents and not host.removing for host in self.hosts.values()
        )

    @property
    def documents(self) -> int:
        """How many documents there are."""
        return sum(host.documents for host in self.hosts.values())

    @property
    def headline(self) -> str:
        """What to say above the problems."""
        return f"not everything was realized{'' if self.final else ' in time (--timeout SECONDS waits longer)'}:"

    def as_data(self) -> dict[str, Any]:
        """Return the report as plain data for JSON."""
        return {"converged": self.converged, **asdict(self)}


@dataclass(slots=True)
class Tracker:
    """Expected revisions and acknowledgements. These may come before the revision is known, and in any order."""

    expected: dict[tuple[str, str], _Expected] = field(default_factory=dict)
    acks: dict[tuple[str, str], tuple[Acknowledgement, float]] = field(default_factory=dict)
    counts: Counter[tuple[bool, State | None]] = field(default_factory=Counter)
    """How many are expected, by whether it is a removal and by state."""
    holders: dict[tuple[str, Reference], str] = field(default_factory=dict)
    """The document of a host that holds an object, as far as it is known (`holds`)."""

    def expect(self, published: Published) -> None:
        """Take in what was published; only the newest revision of a document counts."""
        key = (published.host, published.document)
        before = self.expected.get(key)
        if before is not None and before.revision >= published.revision:
            return
        if before is not None:
            self.counts[before.removed, before.state] -= 1
        self.expected[key] = _Expected(published.revision, published.removed, published.at)
        self.counts[published.removed, None] += 1
        if key in self.acks:
            self._record(key, *self.acks[key])

    def acknowledged(self, host: str, ack: Acknowledgement, now: float) -> None:
        """Take in an acknowledgement that was seen at `now` (the clock of `Published.at`)."""
        key = (host, ack.document)
        newest = self.acks.get(key)
        if newest is not None and newest[0].revision > ack.revision:
            return
        self.acks[key] = (ack, now)
        if key in self.expected:
            self._record(key, ack, now)

    def _record(self, key: tuple[str, str], ack: Acknowledgement, now: float) -> None:
        expected = self.expected[key]
        if ack.revision < expected.revision:
            return
        self.counts[expected.removed, expected.state] -= 1
        expected.ack = ack
        self.counts[expected.removed, expected.state] += 1
        if ack.state is not State.REALIZED:
            expected.realized = None
        elif expected.realized is None:
            expected.realized = now

    def realized_at(self, host: str, document: str) -> float | None:
        """Return when a document's newest expected revision was seen to be realized, None when it is not."""
        expected = self.expected.get((host, document))
        return None if expected is None else expected.realized

    def times_of(self, host: str, document: str) -> tuple[float | None, float | None]:
        """Return when a document was published, and when it was seen to be realized; it must be expected."""
        expected = self.expected[host, document]
        return expected.published, expected.realized

    @property
    def converged(self) -> bool:
        """Whether every expected revision is realized."""
        return self._in(State.REALIZED) == len(self.expected)

    def holds(self, documents: Mapping[str, Mapping[str, Document]]) -> None:
        """Remember which document of a host holds which droplets, VPCs and networks: others wait for these."""
        for host, by_name in documents.items():
            for name, document in by_name.items():
                for kind in ("droplets", "vpcs", "networks"):
                    self.holders |= {(host, Reference(kind, one.id)): name for one in getattr(document, kind)}

    @property
    def final(self) -> bool:
        """Whether nothing more is to come: every expected revision is realized, rejected, or waits for a rejected one.

        What failed is tried again, and what waits for anything else may still find it.
        """
        if self._in(State.FAILED) or self.counts[False, None] + self.counts[True, None]:
            return False
        return not self._in(State.PENDING) or all(
            self._stuck(*key) for key, one in self.expected.items() if one.state is State.PENDING
        )

    def _stuck(self, host: str, document: str) -> bool:
        """Say whether a document is rejected, or waits for objects of such documents."""
        expected = self.expected.get((host, document))
        if expected is None or expected.ack is None or expected.ack.state is not State.PENDING:
            return expected is not None and expected.state is State.REJECTED
        held_by = [self.holders.get((host, reference)) for reference in expected.ack.missing]
        return any(name is not None and name != document and self._stuck(host, name) for name in held_by)

    @property
    def documents(self) -> int:
        """How many documents exist: what was removed is none."""
        return sum(count for (removed, _), count in self.counts.items() if not removed)

    @property
    def realized(self) -> int:
        """How many of them are realized."""
        return self.counts[False, State.REALIZED]

    def _in(self, state: State) -> int:
        return self.counts[False, state] + self.counts[True, state]

    def report(self) -> Report:
        """Return where every host stands."""
        by_host: dict[str, list[_Expected]] = {}
        problems: list[str] = []
        for (host, document), expected in sorted(self.expected.items()):
            by_host.setdefault(host, []).append(expected)
            what = f"{host} {document}: {'its removal, ' if expected.removed else ''}"
            if expected.ack is None:
                problems.append(f"{what}revision {expected.revision} is not acknowledged")
            elif expected.ack.state is not State.REALIZED:
                problems.append(f"{what}{describe(expected.ack)}")
        return Report({host: _host_report(items) for host, items in by_host.items()}, tuple(problems), final=self.final)


def _host_report(items: list[_Expected]) -> HostReport:
    states = [item.state for item in items if not item.removed]
    times = sorted(
        item.realized - item.published for item in items if item.realized is not None and item.published is not None
    )
    return HostReport(
        documents=len(states),
        realized=states.count(State.REALIZED),
        pending=states.count(State.PENDING),
        rejected=states.count(State.REJECTED),
        failed=states.count(State.FAILED),
        unacknowledged=states.count(None),
        removing=sum(item.removed and item.state is not State.REALIZED for item in items),
        p50=percentile(times, 0.50),
        p99=percentile(times, 0.99),
    )


def percentile(sorted_times: list[float], part: float) -> float | None:
    """Return the smallest value that at least `part` of them do not exceed; None of nothing."""
    if not sorted_times:
        return None
    return sorted_times[min(len(sorted_times) - 1, max(0, -(-int(part * 100) * len(sorted_times) // 100) - 1))]


def describe(ack: Acknowledgement) -> str:
    """Return an acknowledgement's state and its reasons in one line."""
    reasons = [
        *(f"{reference} is missing" for reference in ack.missing),
        *(f"{error.path}: {error.message}" for error in ack.errors),
        *(_refused(failure) for failure in ack.failures),
    ]
    more = f" (and {len(reasons) - 3} more)" if len(reasons) > 3 else ""
    return f"{ack.state}: {'; '.join(reasons[:3])}{more}" if reasons else str(ack.state)


def _refused(failure: KernelFailure) -> str:
    named = failure.message if failure.name in failure.message else f"{failure.name} {failure.message}"
    return f"{failure.object}: {named}"


class Watcher:
    """Feeds a tracker from the hosts' acknowledgements, as they come and as the stream holds them."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.tracker = Tracker()
        self.changed = asyncio.Event()
        self.heard_at = time.monotonic()
        self.strays: tuple[str, ...] = ()
        """The messages of the stream that name no document, one line each, as `expect_stored` found them."""

    async def _on_message(self, message: Msg) -> None:
        self.take(message.subject, message.data)

    def take(self, subject: str, body: bytes) -> None:
        """Take in one acknowledgement; any other message is ignored, since hosts write these subjects."""
        try:
            host = subjects.parse_ack(subject).host
            ack = codec.decode(body, Acknowledgement)
        except (ValueError, DocumentError):
            return
        self.heard_at = time.monotonic()
        self.tracker.acknowledged(host, ack, self.heard_at)
        self.changed.set()

    async def expect_stored(self) -> None:
        """Expect also what was published before, and read its acknowledgements: every stored document needs one."""
        documents = await read_stream(self.client, streams.CONFIG_STREAM, streams.CONFIG_SUBJECTS)
        self.strays = tuple(described(message) for message in strays(documents))
        for stored in readable(documents):
            target = subjects.parse_config(stored.subject)
            removed = streams.is_delete(stored.headers, stored.body)
            self.tracker.expect(Published(*target, stored.sequence, removed, None))
        for stored in await read_stream(self.client, streams.ACK_STREAM, streams.ACK_SUBJECTS):
            self.take(stored.subject, stored.body)

    @property
    def over(self) -> bool:
        """Whether to stop waiting: all is realized, or the rest is rejected and no acknowledgement came for a while.

        A rejected document is validated again when the owner of a contested object releases it: another may follow.
        """
        quiet = time.monotonic() - self.heard_at >= QUIET
        return self.tracker.converged or (self.tracker.final and quiet)

    async def wait(self, patience: float) -> bool:
        """Wait until there is nothing more to wait for; False after `patience` seconds."""
        deadline = time.monotonic() + patience
        while not self.over:
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            await self.wait_for_acks(min(left, QUIET))
        return True

    async def wait_for_acks(self, patience: float) -> bool:
        """Wait for the next acknowledgement; False after `patience` seconds."""
        self.changed.clear()
        try:
            async with asyncio.timeout(patience):
                await self.changed.wait()
        except TimeoutError:
            return False
        return True


@asynccontextmanager
async def watching(client: Client) -> AsyncIterator[Watcher]:
    """Watch acknowledgements from now on."""
    watcher = Watcher(client)
    subscription = await client.subscribe(
        streams.ACK_SUBJECTS,
        cb=watcher._on_message,  # noqa: SLF001 - the callback is this module's own
        pending_msgs_limit=-1,
        pending_bytes_limit=-1,
    )
    try:
        yield watcher
    finally:
        await subscription.unsubscribe()
