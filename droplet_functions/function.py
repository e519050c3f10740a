"""A network function in a process: takes packets of the data plane and answers each with a verdict."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from os import PathLike
from pathlib import Path
from types import FrameType, TracebackType
from typing import Self

from droplet_functions import barriers
from droplet_functions.channel import default_path
from droplet_functions.counters import Counters
from droplet_functions.engine import Batch, Engine, Options
from droplet_functions.handlers import BatchHandler, Handlers, PacketHandler
from droplet_functions.meta import Meta, originated
from droplet_functions.replay import Replayed, replay
from droplet_functions.verdict import GO_ON, Verdict

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Function:
    """A network function.

    `run` serves until SIGTERM, SIGINT, `stop` or the agent ends it; `async for batch in function` does so in asyncio.

    - `name`: of the function in the configuration; `socket`: where the agent listens, by default
      `/run/droplet/functions/<name>.sock` or what DROPLET_FUNCTION_SOCKET says.
    - `on_error`: the verdict of packets whose handler fails.
    - `batch`: packets that are handled at once, at most.
    - `reconnect`: connect again when the agent is restarted; else its end is the function's.
    - `own_packets`: frames of each queue that are kept for packets that `send` makes.
    - `wait_for_agent`: seconds to wait for the agent at the start. `stop_within`: seconds to wait for it, and for
      answers to be sent, at the end.
    """

    def __init__(
        self,
        name: str,
        *,
        socket: str | PathLike[str] | None = None,
        on_error: Verdict = GO_ON,
        batch: int = 64,
        reconnect: bool = True,
        own_packets: int = 0,
        wait_for_agent: float = 0.0,
        stop_within: float = 1.0,
    ) -> None:
        if batch < 1:
            raise ValueError(f"batch={batch}: a batch has at least one packet")
        if not isinstance(on_error, Verdict):
            raise TypeError(f"on_error={on_error!r}: give a verdict, such as GO_ON or drop(255)")
        self.name = name
        self.counters = Counters()
        self._socket = Path(socket) if socket is not None else None
        self._options = Options(batch, reconnect, wait_for_agent, stop_within, own_packets)
        self._handlers = Handlers(name, on_error, self.counters)
        self._engine: Engine | None = None
        self._batch: Batch | None = None
        self._stopped = False

    def on_packet(self, handler: PacketHandler) -> PacketHandler:
        """Take a handler of single packets, which returns the verdict. A decorator."""
        self._handlers.set_packet(handler)
        return handler

    def on_batch(self, handler: BatchHandler) -> BatchHandler:
        """Take a handler of batches, which sets `verdict` of each packet. A decorator."""
        self._handlers.set_batch(handler)
        return handler

    def stop(self) -> None:
        """End `run` or `async for` once everything that has arrived is answered. From any thread."""
        self._stopped = True
        if self._engine is not None:
            self._engine.request_stop()

    def send(self, packet: bytes | bytearray | memoryview, endpoint_slot: int) -> bool:
        """Send a packet, from its Ethernet header on, as the function endpoint whose packets have this `endpoint_slot`.

        From a handler, or in asyncio. Returns False if it cannot be sent now: no sockets yet, no free frame
        (`own_packets`), or longer than a frame holds.
        """
        return self._engine is not None and self._engine.originate(originated(endpoint_slot, len(packet)), packet)

    def run(self) -> None:
        """Serve until the end. NoAgentError or RefusedError when it cannot begin, HandoverError or RingError later."""
        if self._handlers.missing:
            raise ValueError(f"function {self.name!r} has no handler: decorate one with @function.on_packet")
        engine = self._open()
        try:
            with self._signals():
                while not engine.ended:
                    now = time.monotonic()
                    if batch := engine.step(now):
                        self._handle(engine, batch)
                    elif not engine.ended:
                        engine.waiting.wait(engine.timeout(now))
        finally:
            self._close()

    def _handle(self, engine: Engine, batch: Batch) -> None:
        try:
            self._handlers.handle(batch)
        finally:
            engine.answer()

    def replay(
        self,
        capture: str | PathLike[str],
        *,
        write: str | PathLike[str] | None = None,
        meta: Meta | None = None,
    ) -> Iterator[Replayed]:
        """Run the handler on the packets of a capture file; see `droplet_functions.replay.replay`."""
        if self._handlers.missing:
            raise ValueError(f"function {self.name!r} has no handler: decorate one with @function.on_packet")
        return replay(capture, self._handlers, write=write, meta=meta or Meta())

    def _open(self) -> Engine:
        if self._engine is not None:
            raise RuntimeError(f"function {self.name!r} is running already")
        path = self._socket or default_path(self.name)
        self._engine = Engine(self.name, path, barriers.choose(), self.counters, self._options)
        if self._stopped:
            self._engine.request_stop()
        return self._engine

    def _close(self) -> None:
        if self._engine is not None:
            self._engine.close()
        self._engine, self._stopped = None, False

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """Stop on SIGTERM and SIGINT, in the main thread; others cannot set handlers."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def stop(_number: int, _frame: FrameType | None) -> None:
            self.stop()

        before = {number: signal.signal(number, stop) for number in STOP_SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def __aiter__(self) -> Self:
        """Return itself: `async for batch in function` sets `verdict` of each packet of a batch."""
        return self

    async def __anext__(self) -> Batch:
        """Send the answers of the batch before, and wait for the next one."""
        engine = self._engine or self._open()
        try:
            self._finish_batch()
            while not engine.ended:
                now = time.monotonic()
                if batch := engine.step(now):
                    self._batch = batch
                    await asyncio.sleep(0)  # other tasks run also while packets keep coming
                    return batch
                if not engine.ended:
                    await _readable(engine.waiting.fileno(), engine.timeout(now))
        except BaseException:
            self._finish_batch()
            self._close()
            raise
        self._close()
        raise StopAsyncIteration

    async def __aenter__(self) -> Self:
        """Enter: `async with function:` ends cleanly also when the body of `async for` raises or breaks."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Answer the last batch, packets without a verdict by `on_error`, and let go of everything."""
        self._finish_batch()
        self._close()

    def _finish_batch(self) -> None:
        if self._batch is not None and self._engine is not None:
            batch, self._batch = self._batch, None
            self._handlers.complete(batch)
            self._engine.answer()


async def _readable(descriptor: int, seconds: float) -> None:
    """Wait until a descriptor is readable, or for some seconds."""
    loop = asyncio.get_running_loop()
    event = asyncio.Event()
    loop.add_reader(descriptor, event.set)
    try:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await event.wait()
    finally:
        loop.remove_reader(descriptor)
