"""What a function does next: connects, takes hand-overs, gives out batches, stops. It never waits and reads no clock.

`run` and asyncio are two ways to wait for it: `waiting` becomes readable when there is something to do, or after
`timeout` seconds. Times are those of a monotonic clock, in seconds.
"""

from __future__ import annotations

import logging
import os
import select
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path

from droplet_functions import handover
from droplet_functions.barriers import Barriers
from droplet_functions.channel import Arrived, Channel
from droplet_functions.counters import Counters
from droplet_functions.errors import HandoverError, NoAgentError, RefusedError
from droplet_functions.handover import Handover, Refused, Stop
from droplet_functions.packet import Packet
from droplet_functions.session import Session
from droplet_functions.waiting import Waiting
from droplet_functions.xsk_queue import Queue

log = logging.getLogger("droplet_functions")

LOOK_UP = 0.01
"""Seconds between looks at the connection while packets keep coming."""
FIRST_RETRY, LAST_RETRY = 0.05, 2.0
RETRY_SENDING = 0.01
"""Seconds until frames that the kernel would not send are tried again."""


class State(Enum):
    """How far the engine is. While CONNECTING it still serves what an earlier agent handed over."""

    CONNECTING = auto()
    SERVING = auto()
    STOPPING = auto()
    DRAINING = auto()
    ENDED = auto()


@dataclass(frozen=True, slots=True)
class Options:
    """What the user chose; seconds. `own_packets`: frames of each queue that are kept for packets of its own."""

    batch: int
    reconnect: bool
    wait_for_agent: float
    stop_within: float
    own_packets: int = 0


Batch = tuple[Packet, ...]
"""Packets of one queue that wait for their verdicts. Nothing that the user does to it can lose a packet."""


class Engine:
    """The state machine of a function."""

    def __init__(self, name: str, path: Path, barriers: Barriers, counters: Counters, options: Options) -> None:
        self.state = State.CONNECTING
        self._name, self._path, self._barriers = name, path, barriers
        self._counters, self._options = counters, options
        self._channel: Channel | None = None
        self._session: Session | None = None
        self._leaving: list[tuple[Session, float]] = []
        """Sessions that are drained, and until when."""
        self._retry, self._retry_at, self._deadline, self._look_at = FIRST_RETRY, 0.0, float("inf"), 0.0
        self._begun_at: float | None = None
        self._turn = 0
        self._asked: tuple[Queue, Batch] | None = None
        """The batch that waits for its verdicts, and its queue."""
        self._stop_wanted = False
        self.waiting = Waiting()

    @property
    def ended(self) -> bool:
        """Whether everything is done, and let go of."""
        return self.state is State.ENDED

    def request_stop(self) -> None:
        """Stop at the next step; for signal handlers and other threads."""
        self._stop_wanted = True
        self.waiting.ring()

    def timeout(self, now: float) -> float:
        """Return for how many seconds there is nothing to do without an event."""
        times = [now + 1.0, self._deadline, *(until for _, until in self._leaving)]
        if self.state is State.CONNECTING and self._channel is None:
            times.append(self._retry_at)
        if self._leaving or any(queue.unsent for queue in self.queues()):
            times.append(now + RETRY_SENDING)
        return max(0.0, min(times) - now)

    def step(self, now: float) -> Batch | None:
        """Do what can be done without waiting; return packets that wait for verdicts, or None when there are none.

        They are answered (`answer`) before the next step.
        """
        if now >= self._look_at or self._stop_wanted:
            self._look_at = now + LOOK_UP
            self._look(now)
        queues = self.queues()
        for count in range(len(queues)):
            queue = queues[(self._turn + count) % len(queues)]
            if packets := self._serve(queue):
                self._turn += count + 1
                self._asked = queue, tuple(packets)
                return self._asked[1]
        self._look_at = now
        return None

    def answer(self) -> None:
        """Send the answers of the batch that `step` returned last, once; every packet of it has its verdict."""
        if self._asked is not None:
            (queue, packets), self._asked = self._asked, None
            queue.answer(packets)

    def originate(self, head: bytes, packet: bytes | bytearray | memoryview) -> bool:
        """Send a packet of the function's own behind its metadata; False if that is impossible now."""
        found = [] if self._session is None else self._session.queues.values()
        return any(queue.originate(head, packet) for queue in found)

    def queues(self) -> list[Queue]:
        """Return the queues that are served now."""
        return [queue for one in self._sessions() for queue in one.queues.values()]

    def _serve(self, queue: Queue) -> list[Packet]:
        queue.reap()
        queue.refill()
        if queue.unsent:
            queue.flush()
        return [] if queue.has_answers_waiting else queue.receive(self._options.batch)

    def _look(self, now: float) -> None:
        """Look at the connection, the wish to stop, and what has to be waited for."""
        if self._begun_at is None:
            self._begun_at = now
        self.waiting.silence()
        if self._stop_wanted and self.state in (State.CONNECTING, State.SERVING):
            self._begin_stop(now)
        if self.state is State.CONNECTING and self._channel is None and now >= self._retry_at:
            self._connect(now)
        self._read_channel(now)
        if self.state is State.STOPPING and now >= self._deadline:
            self._drain(now)
        self._end_drained(now)
        for session in self._sessions():
            self.waiting.watch(session.events())

    def _connect(self, now: float) -> None:
        self._retry_at, self._retry = now + self._retry, min(2 * self._retry, LAST_RETRY)
        try:
            self._channel = Channel(self._path, self._name)
        except NoAgentError:
            if not self._may_retry(now):
                raise
            return
        self.waiting.watch({self._channel.fileno(): select.EPOLLIN})

    def _may_retry(self, now: float) -> bool:
        """Say whether the agent may come later: it has been there before, or the user waits for it."""
        been = self._counters.connections > 0 and self._options.reconnect
        return been or (self._begun_at is not None and now < self._begun_at + self._options.wait_for_agent)

    def _read_channel(self, now: float) -> None:
        while self._channel is not None:
            try:
                arrived = self._channel.receive()
                if arrived is not None:
                    self._take(arrived, now)
            except (HandoverError, RefusedError) as error:
                self._hang_up()
                if not self._may_retry(now):
                    raise
                log.warning("handover_failed function=%s reason=%s", self._name, error)
                self._reconnect(now)
                return
            if self._channel is not None and self._channel.ended:
                self._lost_agent(now)
                return
            if arrived is None:
                return

    def _take(self, arrived: Arrived, now: float) -> None:
        message = arrived.message
        if isinstance(message, Handover):
            self._start(message, arrived.descriptors, now)
            return
        for descriptor in arrived.descriptors:
            os.close(descriptor)
        if isinstance(message, Refused):
            raise RefusedError(f"the agent refuses to serve {self._name!r}: {message.reason}")
        if isinstance(message, Stop):
            self._drain(now)

    def _start(self, offer: Handover, descriptors: tuple[int, ...], now: float) -> None:
        self._let_go_of_same(descriptors)
        made = Session(offer, descriptors, self._barriers, self._counters)
        for queue in made.queues.values():
            queue.kept = min(self._options.own_packets, queue.frames.count // 2)
        if self._session is not None:
            self._leave(self._session, now)
        self._session = made
        if self.state is State.CONNECTING:
            self.state = State.SERVING
        self._counters.connections += 1
        self._retry = FIRST_RETRY
        made.start()
        assert self._channel is not None
        self._channel.send(handover.ready())
        log.info("handover_taken function=%s queues=%d frames=%d", self._name, len(offer.queues), offer.frame_count)

    def _let_go_of_same(self, descriptors: tuple[int, ...]) -> None:
        """Close the session that uses the very sockets that are handed over anew: a ring has one user at a time."""
        if self._session is not None and self._session.shares(descriptors):
            for queue in self._session.queues.values():
                queue.flush()
            self._close_session(self._session)
            self._session = None

    def _leave(self, session: Session, now: float) -> None:
        """Answer what has arrived in a session, receive nothing more, and close it then."""
        for queue in session.queues.values():
            queue.receives = False
        self._leaving.append((session, now + self._options.stop_within))

    def _lost_agent(self, now: float) -> None:
        self._hang_up()
        if self.state is State.STOPPING:
            self._drain(now)
        if self.state is not State.SERVING and self.state is not State.CONNECTING:
            return
        if self._may_retry(now):
            log.warning("agent_disconnected function=%s", self._name)
            self._reconnect(now)
        elif self._session is None:
            raise NoAgentError(f"{self._path}: the agent ended the connection without handing over any sockets")
        else:
            self._drain(now)

    def _reconnect(self, now: float) -> None:
        """Connect again a little later; what was handed over before is served meanwhile."""
        if self.state is State.SERVING:
            self.state = State.CONNECTING
        self._retry_at = now + self._retry

    def _hang_up(self) -> None:
        if self._channel is not None:
            self.waiting.forget(self._channel.fileno())
            self._channel.close()
            self._channel = None

    def _begin_stop(self, now: float) -> None:
        """Ask the agent to send no more; without one, or an answer in time, go on without it."""
        self._stop_wanted = False
        self._deadline = now + self._options.stop_within
        self.state = State.STOPPING
        if self._channel is None or self._session is None:
            self._drain(now)
        else:
            self._channel.send(handover.stopping())

    def _drain(self, now: float) -> None:
        if self.state is State.DRAINING:
            return
        self.state, self._deadline = State.DRAINING, float("inf")
        if self._session is not None:
            self._leave(self._session, now)
            self._session = None

    def _end_drained(self, now: float) -> None:
        for entry in list(self._leaving):
            session, until = entry
            if session.drained or now >= until:
                self._leaving.remove(entry)
                self._close_session(session)
        if self.state is State.DRAINING and not self._leaving:
            self.state = State.ENDED

    def _sessions(self) -> list[Session]:
        return [*([self._session] if self._session else []), *(old for old, _ in self._leaving)]

    def _close_session(self, session: Session) -> None:
        for descriptor in session.queues:
            self.waiting.forget(descriptor)
        session.close()

    def close(self) -> None:
        """Let go of everything at once."""
        for session in self._sessions():
            self._close_session(session)
        self._session, self.state = None, State.ENDED
        self._leaving.clear()
        self._hang_up()
        self.waiting.close()
