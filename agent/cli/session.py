"""The bus as `dropletctl` uses it: one connection, queries, discovery and the stream of acknowledgements."""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import click
import msgspec
from nats.errors import Error, NoRespondersError
from nats.errors import TimeoutError as NatsTimeoutError

from agent.bus.connection.client import Connection, connect, publish_command
from agent.bus.connection.errors import describe
from agent.bus.connection.jetstream import parse_headers
from agent.bus.connection.settings import BusSettings, shown
from agent.cli.permission_errors import PermissionDenied, PermissionErrors
from protocol import codec, permissions, rpc, status, streams, subjects
from protocol.acknowledgements import Acknowledgement
from protocol.errors import DocumentError

T = TypeVar("T")

CLONE_NEWNET = 0x40000000
NO_ACKS = (
    f"the server has no stream {streams.ACK_STREAM} that allows direct gets: check --server, or "
    "have the controller create the stream"
)
PING = "$SRV.PING.droplet"
PAGE = 500
"""Acknowledgements in one page of a direct get."""


class RequestFailed(click.ClickException):
    """A host does not reply, replies with an error, or has nothing of what was asked for.

    `code` is that of the host's error, 0 without.
    """

    exit_code = 1

    def __init__(self, message: str, code: int = 0) -> None:
        super().__init__(message)
        self.code = code


class Unreachable(click.ClickException):
    """The bus cannot be reached."""

    exit_code = 3


@dataclass(frozen=True, slots=True)
class Access:
    """How to reach the bus, from options, environment and configuration file. `wait` and `timeout` are in seconds.

    `hint` is added when no server can be reached.
    """

    settings: BusSettings
    netns: str | None = None
    wait: float = 1.0
    timeout: float = 5.0
    hint: str = ""


def enter_netns(name: str) -> None:
    """Move this process into a network namespace, by its name under /run/netns or by its path."""
    path = name if "/" in name else f"/run/netns/{name}"
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise click.UsageError(f"--netns: {path}: {error.strerror}; `ip netns list` lists the names") from None
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.setns(descriptor, CLONE_NEWNET) != 0:
            raise click.UsageError(f"--netns: cannot enter {path}: {os.strerror(ctypes.get_errno())}")
    finally:
        os.close(descriptor)


@dataclass(frozen=True, slots=True)
class Call:
    """The hosts whose agents answer, and those that are known from the stream but do not answer; both sorted."""

    present: list[str]
    absent: list[str]


class Session:
    """Queries on one connection."""

    def __init__(self, connection: Connection, access: Access, permission_errors: PermissionErrors) -> None:
        self.connection = connection
        self._access = access
        self._permission_errors = permission_errors

    async def ask(self, host: str, verb: str, question: msgspec.Struct | None, into: type[T]) -> T:
        """Return a host's answer; raise RequestFailed, or PermissionDenied if the server refuses it."""
        body = b"" if question is None else codec.encode(question)
        subject = subjects.rpc(host, verb)
        try:
            request = self.connection.request(subject, body, timeout=self._access.timeout)
            answer = await self._permission_errors.unless(request, subject)
        except NoRespondersError:
            raise RequestFailed(
                f"{host} does not answer: its agent is down, or there is no such host (a host, not a droplet)"
            ) from None
        except NatsTimeoutError:
            raise RequestFailed(f"{host} did not answer within {self._access.timeout:g} seconds (--timeout)") from None
        headers = answer.headers or {}
        if "Nats-Service-Error" in headers:
            code = headers.get("Nats-Service-Error-Code", "")
            raise RequestFailed(f"{host}: {headers['Nats-Service-Error']}", int(code) if code.isdecimal() else 0)
        try:
            return codec.decode(answer.data, into)
        except DocumentError as error:
            raise RequestFailed(
                f"the reply of {host} cannot be decoded; its agent may have another version: {error}"
            ) from None

    async def permitted(self, work: Awaitable[T], subject: str) -> T:
        """Await work that publishes to a subject and waits for answers; raise PermissionDenied if it is refused."""
        return await self._permission_errors.unless(work, subject)

    async def hosts(self) -> list[str]:
        """Return the hosts whose agents answer a ping, sorted."""
        found: set[str] = set()

        def take(_subject: bytes, _reply: bytes, body: bytes, _headers: bytes | None) -> None:
            try:
                host = json.loads(body)["metadata"]["host"]
            except (ValueError, KeyError, TypeError):
                return
            if isinstance(host, str) and subjects.is_host(host):
                found.add(host)

        inbox = self.connection.new_inbox()
        await self.connection.receive(inbox, take)
        self.connection.post([publish_command(PING.encode(), b"", inbox.encode())])
        await self._permission_errors.unless(asyncio.sleep(self._access.wait), PING)
        return sorted(found)

    async def call(self, host: str | None) -> Call:
        """Return the one host that was named, or all; raise RequestFailed if there is none."""
        if host is not None:
            return Call([host], [])
        present, known = await asyncio.gather(self.hosts(), self._known_hosts())
        if not present and not known:
            raise RequestFailed(
                f"no host answered within {self._access.wait:g} seconds (--wait); check that agents use this bus"
            )
        return Call(present, sorted(known - set(present)))

    async def _known_hosts(self) -> set[str]:
        """Return the hosts that have documents according to the stream, if there is one.

        A server does not answer for a stream that does not exist, so it has only as much time as the hosts.
        """
        try:
            found = await self.stored_acknowledgements(streams.ACK_SUBJECTS, self._access.wait)
        except (RequestFailed, PermissionDenied):  # a monitor need not be allowed to read them
            return set()
        return {host for host, item in found if not item.removed}

    async def status(self, host: str) -> status.Status:
        """Return the status of a host."""
        return await self.ask(host, "status", None, status.Status)

    async def objects(self, host: str, kind: str) -> list[Any]:
        """Return all objects of a kind on a host, page by page."""
        found: list[Any] = []
        after = ""
        while True:
            page = await self.ask(host, "get", rpc.GetRequest(kind, after), rpc.GetReply)
            found += getattr(page, kind)
            if not page.next:
                return sorted(found, key=lambda item: str(item.id))
            after = page.next

    async def documents(self, host: str) -> list[Acknowledgement]:
        """Return the newest acknowledgement of each document of a host, as the host itself reports it."""
        found: list[Acknowledgement] = []
        after = ""
        while True:
            page = await self.ask(host, "documents", rpc.DocumentsRequest(after), rpc.DocumentsReply)
            found += page.documents
            if not page.next:
                return found
            after = page.next

    async def peers(self, host: str) -> list[rpc.PeerPath]:
        """Return a host's paths to other droplets."""
        found: list[rpc.PeerPath] = []
        after = ""
        while True:
            page = await self.ask(host, "peers", rpc.PeersRequest(after), rpc.PeersReply)
            found += page.peers
            if not page.next:
                return found
            after = page.next

    async def stored_acknowledgements(
        self, filter_subject: str, patience: float | None = None
    ) -> list[tuple[str, Acknowledgement]]:
        """Return host and newest acknowledgement of each document, sorted.

        They are read from the stream by direct get (ADR-31 of NATS). Each page must arrive within `patience` seconds.
        One that is stored again meanwhile comes on a later page, too.
        """
        patience = self._access.timeout if patience is None else patience
        found: dict[tuple[str, str], Acknowledgement] = {}
        sequence = 1
        while True:
            page, more = await self._page(filter_subject, sequence, patience)
            for subject, number, body in page:
                sequence = max(sequence, number + 1)
                known = read_acknowledgement(subject, body)
                if known is not None:
                    found[known[0], known[1].document] = known[1]
            if not page or not more:
                return [(host, found[host, document]) for host, document in sorted(found)]

    async def _page(
        self, filter_subject: str, sequence: int, patience: float
    ) -> tuple[list[tuple[str, int, bytes]], bool]:
        question = {"seq": sequence, "next_by_subj": filter_subject, "batch": PAGE}
        page: list[tuple[str, int, bytes]] = []
        end: asyncio.Future[tuple[int, int]] = asyncio.get_running_loop().create_future()

        def take(_subject: bytes, _reply: bytes, body: bytes, headers: bytes | None) -> None:
            code, _, fields = parse_headers(headers)
            if "Nats-Subject" in fields:
                page.append((fields["Nats-Subject"], int(fields.get("Nats-Sequence", 0)), body))
            elif not end.done():
                end.set_result((code, int(fields.get("Nats-Num-Pending", 0))))

        inbox = self.connection.new_inbox()
        await self.connection.receive(inbox, take)
        subject = f"$JS.API.DIRECT.GET.{streams.ACK_STREAM}"
        self.connection.post([publish_command(subject.encode(), json.dumps(question).encode(), inbox.encode())])
        try:
            async with asyncio.timeout(patience):
                code, pending = await self._permission_errors.unless(end, subject)
        except TimeoutError:
            raise RequestFailed(NO_ACKS) from None
        if code not in (204, 404):
            raise RequestFailed(NO_ACKS)
        return page, pending > 0

    async def watch(self, subject: str) -> AsyncIterator[tuple[str, bytes]]:
        """Subscribe, and return an iterator over subject and body of each message until the connection is lost."""
        queue: asyncio.Queue[tuple[str, bytes]] = asyncio.Queue()

        def take(subject: bytes, _reply: bytes, body: bytes, _headers: bytes | None) -> None:
            queue.put_nowait((subject.decode("utf-8", "replace"), body))

        await self.connection.receive(subject, take)
        return self._from(queue)

    async def _from(self, queue: asyncio.Queue[tuple[str, bytes]]) -> AsyncIterator[tuple[str, bytes]]:
        lost = asyncio.create_task(self.connection.lost.wait())
        try:
            while True:
                following = asyncio.create_task(queue.get())
                await asyncio.wait([lost, following], return_when=asyncio.FIRST_COMPLETED)
                if not following.done():
                    following.cancel()
                    raise Unreachable("the connection to the bus was lost; run the command again")
                yield following.result()
        finally:
            lost.cancel()


def read_acknowledgement(subject: str, body: bytes) -> tuple[str, Acknowledgement] | None:
    """Return host and acknowledgement of a message, None if it is not an acknowledgement."""
    try:
        return subjects.parse_ack(subject).host, codec.decode(body, Acknowledgement)
    except ValueError:
        return None


@asynccontextmanager
async def session(access: Access, inbox: str = permissions.OPERATOR_INBOX) -> AsyncIterator[Session]:
    """Connect for the duration of a block, to the first server that accepts; raise Unreachable if none does.

    `inbox` is the prefix of the subjects for replies that the credentials may subscribe to.
    """
    if access.netns:
        enter_netns(access.netns)
    reasons = []
    permission_errors = PermissionErrors(inbox)
    for server in access.settings.servers:
        try:
            connection = await connect(
                server,
                access.settings,
                name="dropletctl",
                inbox_prefix=inbox,
                on_error=permission_errors.take,
            )
        except Exception as error:
            reasons.append(f"{shown(server)}: {describe(error)}")
            continue
        try:
            yield Session(connection, access, permission_errors)
        except Error as error:
            raise Unreachable(f"{shown(server)}: {describe(error)}") from None
        finally:
            await connection.close()
        return
    raise Unreachable("; ".join(reasons) + access.hint)
