"""Publishes and logs what happens to paths: at most one event of a kind in a second, with a line for each path."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from structlog.typing import FilteringBoundLogger

from agent.core.model.overhead import needed_for_ipv6
from agent.core.probe.paths import Happened, Happening
from protocol.addresses import format_address

EVENT_SECONDS = 1.0
"""Between two events of one kind: what happens meanwhile comes in one of them."""
EVENT_LINES = 50

_WORDS = {
    Happened.DOWN: "answers no probes",
    Happened.UP: "answers again",
    Happened.NARROW: "carries {carries} of {size} bytes",
    Happened.RESTORED: "carries {size} bytes again",
}
_WORDS_CUT_OFF = {Happened.DOWN: "nothing leads there", Happened.UP: "can be reached again"}


class PathEvents:
    """What happened and was not published yet."""

    def __init__(self, publish: Callable[[str, tuple[str, ...]], None], log: FilteringBoundLogger) -> None:
        """Hand each event to `publish` as its kind and lines."""
        self._publish = publish
        self._log = log
        self._waiting: dict[Happened, list[Happening]] = {}
        self._next_at = 0.0

    def take(self, happenings: Iterable[Happening], name: Callable[[bytes], str], now: float) -> None:
        """Take in what happened, and publish what waits; `name` returns a peer's droplet."""
        for happening in happenings:
            self._waiting.setdefault(happening.kind, []).append(happening)
        if now < self._next_at or not self._waiting:
            return
        self._next_at = now + EVENT_SECONDS
        waiting, self._waiting = self._waiting, {}
        for kind, all_ in waiting.items():
            lines = [_line(happening, name) for happening in all_[:EVENT_LINES]]
            if len(all_) > EVENT_LINES:
                lines.append(f"and {len(all_) - EVENT_LINES} more")
            self._log.warning(kind.value, detail=lines)
            self._publish(kind.value, tuple(lines))


def _line(happening: Happening, name: Callable[[bytes], str]) -> str:
    path = happening.path
    words = (_WORDS_CUT_OFF if happening.cut_off else _WORDS)[happening.kind]
    if happening.unsent:
        words = f"cannot be sent to: {happening.unsent}"
    words = words.format(carries=happening.carries, size=happening.size)
    if happening.kind is Happened.NARROW and (happening.carries or 0) < (needed := needed_for_ipv6(path.peer)):
        words += f"; endpoints' IPv6 needs {needed}"
    return f"{name(path.peer)} ({format_address(path.peer)}) from {format_address(path.source)}: {words}"
