"""What the demo of functions sends from endpoints: datagrams to many ports, spoofed ones, and DNS questions."""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address

from controller_sim.lab.namespaces import call_in
from controller_sim.talk.transfer import family_of

DNS = 53
TYPES = {"A": 1, "AAAA": 28}
CODES = {0: "no such record", 3: "no such name"}
ASKED_TIMES, PATIENCE = 5, 1.0
"""How often a question is sent, and for how many seconds each answer is waited for."""
PAUSE = 0.02
"""Seconds between two datagrams, so that counters can be watched."""
_TRANSPARENT = {socket.AF_INET: (socket.SOL_IP, 19), socket.AF_INET6: (socket.IPPROTO_IPV6, 75)}
"""IP_TRANSPARENT of linux/in.h and IPV6_TRANSPARENT of linux/in6.h."""


def _open(namespace: str, address: str, port: int = 0, *, spoofed: bool = False) -> socket.socket:
    """Open a socket for datagrams at an address in a namespace; `spoofed`: it need not be one of the namespace's."""

    def opened() -> socket.socket:
        made = socket.socket(family_of(address), socket.SOCK_DGRAM)
        try:
            if spoofed:
                made.setsockopt(*_TRANSPARENT[family_of(address)], 1)
            made.bind((address, port))
        except BaseException:
            made.close()
            raise
        return made

    return call_in(namespace, opened)


@dataclass
class Burst:
    """Datagrams from one address to ports of another, and how many of them arrived at each."""

    source: str
    destination: str
    ports: Sequence[int]
    count: int
    arrived: dict[int, int] = field(default_factory=dict)

    def send(self, sender: str, receiver: str) -> None:
        """Send them from one namespace to another; TimeoutError never, OSError if an address cannot be used."""
        with contextlib.ExitStack() as stack:
            sending = stack.enter_context(contextlib.closing(_open(sender, self.source)))
            listening = {
                port: stack.enter_context(contextlib.closing(_open(receiver, self.destination, port)))
                for port in self.ports
            }
            for _ in range(self.count):
                for port in self.ports:
                    sending.sendto(b"demo", (self.destination, port))
                time.sleep(PAUSE)
            self._count(listening)

    def _count(self, listening: Mapping[int, socket.socket]) -> None:
        """Count what has arrived at each port, until nothing more comes for a while."""
        for port, one in listening.items():
            one.settimeout(PATIENCE / 4)
            self.arrived[port] = 0
            with contextlib.suppress(TimeoutError):
                while self.arrived[port] < self.count:
                    one.recv(64)
                    self.arrived[port] += 1


def send_spoofed(namespace: str, source: str, destination: str, port: int, count: int) -> None:
    """Send datagrams from an address that is not one of the namespace's."""
    with contextlib.closing(_open(namespace, source, spoofed=True)) as sending:
        for _ in range(count):
            sending.sendto(b"demo", (destination, port))
            time.sleep(PAUSE)


def ask(namespace: str, own: str, server: str, name: str, kind: str) -> str:
    """Ask a DNS server for a record of a name, and return its addresses or why there are none, as text."""
    labels = b"".join(bytes((len(one),)) + one.encode() for one in name.split("."))
    query = struct.pack("!6H", 0x1234, 0x0100, 1, 0, 0, 0) + labels + struct.pack("!BHH", 0, TYPES[kind], 1)
    with contextlib.closing(_open(namespace, own)) as asking:
        asking.connect((server, DNS))
        asking.settimeout(PATIENCE)
        for _ in range(ASKED_TIMES):
            with contextlib.suppress(TimeoutError):
                asking.send(query)
                return ", ".join(answers(asking.recv(4096), len(query)))
    return "no answer"


def send_broken_question(namespace: str, own: str, server: str) -> None:
    """Send a DNS server a datagram that is no question."""
    with contextlib.closing(_open(namespace, own)) as asking:
        asking.sendto(b"?", (server, DNS))


def answers(message: bytes, question_end: int) -> Iterator[str]:
    """Yield the addresses of a DNS message whose answers name the question, or why it has none."""
    flags, _, count = struct.unpack_from("!3H", message, 2)
    if not count:
        yield CODES.get(flags & 15, f"error {flags & 15}")
    at = question_end
    for _ in range(count):
        size = struct.unpack_from("!H", message, at + 10)[0]
        yield str(ip_address(message[at + 12 : at + 12 + size]))
        at += 12 + size
