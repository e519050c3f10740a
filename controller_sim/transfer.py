"""A TCP transfer between two processes, for throughput: the data is compared as it arrives.

python -m controller_sim.transfer receive ADDRESS PORT | send ADDRESS PORT SECONDS

The receiver prints one line when it listens, and one with bytes, seconds, the longest silence in seconds, and whether
the data was right.
"""

from __future__ import annotations

import contextlib
import random
import socket
import subprocess
import sys
import time
from dataclasses import dataclass

from controller_sim.namespaces import entered

BLOCK = random.Random(1).randbytes(1 << 20)  # noqa: S311 - a pattern, no secret
TIMEOUT = 10.0


@dataclass(frozen=True, slots=True)
class Transfer:
    """What arrived: bytes, seconds from the first byte to the last, and whether it was what was sent.

    `silence` is the longest time in seconds in which nothing arrived.
    """

    size: int
    seconds: float
    right: bool
    silence: float = 0.0

    @property
    def words(self) -> str:
        """Say in one word whether the data was what was sent."""
        return "right" if self.right and self.size else "wrong"

    @property
    def gigabits(self) -> float:
        """Throughput in Gbit/s."""
        return self.size * 8 / self.seconds / 1e9 if self.seconds > 0 else 0.0


def transfer(source: str, destination: str, address: str, seconds: float = 2.0, port: int = 7008) -> Transfer:
    """Send for some seconds from one namespace to an address in another; nothing arrived is `right=False`."""
    # In sessions of their own: Ctrl-C reaches this process alone, which then ends them.
    own = [sys.executable, "-m", "controller_sim.transfer"]
    receiver = subprocess.Popen(
        entered(destination, [*own, "receive", address, str(port)]),
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    sender: subprocess.Popen[bytes] | None = None
    try:
        assert receiver.stdout is not None
        receiver.stdout.readline()
        argv = entered(source, [*own, "send", address, str(port), str(seconds)])
        sender = subprocess.Popen(argv, start_new_session=True)
        line = receiver.communicate(timeout=seconds + 2 * TIMEOUT)[0].split()
        if len(line) != 4:
            return Transfer(0, 0, False)
        return Transfer(int(line[0]), float(line[1]), line[3] == "right", float(line[2]))
    except subprocess.TimeoutExpired:
        return Transfer(0, 0, False)
    finally:
        for process in (sender, receiver):  # the other way round the sender would complain of its peer
            if process is not None:
                process.kill()
                process.wait()
        if receiver.stdout is not None:
            receiver.stdout.close()


def family_of(address: str) -> socket.AddressFamily:
    """Return the socket family of an address."""
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def receive(address: str, port: int) -> None:
    """Take one connection, read it to its end, and print what came."""
    with socket.create_server((address, port), family=family_of(address)) as listener:
        listener.settimeout(TIMEOUT)
        print("listening", flush=True)
        connection, _ = listener.accept()
    with connection:
        connection.settimeout(TIMEOUT)
        began, size, right = time.monotonic(), 0, True
        heard, silence = began, 0.0
        buffer, block = memoryview(bytearray(len(BLOCK))), memoryview(BLOCK)
        while True:
            offset = size % len(BLOCK)
            try:
                count = connection.recv_into(buffer[offset:])
            except OSError:
                count, right = 0, False
            if not count:
                break
            now = time.monotonic()
            heard, silence = now, max(silence, now - heard)
            right = right and buffer[offset : offset + count] == block[offset : offset + count]
            size += count
        print(size, time.monotonic() - began, silence, "right" if right else "wrong", flush=True)


def send(address: str, port: int, seconds: float) -> None:
    """Send the block over and over for some seconds."""
    with socket.create_connection((address, port), TIMEOUT) as connection:
        end = time.monotonic() + seconds
        with contextlib.suppress(OSError):  # the receiver tells what arrived
            while time.monotonic() < end:
                connection.sendall(BLOCK)


if __name__ == "__main__":
    if sys.argv[1] == "receive":
        receive(sys.argv[2], int(sys.argv[3]))
    else:
        send(sys.argv[2], int(sys.argv[3]), float(sys.argv[4]))
