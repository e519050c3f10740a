"""Publishes documents: only what differs from the stream, pipelined, and in an order that no host minds.

For each host removals go first, then changed documents, then new ones: an object that moves from one document to
another has left the first before the second claims it.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from controller_sim.control.bus import BusError, Stored, ask, message_headers, read_stream
from protocol import codec, streams, subjects
from protocol.documents import Document, Endpoint
from protocol.errors import DocumentError
from protocol.rpc import MAX_PAGE, DocumentsReply, DocumentsRequest

DELETE_TTL = "720h"
"""How long a removal stays in the stream: longer than any host is away. A host that was away longer keeps the document
and says so; `held_only_by_hosts` finds it, and its removal is published again."""
ACK_TIMEOUT = 30.0
"""Seconds without any confirmation by the server after which publishing has failed."""


@dataclass(frozen=True, slots=True)
class Change:
    """One message to publish: a document's body, or None to remove it."""

    host: str
    document: str
    body: bytes | None


@dataclass(frozen=True, slots=True)
class Published:
    """A message that the server has stored: its revision, and the monotonic time at which it was sent.

    `at` is None for messages of earlier publications, whose time is unknown.
    """

    host: str
    document: str
    revision: int
    removed: bool
    at: float | None


def difference(wanted: Mapping[str, Mapping[str, Document]], stored: Iterable[Stored]) -> list[Change]:
    """Return what to publish so that the stream holds `wanted`, and nothing else of those hosts."""
    bodies = {
        (host, name): codec.encode(document)
        for host, documents in wanted.items()
        for name, document in documents.items()
    }
    held = {subjects.parse_config(s.subject): s.body for s in stored if not streams.is_delete(s.headers, s.body)}
    removed = [Change(host, name, None) for host, name in held if host in wanted and (host, name) not in bodies]
    changed = [Change(*key, body) for key, body in bodies.items() if key in held and held[key] != body]
    added = [Change(*key, body) for key, body in bodies.items() if key not in held]
    return [*removed, *changed, *added]


async def publish_difference(
    client: Client,
    wanted: Mapping[str, Mapping[str, Document]],
    on_published: Callable[[Published], None] = lambda _: None,
) -> list[Published]:
    """Read what the stream holds, publish what differs, and return what was published."""
    return await publish(client, difference(wanted, await read_hosts(client, wanted)), on_published)


async def read_hosts(client: Client, hosts: Iterable[str]) -> list[Stored]:
    """Return what the stream holds for some hosts."""
    stored: list[Stored] = []
    for host in hosts:
        stored += await read_stream(client, streams.CONFIG_STREAM, subjects.config_of(host))
    return stored


async def held_only_by_hosts(
    client: Client, wanted: Mapping[str, Mapping[str, Document]], stored: Iterable[Stored]
) -> list[Change]:
    """Return the removals of documents that hosts keep, and neither the stream has a message of nor is wanted.

    A host keeps what the stream no longer lists until a message removes it. Hosts that do not answer are left out.
    """
    known = {subjects.parse_config(one.subject) for one in stored}
    changes: list[Change] = []
    for host, documents in wanted.items():
        try:
            held = await _held(client, host)
        except (BusError, DocumentError):
            continue
        changes += [Change(host, name, None) for name in held if name not in documents and (host, name) not in known]
    return changes


async def _held(client: Client, host: str) -> list[str]:
    """Return the names of the documents that a host has."""
    names: list[str] = []
    after = ""
    while True:
        answer = await ask(client, host, "documents", codec.encode(DocumentsRequest(after=after, limit=MAX_PAGE)))
        page = codec.decode(answer, DocumentsReply)
        names += [one.document for one in page.documents if not one.removed]
        if not page.next:
            return names
        after = page.next


async def publish(
    client: Client, changes: Iterable[Change], on_published: Callable[[Published], None] = lambda _: None
) -> list[Published]:
    """Publish without waiting for each confirmation, then wait for all; BusError when one is refused or missing."""
    pipeline = _Pipeline(client, on_published)
    await pipeline.open()
    try:
        for change in changes:
            await pipeline.send(change)
        return await pipeline.finish()
    finally:
        await pipeline.close()


class _Pipeline:
    """Messages in flight, each confirmed on a reply subject of its own under one inbox."""

    def __init__(self, client: Client, on_published: Callable[[Published], None]) -> None:
        self.client = client
        self.on_published = on_published
        self.inbox = client.new_inbox()
        self.sent: list[tuple[Change, float]] = []
        self.done: dict[int, Published] = {}
        self.refused: list[str] = []
        self.progress = asyncio.Event()

    async def open(self) -> None:
        self.subscription = await self.client.subscribe(
            f"{self.inbox}.*", cb=self._confirmed, pending_msgs_limit=-1, pending_bytes_limit=-1
        )

    async def close(self) -> None:
        await self.subscription.unsubscribe()

    async def send(self, change: Change) -> None:
        subject = subjects.config(change.host, change.document)
        headers = message_headers(self.client, subject, change.body)
        if change.body is None:
            headers["Nats-TTL"] = DELETE_TTL
        index = len(self.sent)
        self.sent.append((change, time.monotonic()))
        try:
            await self.client.publish(subject, change.body or b"", reply=f"{self.inbox}.{index}", headers=headers)
        except NatsError as error:
            raise BusError(f"{change.host} {change.document}: {error}") from error
        if index % 200 == 199:
            await asyncio.sleep(0)  # lets confirmations in while a large batch goes out

    async def _confirmed(self, message: Msg) -> None:
        index = int(message.subject.rpartition(".")[2])
        change, at = self.sent[index]
        headers = message.headers or {}
        answer = json.loads(message.data) if message.data else {}
        if "seq" not in answer:
            reason = answer.get("error", {}).get("description") or headers.get("Status", "no answer")
            self.refused.append(f"{change.host} {change.document}: {reason}")
        else:
            published = Published(change.host, change.document, answer["seq"], change.body is None, at)
            self.done[index] = published
            self.on_published(published)
        self.progress.set()

    async def finish(self) -> list[Published]:
        while len(self.done) + len(self.refused) < len(self.sent):
            self.progress.clear()
            try:
                async with asyncio.timeout(ACK_TIMEOUT):
                    await self.progress.wait()
            except TimeoutError:
                missing = len(self.sent) - len(self.done) - len(self.refused)
                raise BusError(f"{missing} of {len(self.sent)} documents were not confirmed by the server") from None
        if self.refused:
            more = f" (and {len(self.refused) - 1} more)" if len(self.refused) > 1 else ""
            raise BusError(f"the server refused {self.refused[0]}{more}")
        return [self.done[index] for index in sorted(self.done)]


def bulk_changes(host: str, name: str, endpoints: Iterable[Endpoint], per_document: int) -> Iterable[Change]:
    """Cut endpoints into documents `<name>.<number>` of a host in their order, encoded one by one as they are taken."""
    chunk: list[Endpoint] = []
    number = 0
    for endpoint in endpoints:
        chunk.append(endpoint)
        if len(chunk) == per_document:
            yield Change(host, f"{name}.{number}", codec.encode(Document(endpoints=tuple(chunk))))
            chunk, number = [], number + 1
    if chunk:
        yield Change(host, f"{name}.{number}", codec.encode(Document(endpoints=tuple(chunk))))
