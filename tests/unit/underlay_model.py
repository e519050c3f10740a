"""An underlay of peers with loss, delay and path MTUs, in virtual time, to drive the pure core of probing."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count

from agent.core.probe.icmp_errors import Problem, TunnelError
from agent.core.probe.paths import Path, PathEvent, PathRecord, Probe, Rules, View
from agent.core.probe.probing import Probing

TICK = 0.01


@dataclass
class Far:
    """A peer and the way to it. `tells` routers answer what does not fit, with the probe quoted."""

    mtu: int = 9000
    delay: float = 0.001
    loss: float = 0.0
    silent: bool = False
    reports_mtu: bool = False


@dataclass
class Model:
    """Probes go in, answers come back at their time; `sent` has every probe with its time."""

    rules: Rules = field(default_factory=Rules)
    seed: int = 1
    now: float = 100.0
    far: dict[Path, Far] = field(default_factory=dict)
    sent: list[tuple[float, Probe]] = field(default_factory=list)
    events: list[tuple[float, PathEvent]] = field(default_factory=list)
    left: dict[Path, PathRecord | None] = field(default_factory=dict)
    """What agents left to those that started after them."""

    def __post_init__(self) -> None:
        self.serial = count(1)
        self.random = random.Random(self.seed)
        self.probing = Probing(self.rules, lambda: next(self.serial).to_bytes(8, "big"))
        self._coming: list[tuple[float, int, Callable[[], object]]] = []
        self._order = count()

    def add(self, number: int = 1, size: int = 1500, **far: object) -> list[Path]:
        made = [Path(bytes([10, 0, 0, 1]), (0x0A010000 + len(self.far) + i).to_bytes(4, "big")) for i in range(number)]
        self.far.update((path, Far(**far)) for path in made)
        sizes = {view.path: view.size for view in self.probing.views()}
        self.probing.set_paths(sizes | dict.fromkeys(made, size), self.now)
        return made

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while self.now < end:
            self.now += TICK
            while self._coming and self._coming[0][0] <= self.now:
                heapq.heappop(self._coming)[2]()
            self.probing.expire(self.now)
            for probe in self.probing.due(self.now):
                self.sent.append((self.now, probe))
                self._carry(probe)
            self.events += [(self.now, one) for one in self.probing.take_events()]

    def _carry(self, probe: Probe) -> None:
        far = self.far[probe.path]
        if self.random.random() < far.loss:
            return
        if probe.size > far.mtu:
            if far.reports_mtu:
                error = TunnelError(probe.path, Problem.TOO_LARGE, far.mtu, probe.nonce)
                self._later(far.delay, lambda: self.probing.on_icmp_error(error, self.now))
        elif not far.silent:
            self._later(far.delay, lambda: self.probing.answered(probe.path, probe.nonce, self.now))

    def _later(self, delay: float, what: Callable[[], object]) -> None:
        heapq.heappush(self._coming, (self.now + delay, next(self._order), what))

    def view(self, path: Path) -> View:
        return next(view for view in self.probing.views() if view.path == path)

    def kinds(self) -> list[str]:
        return [one.kind.value for _, one in self.events]
