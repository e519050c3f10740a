"""One function in a process: who may serve it, who does, and whether packets reach it.

A process that connects gets pairs and sockets of its own, one for each queue. Once it is ready, packets go to its pairs
by one write; the process before it is asked to answer what it has, and its pairs go when it ends. Where nobody serves,
or the process takes nothing for some time, the function's program treats packets as `on_fault` says.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import socket
import struct
import time
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import structlog

from agent.datapath.processes import messages
from agent.datapath.processes.pair import LONGEST, Pair, Pairs
from agent.datapath.processes.sockets import Progress, Sockets

UNTIL_READY = 10.0
"""Seconds for a process to map what it got."""
UNTIL_ENDED = 5.0
"""Seconds for a process to answer what it has after another one took over."""
LOOK = 0.1
"""Seconds between two looks at a process's progress."""
UNTIL_BACK = 10.0
"""Seconds for the process of an agent before this one to connect here; nobody watches it until then."""
MOST_CONNECTIONS = 8
"""Connections of one function at a time."""
MOST_MESSAGES = 16
"""Messages of one process, of which there are three kinds: more are a flood."""
_LAST_UID = (1 << 32) - 2
_SO_PEERCRED, _UCRED = 17, struct.Struct("=iII")

log = structlog.get_logger()


class UnknownUserError(ValueError):
    """The document names a user that this host does not have."""


def user_of(text: str) -> int:
    """Return the number of a user by name or number; UnknownUserError if there is none of this name."""
    if text.isdecimal() and text.isascii():
        if int(text) > _LAST_UID:
            raise UnknownUserError(f"there is no user {text}: the last number is {_LAST_UID}")
        return int(text)
    try:
        return pwd.getpwnam(text).pw_uid
    except (KeyError, ValueError):  # the second for names that no user can have
        raise UnknownUserError(f"this host has no user {text!r}") from None


@dataclass(slots=True)
class Session:
    """One process with its pairs and sockets; `lane` is the first socket's."""

    connection: socket.socket
    pid: int
    pairs: Pairs
    lane: int
    sockets: Sockets


@dataclass(frozen=True, slots=True)
class Plumbing:
    """What a served function needs of the kernel's part."""

    make: Callable[[], Awaitable[tuple[Pairs, int, Sockets]]]
    """Make pairs and their sockets; return them with the first one's lane."""
    remove: Callable[[Pairs], Awaitable[None]]
    remove_others: Callable[[Collection[Pair]], Awaitable[None]]
    """Remove pairs of the function but these: an agent before this one left them."""
    direct: Callable[[Pairs, int], None]
    """Let packets go to pairs and their lanes, or with no pair to nobody."""


class Queues(NamedTuple):
    """How packets reach a process."""

    number: int
    zero_copy: bool


class ServedFunction:
    """Listens for processes of one function until `close`."""

    def __init__(self, id_: str, path: Path, uid: int, plumbing: Plumbing, hang: float) -> None:
        self.id, self.path, self.uid = id_, path, uid
        self._plumbing, self._hang = plumbing, hang
        self.fault = "no process serves it"
        """Why packets do not reach a process, empty if they do."""
        self._current: Session | None = None
        self._pairs: set[Pair] = set()
        self._left = False
        self._taking_over = asyncio.Lock()
        """Held from the making of a pair until its process is ready: each needs a lane of its own."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._listening = _listen(path, uid)
        self._inode = path.stat().st_ino
        self._start(self._accept())
        self._start(self._give_up_older())

    @property
    def queues(self) -> Queues | None:
        """The queues by which packets reach a process now, None if they reach none."""
        session = self._current
        if session is None or self.fault:
            return None
        return Queues(len(session.pairs), session.sockets.zero_copy)

    def _start(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.warning("function_process_failed", function=self.id, reason=str(error))

    async def _accept(self) -> None:
        """Accept connections. Others run also while they keep coming."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, _ = await loop.sock_accept(self._listening)
            except OSError as error:  # too many open files, or a connection that has ended already
                log.warning("function_connection_failed", function=self.id, reason=str(error))
                await asyncio.sleep(LOOK)
                continue
            connection.setblocking(False)
            if len(self._tasks) > MOST_CONNECTIONS:
                connection.close()
                await asyncio.sleep(LOOK)
                continue
            self._start(self._talk(connection))
            await asyncio.sleep(0)

    async def _give_up_older(self) -> None:
        """Take the process of an agent before this one out of the path if it does not connect: it may hang."""
        await asyncio.sleep(UNTIL_BACK)
        async with self._taking_over:
            if self._current is None:
                self._plumbing.direct((), 0)
                await self._plumbing.remove_others(self._pairs)

    async def _talk(self, connection: socket.socket) -> None:
        """Serve one connection to its end."""
        session: Session | None = None
        try:
            pid, uid, _ = _UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, _SO_PEERCRED, _UCRED.size))
            reason = await self._reason_against(connection, uid)
            if reason:
                await _say(connection, messages.refused(reason))
                return
            async with self._taking_over:
                pairs, lane, sockets = await self._plumbing.make()
                self._pairs.update(pairs)
                session = Session(connection, pid, pairs, lane, sockets)
                if not await self._hand_over(session):
                    return
                await self._direct_to(session)
            await self._follow(session)
        except (OSError, TimeoutError) as error:
            log.warning("function_process_refused", function=self.id, reason=str(error))
            with contextlib.suppress(OSError):
                connection.send(messages.refused(f"the agent cannot make sockets: {error}"))
        finally:
            connection.close()
            if session is not None:
                await self._end(session)

    async def _reason_against(self, connection: socket.socket, uid: int) -> str:
        if uid != self.uid:
            return f"function {self.id!r} is to be served by user {self.uid}, not by {uid}"
        async with asyncio.timeout(UNTIL_READY):
            asked = messages.read_hello(await _hear(connection))
        if asked != self.id:
            return f"this socket is for function {self.id!r} by version {messages.VERSION} of the protocol"
        return ""

    async def _hand_over(self, session: Session) -> bool:
        """Give the sockets to a process, and return whether it is ready."""
        offer = messages.handover(session.sockets.offer(self.id, LONGEST))
        socket.send_fds(session.connection, [offer], session.sockets.descriptors)
        async with asyncio.timeout(UNTIL_READY):
            return messages.kind_of(await _hear(session.connection)) == "ready"

    async def _direct_to(self, session: Session) -> None:
        """Let packets go to a process, and ask the one before it to end."""
        before, self._current = self._current, session
        self._plumbing.direct(session.pairs, session.lane)
        self.fault = ""
        log.info("function_process_began", function=self.id, pid=session.pid)
        if before is not None:
            await _say(before.connection, messages.stop())
            asyncio.get_running_loop().call_later(UNTIL_ENDED, _shut, before.connection)
        else:
            self._start(self._remove_older())

    async def _remove_older(self) -> None:
        """Remove the pair to which packets went when this agent started, once what was on its way is answered."""
        await asyncio.sleep(UNTIL_ENDED)
        async with self._taking_over:
            await self._plumbing.remove_others(self._pairs)

    async def _follow(self, session: Session) -> None:
        """Follow a process until it ends, or talks too much."""
        watch = asyncio.ensure_future(self._watch(session))
        try:
            for _ in range(MOST_MESSAGES):
                if not (raw := await _hear(session.connection)):
                    break
                if messages.kind_of(raw) == "stopping":
                    self._leave(session, "its process is stopping")
                    await _say(session.connection, messages.stop())
        finally:
            watch.cancel()

    def _leave(self, session: Session, why: str) -> None:
        if self._current is session:
            self._current = None
            self._plumbing.direct((), session.lane)
            self.fault = why

    async def _watch(self, session: Session) -> None:
        """Take a process out of the path that takes no packets of some queue, and put it back when it does."""
        seen, stuck = list(session.sockets.progress()), set[int]()
        since = [time.monotonic()] * len(seen)
        while True:
            await asyncio.sleep(min(LOOK, self._hang / 4))
            hung = bool(stuck)
            for queue, now in enumerate(session.sockets.progress()):
                if now.own != seen[queue].own or not (queue in stuck or _lags(seen[queue], now)):
                    seen[queue], since[queue] = now, time.monotonic()
                    stuck.discard(queue)
                elif time.monotonic() - since[queue] >= self._hang:
                    stuck.add(queue)
            if hung != bool(stuck):
                self._direct(session, hangs=not hung)

    def _direct(self, session: Session, *, hangs: bool) -> None:
        if self._current is session:
            self._plumbing.direct(() if hangs else session.pairs, session.lane)
            self.fault = f"its process {session.pid} takes no packets" if hangs else ""
            if hangs:
                log.warning("function_process_hung", function=self.id, pid=session.pid)
            else:
                log.info("function_process_went_on", function=self.id, pid=session.pid)

    async def _end(self, session: Session) -> None:
        if self._left:
            session.sockets.close()
            return
        try:
            self._leave(session, "no process serves it")
        finally:
            session.sockets.close()
        await self._plumbing.remove(session.pairs)
        self._pairs.difference_update(session.pairs)
        log.info("function_process_ended", function=self.id, pid=session.pid)

    async def leave(self) -> None:
        """Close all descriptors, and leave the process in the path: its pair stays."""
        self._left = True
        await self.close()

    async def close(self) -> None:
        """End: listen no more, and let go of the processes and their pairs."""
        with contextlib.suppress(FileNotFoundError):
            if self.path.stat().st_ino == self._inode:  # else of the same function at another point
                self.path.unlink()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._listening.close()


def _lags(before: Progress, now: Progress) -> bool:
    """Return whether packets wait for a process, or were dropped because it did not take them."""
    return now.waiting > 0 or now.dropped != before.dropped


def _listen(path: Path, uid: int) -> socket.socket:
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    made = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    try:
        made.setblocking(False)
        before = os.umask(0o177)
        try:
            made.bind(str(path))
        finally:
            os.umask(before)
        _give(path, uid)
        made.listen()
    except BaseException:
        made.close()
        raise
    return made


def _give(path: Path, uid: int) -> None:
    """Let only this user connect. Without CAP_CHOWN others may, too: who they are is asked of the kernel then."""
    try:
        os.chown(path, uid, -1)
    except PermissionError:
        path.chmod(0o666)


async def _hear(connection: socket.socket) -> bytes:
    """Wait for a message; empty when the process has ended. Others run also while messages keep coming."""
    await asyncio.sleep(0)
    with contextlib.suppress(ConnectionError):
        return await asyncio.get_running_loop().sock_recv(connection, messages.LONGEST_MESSAGE)
    return b""


async def _say(connection: socket.socket, message: bytes) -> None:
    with contextlib.suppress(OSError):
        connection.send(message)


def _shut(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
