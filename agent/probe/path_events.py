"""Publishes and logs path events: at most one event of a kind per second, with a line for each path."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import structlog

from agent.core.model.overhead import path_mtu_for_ipv6
from agent.core.probe.paths import PathEvent, PathEventKind
from protocol.addresses import format_address

EVENT_SECONDS = 1.0
"""Seconds between two events of one kind; changes in between are combined in one event."""
EVENT_LINES = 50

_WORDS = {
    PathEventKind.DOWN: "answers no probes",
    PathEventKind.UP: "answers again",
    PathEventKind.NARROW: "carries {carries} of {size} bytes",
    PathEventKind.RESTORED: "carries {size} bytes again",
}
_WORDS_UNREACHABLE = {PathEventKind.DOWN: "nothing leads there", PathEventKind.UP: "can be reached again"}

log = structlog.get_logger()


class PathEvents:
    """The path events that are not published yet."""

    def __init__(self, publish: Callable[[str, tuple[str, ...]], None]) -> None:
        """Call `publish` with the kind and the lines of each event."""
        self._publish = publish
        self._waiting: dict[PathEventKind, list[PathEvent]] = {}
        self._next_at = 0.0

    def take(self, events: Iterable[PathEvent], name: Callable[[bytes], str], now: float) -> None:
        """Add events, and publish those that are due; `name` returns a peer's droplet."""
        for event in events:
            self._waiting.setdefault(event.kind, []).append(event)
        if now < self._next_at or not self._waiting:
            return
        self._next_at = now + EVENT_SECONDS
        waiting, self._waiting = self._waiting, {}
        for kind, all_ in waiting.items():
            lines = [_line(event, name) for event in all_[:EVENT_LINES]]
            if len(all_) > EVENT_LINES:
                lines.append(f"and {len(all_) - EVENT_LINES} more")
            log.warning("paths_changed", kind=kind.value, detail=lines)
            self._publish(kind.value, tuple(lines))


def _line(event: PathEvent, name: Callable[[bytes], str]) -> str:
    path = event.path
    words = (_WORDS_UNREACHABLE if event.unreachable else _WORDS)[event.kind]
    if event.not_sent:
        words = f"cannot be sent to: {event.not_sent}"
    words = words.format(carries=event.carries, size=event.size)
    if event.kind is PathEventKind.NARROW and (event.carries or 0) < (needed := path_mtu_for_ipv6(path.peer)):
        words += f"; endpoints' IPv6 needs {needed}"
    return f"{name(path.peer)} ({format_address(path.peer)}) from {format_address(path.source)}: {words}"
