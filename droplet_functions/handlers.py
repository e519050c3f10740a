"""Calls the user's handler and makes sure that every packet of a batch has a verdict afterwards. Pure."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from droplet_functions.counters import Counters
from droplet_functions.packet import Packet
from droplet_functions.verdict import Verdict

log = logging.getLogger("droplet_functions")

PacketHandler = Callable[[Packet], Verdict]
BatchHandler = Callable[[Sequence[Packet]], None]


class Handlers:
    """The user's handler, and the verdict `on_error` for packets whose handler fails."""

    def __init__(self, name: str, on_error: Verdict, counters: Counters) -> None:
        self._name, self._on_error, self._counters = name, on_error, counters
        self._packet: PacketHandler | None = None
        self._batch: BatchHandler | None = None
        self._logged: set[tuple[object, ...]] = set()

    @property
    def missing(self) -> bool:
        """Whether the user has given none."""
        return self._packet is None and self._batch is None

    def set_packet(self, handler: PacketHandler) -> None:
        """Take the handler of single packets; ValueError when there is one already."""
        self._refuse_second()
        self._packet = handler

    def set_batch(self, handler: BatchHandler) -> None:
        """Take the handler of batches; ValueError when there is one already."""
        self._refuse_second()
        self._batch = handler

    def _refuse_second(self) -> None:
        if not self.missing:
            raise ValueError(f"function {self._name!r} has a handler already: it takes one, of packets or of batches")

    def handle(self, packets: Sequence[Packet]) -> None:
        """Give each packet its verdict. What is no Exception (KeyboardInterrupt) passes, with all verdicts given."""
        try:
            if self._packet is not None:
                self._each(packets, self._packet)
            elif self._batch is not None:
                self._batch(packets)
        except Exception as error:
            self._log_once(error)
            self._fail(packets)
        finally:
            self.complete(packets)

    def _each(self, packets: Sequence[Packet], handler: PacketHandler) -> None:
        for packet in packets:
            try:
                packet.verdict = handler(packet)
            except Exception as error:
                self._log_once(error)
                self._fail((packet,))

    def complete(self, packets: Sequence[Packet]) -> None:
        """Give `on_error` to packets that have no verdict, or something else in its place, and log why."""
        for packet in packets:
            if packet.verdict.__class__ is not Verdict:
                self._log_not_a_verdict(packet.verdict)
                self._fail((packet,))

    def _fail(self, packets: Sequence[Packet]) -> None:
        for packet in packets:
            if packet.verdict.__class__ is not Verdict:
                self._counters.handler_errors += 1
                packet.verdict = self._on_error

    def _log_once(self, error: Exception) -> None:
        """Log an error with its traceback: the first of its type from its line."""
        trace = error.__traceback__
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        place = (trace.tb_frame.f_code.co_filename, trace.tb_lineno) if trace else None
        if self._is_new(type(error), place):
            log.error("handler_failed function=%s verdict=%s", self._name, self._on_error, exc_info=error)

    def _log_not_a_verdict(self, value: object) -> None:
        if self._is_new(type(value), "verdict"):
            advice = "return one, or set packet.verdict in batches: GO_ON, SEND_BACK, SEND, KEEP, drop(), send_to()"
            log.error("handler_failed function=%s reason=%r is no verdict: %s", self._name, value, advice)

    def _is_new(self, *kind: object) -> bool:
        if kind in self._logged:
            return False
        self._logged.add(kind)
        return True
