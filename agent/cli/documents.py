"""Reads a document from the stream and publishes it again, as a controller does, for commands that change one."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import NamedTuple

import nkeys
from nats.aio.msg import Msg
from nats.errors import NoRespondersError
from nats.errors import TimeoutError as NatsTimeoutError

from agent.bus.connection.jetstream import parse_pub_ack
from agent.cli.session import Access, RequestFailed, Session, read_acknowledgement
from protocol import binding, streams, subjects
from protocol.acknowledgements import Acknowledgement

WRONG_LAST_SEQUENCE = 10071
"""The server's error for a message that expects another predecessor."""

NO_DOCUMENTS = (
    f"the server has no stream {streams.CONFIG_STREAM} that allows direct gets: check --server, or have the "
    "controller create the stream"
)


class Stored(NamedTuple):
    """A document in the stream: `version` is that of its signature, 0 without."""

    revision: int
    version: int
    body: bytes


class DocumentStream:
    """The stream of documents, on one connection. Its methods raise RequestFailed, or PermissionDenied."""

    def __init__(self, bus: Session, access: Access) -> None:
        self._bus = bus
        self._access = access

    async def read(self, host: str, document: str) -> Stored:
        """Return the newest message of a document."""
        subject = subjects.config(host, document)
        question = json.dumps({"last_by_subj": subject}).encode()
        answer = await self._request(f"$JS.API.DIRECT.GET.{streams.CONFIG_STREAM}", question, {})
        headers = answer.headers or {}
        if headers.get("Nats-Subject") != subject or streams.is_delete(headers, answer.data):
            raise RequestFailed(f"the stream {streams.CONFIG_STREAM} holds no document {document} of {host}")
        return Stored(int(headers["Nats-Sequence"]), binding.version_of(headers) or 0, answer.data)

    async def publish(self, host: str, document: str, body: bytes, replaces: Stored) -> int:
        """Publish a document in the place of the message that was read, and return its revision."""
        subject = subjects.config(host, document)
        headers = {
            **self._headers(subject, body, replaces.version),
            "Nats-Expected-Last-Subject-Sequence": str(replaces.revision),
        }
        answer = parse_pub_ack((await self._request(subject, body, headers)).data)
        if answer.error is not None and answer.error.err_code == WRONG_LAST_SEQUENCE:
            raise RequestFailed(f"document {document} of {host} was just published by another client; run this again")
        if answer.error is not None:
            raise RequestFailed(f"document {document} of {host} was not stored: {answer.error.description}")
        return answer.seq

    async def publish_and_wait(self, host: str, document: str, body: bytes, replaces: Stored) -> Acknowledgement:
        """Publish a document, and return the host's acknowledgement of this revision or of a newer one."""
        coming = await self._bus.watch(subjects.ack(host, document))
        revision = await self.publish(host, document, body, replaces)
        try:
            async with asyncio.timeout(self._access.timeout):
                while True:
                    known = read_acknowledgement(*await anext(coming))
                    if known is not None and known[1].revision >= revision:
                        return known[1]
        except TimeoutError:
            raise RequestFailed(
                f"document {document} was published as revision {revision}, and {host} did not acknowledge it within "
                f"{self._access.timeout:g} seconds (--timeout); see dropletctl acks --host {host} --document {document}"
            ) from None

    async def _request(self, subject: str, body: bytes, headers: dict[str, str]) -> Msg:
        request = self._bus.connection.request(subject, body, timeout=self._access.timeout, headers={**headers} or None)
        try:
            return await self._bus.permitted(request, subject)
        except NoRespondersError:
            raise RequestFailed(NO_DOCUMENTS) from None
        except NatsTimeoutError:
            raise RequestFailed(f"the server did not answer within {self._access.timeout:g} seconds") from None

    def _headers(self, subject: str, body: bytes, version: int) -> dict[str, str]:
        """Return the headers that bind a document to its subject, signed if there is a seed to sign with."""
        seed = self._access.settings.nkey_seed_file
        if not seed:
            return binding.bound(subject)
        pair = nkeys.from_seed(bytearray(Path(seed).read_bytes().strip()))
        following = max(version + 1, time.time_ns() // 1000)
        signature = pair.sign(binding.signed_bytes(subject, following, body, removes=False))
        return binding.signed(subject, following, pair.public_key.decode(), signature)
