"""Pings by ping(8) inside a namespace, with the time of every answer."""

from __future__ import annotations

import re
import signal
import subprocess
from dataclasses import dataclass

from controller_sim.interrupts import interrupted_afterwards, uninterrupted
from controller_sim.namespaces import entered

MAX_COUNT = 65535
"""ICMP's sequence numbers, each once."""
SIZES = (16, 65507)
"""Bytes of payload: the time stamp that ping(8) puts in, and what an IPv4 packet of 65535 bytes holds."""
FOREVER = 1e6
"""Seconds. With a limit, what was read before a Ctrl-C is kept for the next communicate()."""
_TIME = re.compile(r"icmp_seq=(\d+) .*time=([\d.]+) ms")
_SENT = re.compile(r"(\d+) packets transmitted")


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


class PingInterrupted(KeyboardInterrupt):
    """Ctrl-C; `so_far` is what was sent and answered until then."""

    def __init__(self, so_far: Pinged) -> None:
        super().__init__()
        self.so_far = so_far


def ping(
    namespace: str, address: str, count: int = 3, interval: float = 0.02, wait: float = 1.0, size: int = 56
) -> Pinged:
    """Send `count` echo requests, `interval` seconds apart; an answer that comes late counts as lost.

    ping(8) waits `wait` seconds for the last answer only while there is none at all, otherwise twice the longest round
    trip, and one interval at the least.

    `size` is that of the ICMP payload in bytes. The family is the address's. Ctrl-C raises PingInterrupted.
    """
    options = ["-n", "-c", str(count), "-i", str(interval), "-W", str(wait), "-s", str(size)]
    argv = entered(namespace, ["ping", "-6" if ":" in address else "-4", *options, address])
    # In a session of its own: Ctrl-C reaches this process alone, which asks ping(8) for what it has.
    running: subprocess.Popen[str] | None = None
    try:
        with interrupted_afterwards():
            running = subprocess.Popen(
                argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True
            )
        return Pinged(count, _times(running.communicate(timeout=FOREVER)[0]))
    except KeyboardInterrupt:
        if running is None:
            raise
        with uninterrupted():
            running.send_signal(signal.SIGINT)
            said = running.communicate()[0]
        sent = _SENT.search(said)
        raise PingInterrupted(Pinged(int(sent[1]) if sent else 0, _times(said))) from None
    finally:
        if running is not None and running.poll() is None:
            running.kill()
            running.wait()


def _times(said: str) -> dict[int, float]:
    return {int(number): float(time) * 1e3 for number, time in _TIME.findall(said)}
