"""Whatever happens to the probes of a path, in whatever order, it goes on being probed and its silence is noticed."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count

from hypothesis import given, settings
from hypothesis import strategies as st

from agent.core.probe.icmp_errors import Problem, TunnelError
from agent.core.probe.paths import Liveness, Path, PathRecord, Probe, Rules, View
from agent.core.probe.probe_packet import smallest
from agent.core.probe.probing import Probing

PATHS = tuple(Path(bytes([10, 0, 0, 1]), bytes([10, 0, 1, last])) for last in (1, 2))
SIZE, NARROW = 1500, 1400
RULES = Rules(check_every=20, narrow_every=20)
LEAST_SLEEP = 0.01
LONGEST = 120.0
"""Seconds within which every path is checked again, whatever was found at the last check."""
PAUSES = (0.0, 0.005, 0.25, 0.9, 1.0, 1.1, 4.0, 30.0)

EVENTS = (
    *("answer",) * 4,
    *("answer late", "refuse", "fail", "do not send"),
    *("quoted unreachable", "quoted too large", "unreachable", "too large"),
    *("cut off", "restored", "forget", "follow", "follow as up", "follow as down", "resize", "expire"),
)
histories = st.lists(
    st.tuples(st.sampled_from(EVENTS), st.integers(0, len(PATHS) - 1), st.sampled_from(PAUSES)), max_size=40
)
"""What happens to which path, and how many seconds pass after it."""


class Host:
    """A host whose probes are answered, refused, lost or doubted as a test says, in virtual time."""

    def __init__(self) -> None:
        serial = count(1)
        self.now = 100.0
        self.probing = Probing(RULES, lambda: next(serial).to_bytes(8, "big"))
        self.sizes = dict.fromkeys(PATHS, SIZE)
        self.cut: set[bytes] = set()
        self.waiting: list[Probe] = []
        """Probes that nothing has happened to yet."""
        self.asked: dict[Path, tuple[bytes, float]] = {}
        """The nonce of the small probe that each path waits for, and when its time is up."""
        self.probing.set_paths(self.sizes, self.now)

    def happen(self, event: str, path: Path, pause: float) -> None:
        """Send what is due, have one thing happen to a path, and let time pass."""
        self.waiting += self.due()
        probe = next((one for one in reversed(self.waiting) if one.path == path), None)
        if probe is not None and self._happens_to(event, probe):
            self.waiting.remove(probe)
        self._happens_to_path(event, path)
        self.now += pause

    def due(self) -> list[Probe]:
        """Return the probes to be sent now; a path is asked anew only when it does not wait for an answer any more."""
        probes = self.probing.due(self.now)
        for probe in probes:
            if probe.size == smallest(probe.path.peer):
                _, until = self.asked.get(probe.path, (b"", self.now))
                assert self.now >= until, "it is asked already"
                self.asked[probe.path] = probe.nonce, self.now + RULES.deadline
        return probes

    def _happens_to(self, event: str, probe: Probe) -> bool:
        """Have something happen to a probe; say whether it did."""
        probing, nonce = self.probing, probe.nonce
        match event:
            case "answer":
                probing.answered(probe.path, nonce, self.now)
            case "answer late":
                probing.expire(self.now)
                probing.answered(probe.path, nonce, self.now)
            case "refuse":
                probing.too_long(nonce, self.now)
            case "fail":
                probing.unroutable(nonce, self.now, "no route")
            case "do not send":
                probing.not_sent(nonce, self.now)
            case "quoted unreachable":
                probing.on_icmp_error(TunnelError(probe.path, Problem.UNREACHABLE, None, nonce), self.now)
            case "quoted too large":
                probing.on_icmp_error(TunnelError(probe.path, Problem.TOO_LARGE, NARROW, nonce), self.now)
            case _:
                return False
        if self.asked.get(probe.path, (b"", 0.0))[0] == nonce and event not in ("refuse", "quoted too large"):
            del self.asked[probe.path]
        return True

    def _happens_to_path(self, event: str, path: Path) -> None:
        known = {"follow as up": PathRecord(), "follow as down": PathRecord(down=True)}
        match event:
            case "unreachable":
                self.probing.on_icmp_error(TunnelError(path, Problem.UNREACHABLE), self.now)
            case "too large":
                self.probing.on_icmp_error(TunnelError(path, Problem.TOO_LARGE, NARROW), self.now)
            case "cut off" | "restored":
                (self.cut.add if event == "cut off" else self.cut.discard)(path.peer)
                self.probing.unreachable(frozenset(self.cut), self.now)
            case "forget":
                self.sizes.pop(path, None)
                self.asked.pop(path, None)
                self.probing.set_paths(self.sizes, self.now)
            case "follow" | "follow as up" | "follow as down":
                self.sizes.setdefault(path, SIZE)
                self.probing.set_paths(self.sizes, self.now, {path: known[event]} if event in known else {})
            case "resize":
                self.sizes[path] = SIZE if self.sizes.get(path) != SIZE else 9000
                self.probing.set_paths(self.sizes, self.now)
            case "expire":
                self.probing.expire(self.now)

    def settle(self, carried: int, until: Callable[[View], bool]) -> None:
        """Let only what wakes the agent happen until a condition holds for each path; probes up to a size are answered.

        AssertionError when nothing will happen any more, or when it takes longer than two checks of a path may.
        """
        latest = self.now + LONGEST
        while not all(map(until, self.views())):
            at = self.probing.wake_at()
            assert at is not None, f"nothing will ever happen again: {self.views()}"
            self.now = max(self.now + LEAST_SLEEP, at)
            assert self.now < latest, f"still {self.views()}"
            self.probing.expire(self.now)
            for probe in self.due():
                if probe.size <= carried:
                    self.asked.pop(probe.path, None)
                    self.probing.answered(probe.path, probe.nonce, self.now)

    def views(self) -> list[View]:
        return list(self.probing.views())


def after(history: list[tuple[str, int, float]]) -> Host:
    """Return a host to which all that happened, whose uplinks and routes are in the end as they were at first."""
    host = Host()
    for event, index, pause in history:
        host.happen(event, PATHS[index], pause)
    host.probing.set_paths(dict.fromkeys(PATHS, SIZE), host.now)
    host.probing.unreachable(frozenset(), host.now)
    return host


@settings(max_examples=200)
@given(histories)
def test_whatever_happened_a_peer_that_falls_silent_is_down_after_a_while(
    history: list[tuple[str, int, float]],
) -> None:
    host = after(history)
    up = {view.path for view in host.views() if view.liveness is Liveness.UP}
    host.settle(0, lambda view: view.liveness is not Liveness.UP)
    assert up == {view.path for view in host.views() if view.liveness is Liveness.DOWN and view.path in up}


@settings(max_examples=200)
@given(histories)
def test_whatever_happened_a_peer_that_answers_is_up_after_a_while(history: list[tuple[str, int, float]]) -> None:
    after(history).settle(SIZE, lambda view: view.liveness is Liveness.UP and view.usable == SIZE)


@settings(max_examples=200)
@given(histories)
def test_whatever_happened_what_a_path_carries_is_found_after_a_while(history: list[tuple[str, int, float]]) -> None:
    after(history).settle(NARROW, lambda view: view.liveness is Liveness.UP and view.carries == NARROW == view.usable)


@settings(max_examples=200)
@given(histories)
def test_whatever_happened_every_path_is_probed_about_once_a_second(
    history: list[tuple[str, int, float]],
) -> None:
    """And never while it waits for an answer: see `Host.due`."""
    host = after(history)
    smallest_size = smallest(PATHS[0].peer)
    last: dict[Path, float] = dict.fromkeys(PATHS, host.now)
    end = host.now + 30
    while host.now < end:
        at = host.probing.wake_at()
        assert at is not None
        host.now = max(host.now + LEAST_SLEEP, at)
        host.probing.expire(host.now)
        for probe in host.due():
            if probe.size == smallest_size:
                assert host.now - last[probe.path] <= RULES.interval + RULES.deadline
                last[probe.path] = host.now
    assert min(last.values()) > end - 3 * RULES.deadline
