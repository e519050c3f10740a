"""Pings by ping(8) inside a namespace, with the time of every answer."""

from __future__ import annotations

import re
from dataclasses import dataclass

from controller_sim.namespaces import run_in

_TIME = re.compile(r"icmp_seq=(\d+) .*time=([\d.]+) ms")


@dataclass(frozen=True, slots=True)
class Pinged:
    """Round trips in microseconds by sequence number from 1, for those that were answered."""

    sent: int
    times: dict[int, float]

    @property
    def answered(self) -> int:
        """How many answers came."""
        return len(self.times)

    @property
    def first(self) -> float | None:
        """The first packet's round trip in microseconds."""
        return self.times.get(1)

    @property
    def later(self) -> float | None:
        """The median round trip of the packets after the second, in microseconds."""
        times = sorted(time for number, time in self.times.items() if number > 2)
        return times[len(times) // 2] if times else None


def ping(
    namespace: str, address: str, count: int = 3, interval: float = 0.02, wait: float = 1.0, size: int = 56
) -> Pinged:
    """Send `count` echo requests, `interval` seconds apart, and wait `wait` seconds for the last answer.

    `size` is that of the ICMP payload in bytes. The family is the address's.
    """
    options = ["-n", "-c", str(count), "-i", str(interval), "-W", str(wait), "-s", str(size)]
    done = run_in(namespace, ["ping", "-6" if ":" in address else "-4", *options, address])
    return Pinged(count, {int(number): float(time) * 1e3 for number, time in _TIME.findall(done.stdout)})
