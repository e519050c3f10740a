"""Publishes many endpoints to one host as fast as the server takes them, and waits until all are realized."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass

from nats.aio.client import Client

from controller_sim.control.convergence import Report, watching
from controller_sim.control.publisher import bulk_changes, publish
from protocol.documents import Endpoint


@dataclass(frozen=True, slots=True)
class Bulk:
    """Seconds from the first document's publishing to the last one's confirmation, and to the last answer."""

    documents: int
    published: float
    realized: float | None
    report: Report


async def publish_bulk(
    client: Client, host: str, name: str, endpoints: Iterable[Endpoint], per_document: int, patience: float = 120.0
) -> Bulk:
    """Publish documents `<name>.<number>`; they are encoded before the clock starts.

    `realized` is None if a document is not realized after `patience` seconds; the report names these. BusError
    when the server refuses a document or does not confirm it.
    """
    changes = list(bulk_changes(host, name, endpoints, per_document))
    async with watching(client) as watcher:
        began = time.monotonic()
        await publish(client, changes, watcher.tracker.expect)
        published = time.monotonic() - began
        converged = await watcher.wait(patience)
        realized = time.monotonic() - began if converged else None
        return Bulk(len(changes), published, realized, watcher.tracker.report())
