"""The controller's side of NATS: connects, owns the streams and consumers, and reads what a stream holds."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy, DiscardPolicy, StorageType, StreamConfig
from nats.js.errors import NotFoundError

from controller_sim.control.signing import Signer, read_signer
from protocol import binding, streams, subjects
from protocol.permissions import CONTROLLER_INBOX

PAGE = 1000
"""Messages of one direct get."""
CONNECT_TIMEOUT = 10.0
READ_TIMEOUT = 10.0


class BusError(RuntimeError):
    """The server cannot be reached, refused something, or did not answer in time."""


@dataclass(frozen=True, slots=True)
class Access:
    """How to reach the server: an address as tls://HOST:PORT, an nkey seed's file, and the authority's certificate."""

    server: str
    seed: Path
    authority: Path


class SigningClient(Client):
    """A client that signs what it publishes for hosts."""

    signer: Signer


def message_headers(client: Client, subject: str, body: bytes | None) -> dict[str, str]:
    """Return the headers of a message for a host: a document, or its removal where `body` is None.

    They are signed where the client can; hosts without trusted publishers ask for the subject alone.
    """
    removes = body is None
    marks = streams.DELETE_HEADERS if removes else {}
    if isinstance(client, SigningClient):
        return {**marks, **client.signer.headers(subject, body or b"", removes=removes)}
    return {**marks, **binding.bound(subject)}


@dataclass(frozen=True, slots=True)
class Stored:
    """One message of a stream."""

    subject: str
    sequence: int
    headers: dict[str, str]
    body: bytes


@asynccontextmanager
async def connected(access: Access, name: str = "controller") -> AsyncIterator[SigningClient]:
    """Connect once, or raise BusError; a connection that breaks later comes back by itself."""
    errors: list[Exception] = []

    async def remember(error: Exception) -> None:
        errors.append(error)

    client = SigningClient()
    context = ssl.create_default_context(cafile=str(access.authority))
    try:
        client.signer = read_signer(access.seed)
        async with asyncio.timeout(CONNECT_TIMEOUT):
            await client.connect(
                access.server,
                name=name,
                tls=context,
                tls_handshake_first=True,
                nkeys_seed=str(access.seed),
                inbox_prefix=CONTROLLER_INBOX,
                error_cb=remember,
                allow_reconnect=True,
                max_reconnect_attempts=3,
                reconnect_time_wait=1,
                ping_interval=10,
            )
    except (NatsError, OSError, TimeoutError) as error:
        raise BusError(f"{access.server}: {errors[0] if errors else error or 'no answer'}") from error
    try:
        yield client
    finally:
        await client.close()


async def ensure_streams(client: Client) -> None:
    """Create both streams, or bring them to what they should be."""
    js = client.jetstream()
    for config in (
        _stream(streams.CONFIG_STREAM, streams.CONFIG_SUBJECTS),
        _stream(streams.ACK_STREAM, streams.ACK_SUBJECTS),
    ):
        try:
            await js.stream_info(config.name or "")
        except NotFoundError:
            await js.add_stream(config)
        else:
            await js.update_stream(config)


def _stream(name: str, subject: str) -> StreamConfig:
    return StreamConfig(
        name=name,
        subjects=[subject],
        max_msgs_per_subject=streams.MESSAGES_PER_SUBJECT,
        discard=DiscardPolicy.OLD,
        storage=StorageType.FILE,
        allow_rollup_hdrs=True,
        allow_direct=True,
        allow_msg_ttl=True,
    )


async def ensure_consumers(client: Client, hosts: list[str]) -> None:
    """Create one durable pull consumer per host, named by it and filtered to its documents."""
    js = client.jetstream()
    for host in hosts:
        await js.add_consumer(
            streams.CONFIG_STREAM,
            ConsumerConfig(
                durable_name=host,
                filter_subject=subjects.config_of(host),
                deliver_policy=DeliverPolicy.ALL,
                ack_policy=AckPolicy.EXPLICIT,
                ack_wait=30,
                max_ack_pending=10_000,
                max_waiting=16,
            ),
        )


async def read_stream(client: Client, stream: str, subject: str) -> list[Stored]:
    """Return the messages of a stream under a subject filter, by direct get in pages (nats-server >= 2.11)."""
    found: list[Stored] = []
    inbox = client.new_inbox()
    subscription = await client.subscribe(inbox, pending_msgs_limit=-1, pending_bytes_limit=-1)
    try:
        start = 1
        while True:
            request = {"batch": PAGE, "seq": start, "next_by_subj": subject}
            await client.publish(f"$JS.API.DIRECT.GET.{stream}", json.dumps(request).encode(), reply=inbox)
            count, pending = 0, 0
            while True:
                message = await _next(subscription, stream)
                headers = message.headers or {}
                if "Status" in headers:
                    pending = _end_of_page(headers, stream)
                    break
                found.append(_stored(headers, message.data))
                count += 1
            if not pending or not count:
                return found
            start = found[-1].sequence + 1
    finally:
        await subscription.unsubscribe()


async def _next(subscription: Any, stream: str) -> Msg:
    try:
        message: Msg = await subscription.next_msg(timeout=READ_TIMEOUT)
    except NatsError as error:
        raise BusError(f"reading {stream}: no answer within {READ_TIMEOUT:.0f} s") from error
    return message


def _end_of_page(headers: dict[str, str], stream: str) -> int:
    """Return how many messages are left: 204 ends a page, 404 says that there is none."""
    status = headers["Status"]
    if status == "404":
        return 0
    if status != "204":
        raise BusError(f"reading {stream}: {status} {headers.get('Description', '')}")
    return int(headers.get("Nats-Num-Pending", "0"))


def _stored(headers: dict[str, str], body: bytes) -> Stored:
    return Stored(headers["Nats-Subject"], int(headers["Nats-Sequence"]), headers, body)


async def ask(client: Client, host: str, verb: str, body: bytes = b"", patience: float = 2.0) -> bytes:
    """Ask a host; BusError when it does not answer or answers with an error."""
    try:
        message = await client.request(subjects.rpc(host, verb), body, timeout=patience)
    except (NatsError, TimeoutError) as error:
        raise BusError(f"{host} does not answer `{verb}`: {error}") from error
    headers = message.headers or {}
    if "Nats-Service-Error" in headers:
        raise BusError(f"{host} answers `{verb}` with {headers['Nats-Service-Error']}")
    return message.data
