"""Conversations between two namespaces with every byte compared."""

from __future__ import annotations

import concurrent.futures
import contextlib
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from lab.traffic import receive

from controller_sim.lab.namespaces import call_in, run_in

PATIENCE = 240.0
"""Seconds after which what is waited for counts as never coming: emulation is slow."""
TCP_PORT, UDP_PORT, LASTING_PORT = 7100, 7101, 7102

T = TypeVar("T")


def until(condition: Callable[[], T], what: str, seconds: float = PATIENCE) -> T:
    """Wait until a function returns something true, and return that."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"{what} never came"
        time.sleep(0.1)
    return found


def ping(namespace: str, address: str, count: int = 3) -> int:
    """Return how many of some echo requests were answered."""
    done = run_in(namespace, ["ping", "-n", "-q", "-c", str(count), "-i", "0.2", "-W", "3", address])
    head, found, _ = done.stdout.partition(" received")
    return int(head.rpartition(" ")[2]) if found else 0  # without a route ping(8) sends nothing


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def exchange_tcp(client: str, server: str, address: str, size: int) -> None:
    """Send `size` random bytes in each direction over one connection to an address of the server, and compare them."""
    there, back = (random.Random(f"{client} {server} {way}").randbytes(size) for way in range(2))
    where = (address, TCP_PORT)
    listener = call_in(server, lambda: socket.create_server(where, family=_family(address)))

    def serve() -> bytes:
        connection, _ = listener.accept()
        with connection:
            connection.settimeout(PATIENCE)
            got = receive(connection, size)
            connection.sendall(back)
            return got

    with listener, concurrent.futures.ThreadPoolExecutor(1) as pool:
        listener.settimeout(PATIENCE)
        served = pool.submit(serve)
        with call_in(client, lambda: socket.create_connection(where, timeout=PATIENCE)) as dialled:
            dialled.sendall(there)
            got_back = receive(dialled, size)
        assert served.result(PATIENCE) == there, "what the server got differs"
        assert got_back == back, "what the client got differs"


class Conversation:
    """One TCP connection by which blocks go there and back; `blocks` counts those that came back as they were sent."""

    BLOCK = 4096

    def __init__(self, client: str, server: str, address: str) -> None:
        where = (address, LASTING_PORT)
        with call_in(server, lambda: socket.create_server(where, family=_family(address))) as listener:
            self.one = call_in(client, lambda: socket.create_connection(where, timeout=PATIENCE))
            self.other, _ = listener.accept()
        self.other.settimeout(PATIENCE)
        self.blocks = 0
        self.ended = threading.Event()

    def run(self) -> None:
        """Go on until it is ended; an error of the connection, or a block that differs, is raised."""
        while not self.ended.is_set():
            sent = random.Random(self.blocks).randbytes(self.BLOCK)
            self.one.sendall(sent)
            self.other.sendall(receive(self.other, self.BLOCK))
            assert receive(self.one, self.BLOCK) == sent
            self.blocks += 1

    def wait_for_more(self) -> None:
        """Wait for more blocks than can have been in flight."""
        wanted = self.blocks + 3
        until(lambda: self.blocks >= wanted, "the next block")


@contextlib.contextmanager
def unbroken_conversation(client: str, server: str, address: str) -> Iterator[Conversation]:
    """Have one TCP connection in use during a block, to whose end it must last."""
    made = Conversation(client, server, address)
    with made.one, made.other, concurrent.futures.ThreadPoolExecutor(1) as pool:
        running = pool.submit(made.run)
        try:
            yield made
        finally:
            made.ended.set()
        running.result(PATIENCE)


def exchange_udp(asking: str, answering: str, address: str, sizes: list[int]) -> None:
    """Send a datagram of each size to an address and have it sent back reversed, without a loss; compare it."""

    def bound(port: int) -> socket.socket:
        made = socket.socket(_family(address), socket.SOCK_DGRAM)
        made.bind(("", port))
        made.settimeout(PATIENCE)
        return made

    with call_in(asking, lambda: bound(0)) as one, call_in(answering, lambda: bound(UDP_PORT)) as other:
        for size in sizes:
            data = random.Random(f"{asking} {answering} {size}").randbytes(size)
            one.sendto(data, (address, UDP_PORT))
            got, sender = other.recvfrom(1 << 16)
            assert got == data, f"{size} bytes, there"
            other.sendto(got[::-1], sender)
            assert one.recv(1 << 16) == data[::-1], f"{size} bytes, back"


def converse(one: str, one_address: str, other: str, other_address: str) -> None:
    """Ping, exchange datagrams and transfer over TCP, begun from either side."""
    assert ping(one, other_address) == 3, f"{one} to {other_address}"
    assert ping(other, one_address) == 3, f"{other} to {one_address}"
    exchange_udp(one, other, other_address, [0, 1, 1000, 1300])
    exchange_udp(other, one, one_address, [0, 1, 1000, 1300])
    exchange_tcp(one, other, other_address, 300_000)
    exchange_tcp(other, one, one_address, 300_000)
