"""Who reaches whom in a lab: every endpoint talks to every other one by UDP, TCP and ping, with the data compared.

In each family that both have. Each endpoint answers with its own name, so that a packet that ends up with another
tenant's endpoint of the same address is found out. Sockets are opened in the endpoints' namespaces, and used from here.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import selectors
import socket
import threading
import time
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any

from controller_sim.lab.lab import Lab
from controller_sim.lab.namespaces import call_in
from controller_sim.talk import datagrams, ping
from controller_sim.talk.transfer import family_of

PORT = 7007
TRIES = 5
WAIT = 0.4
"""Seconds in which an answer to one try must come."""
TCP_BYTES = 100_000


@dataclass(frozen=True, slots=True)
class Pair:
    """One conversation: whether it should work, and what went wrong (empty: nothing did)."""

    source: str
    destination: str
    expected: bool
    failures: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Reachability:
    """Every ordered pair of endpoints."""

    endpoints: tuple[str, ...]
    pairs: dict[tuple[str, str], Pair]
    broken: dict[str, str] = field(default_factory=dict)
    """Endpoints that could not be tried, with the reason; no pair has them."""

    @property
    def failures(self) -> list[Pair]:
        """The pairs that did not behave as they should."""
        return [pair for pair in self.pairs.values() if pair.failures]

    @property
    def count(self) -> int:
        """How many pairs there are."""
        return len(self.pairs)

    @property
    def passed(self) -> bool:
        """Whether every pair behaved as it should."""
        return not self.failures and not self.broken

    @property
    def lines(self) -> list[str]:
        """What went wrong, a line for each pair."""
        return [f"{pair.source} to {pair.destination}: {', '.join(pair.failures)}" for pair in self.failures]

    def cell(self, source: str, destination: str) -> str:
        """Return one cell of the table: a word; what went wrong stands in `lines`."""
        if source != destination and (source in self.broken or destination in self.broken):
            return "[red]not tried[/]"
        pair = self.pairs.get((source, destination))
        if pair is None:
            return ""
        if pair.failures:
            return "[red]failed[/]" if pair.expected else "[red]heard[/]"
        return "[green]yes[/]" if pair.expected else "[dim]no[/]"

    def as_data(self) -> dict[str, Any]:
        """Return everything as plain data."""
        pairs = [
            {"from": p.source, "to": p.destination, "expected": p.expected, "failures": list(p.failures)}
            for p in self.pairs.values()
        ]
        return {"passed": self.passed, "broken": self.broken, "pairs": pairs}


class _Endpoint:
    """An endpoint's sockets of one family: a UDP socket that asks and answers, and a TCP listener."""

    def __init__(self, name: str, address: str, vpc: str, namespace: str) -> None:
        self.name, self.address, self.vpc, self.namespace = name, address, vpc, namespace
        self.version = ip_address(address).version
        self.udp, self.listener = call_in(namespace, self._open)
        self.accepting = threading.Lock()
        self.answers: dict[str, str] = {}
        """Who answered, by the token of the question."""
        self.asked_by: set[str] = set()

    def _open(self) -> tuple[socket.socket, socket.socket]:
        with contextlib.ExitStack() as stack:
            udp = stack.enter_context(socket.socket(family_of(self.address), socket.SOCK_DGRAM))
            udp.bind((self.address, PORT))
            listener = stack.enter_context(socket.socket(family_of(self.address), socket.SOCK_STREAM))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((self.address, PORT))
            listener.listen(128)
            udp.setblocking(False)
            stack.pop_all()
        return udp, listener

    def read(self) -> None:
        """Answer questions with the own name, and keep answers."""
        while True:
            try:
                data, sender = self.udp.recvfrom(2048)
            except OSError:
                return
            kind, _, rest = data.decode(errors="replace").partition(" ")
            if kind == "ask":
                self.asked_by.add(rest.partition(" ")[0])
                self._send(f"answer {rest} {self.name}", sender[0])
            elif kind == "answer":
                token, _, who = rest.rpartition(" ")
                self.answers[token] = who

    def ask(self, other: _Endpoint) -> None:
        self._send(f"ask {self.name} {other.name}", other.address)

    def _send(self, text: str, address: str) -> None:
        try:
            self.udp.sendto(text.encode(), (address, PORT))
        except OSError:
            return  # unreachable shows as no answer

    def answer_of(self, other: _Endpoint) -> str | None:
        return self.answers.get(f"{self.name} {other.name}")

    def close(self) -> None:
        self.udp.close()
        self.listener.close()


def check_all(lab: Lab) -> Reachability:
    """Let all endpoints of a lab talk to each other; those of different VPCs must not hear each other."""
    topology, assignments = lab.topology(), lab.paths.load().assignments
    opened: list[_Endpoint] = []
    broken: dict[str, str] = {}
    try:
        for name in topology.attached:
            namespace, vpc = lab.names.endpoint(name), topology.vpc_of(name).name
            for address in assignments[name].addresses:
                try:
                    opened.append(_Endpoint(name, address, vpc, namespace))
                except OSError as error:
                    broken[name] = f"{address} cannot be used in its namespace: {error.strerror}"
        endpoints = [endpoint for endpoint in opened if endpoint.name not in broken]
        _exchange(endpoints)
        return Reachability(tuple(topology.attached), _results(endpoints), broken)
    finally:
        for endpoint in opened:
            endpoint.close()


def _pairs(endpoints: list[_Endpoint]) -> list[tuple[_Endpoint, _Endpoint]]:
    """Return every ordered pair of two endpoints in a family that both have."""
    return [(a, b) for a in endpoints for b in endpoints if a.name != b.name and a.version == b.version]


def _exchange(endpoints: list[_Endpoint]) -> None:
    """Ask until all that should answer did, a few times at most; what must stay silent is asked as often."""
    with selectors.DefaultSelector() as selector:
        for endpoint in endpoints:
            selector.register(endpoint.udp, selectors.EVENT_READ, endpoint)
        pairs = _pairs(endpoints)
        for attempt in range(TRIES):
            waiting = [(a, b) for a, b in pairs if a.vpc == b.vpc and a.answer_of(b) is None]
            if attempt > 1 and not waiting:
                return
            for a, b in pairs if attempt < 2 else waiting:
                a.ask(b)
            deadline = time.monotonic() + WAIT
            while time.monotonic() < deadline:
                for key, _ in selector.select(0.05):
                    key.data.read()


def _results(endpoints: list[_Endpoint]) -> dict[tuple[str, str], Pair]:
    failures: dict[tuple[str, str], list[str]] = {}
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        jobs = [(a, b, pool.submit(_failures, a, b)) for a, b in _pairs(endpoints)]
        for a, b, job in jobs:
            failures.setdefault((a.name, b.name), []).extend(job.result())
    vpcs = {endpoint.name: endpoint.vpc for endpoint in endpoints}
    return {
        (source, destination): Pair(source, destination, vpcs[source] == vpcs[destination], tuple(found))
        for (source, destination), found in failures.items()
    }


def _failures(source: _Endpoint, destination: _Endpoint) -> list[str]:
    answer, family = source.answer_of(destination), f"IPv{source.version}"
    if source.vpc != destination.vpc:
        heard = source.name in destination.asked_by or answer == destination.name
        return [f"{family}: heard by another tenant"] if heard else []
    found = []
    if answer != destination.name:
        found.append(f"{family} UDP: no answer" if answer is None else f"{family} UDP: answered by {answer}")
    lost = datagrams.exchange(source.namespace, destination.namespace, source.address, destination.address)
    if lost:
        found.append(f"{family} UDP of {', '.join(map(str, lost))} bytes")
    if not _tcp_works(source, destination):
        found.append(f"{family} TCP")
    if not ping.ping(source.namespace, destination.address, count=2).answered:
        found.append(f"{family} ping")
    return found


def _tcp_works(source: _Endpoint, destination: _Endpoint) -> bool:
    """Send data both ways over one connection and compare it."""
    data = f"{source.name} to {destination.name} ".encode() * (TCP_BYTES // 20)
    client = call_in(source.namespace, lambda: socket.socket(family_of(source.address), socket.SOCK_STREAM))
    try:
        client.settimeout(5)
        client.bind((source.address, 0))
        with destination.accepting, concurrent.futures.ThreadPoolExecutor(1) as pool:
            server = pool.submit(_accept_from, destination.listener, client.getsockname(), len(data))
            client.connect((destination.address, PORT))
            client.sendall(data)
            returned = _receive(client, len(data))
            return returned == data and server.result() == data
    except OSError:
        return False
    finally:
        client.close()


def _accept_from(listener: socket.socket, peer: tuple[Any, ...], length: int) -> bytes:
    """Accept the connection of one peer, read, and send back what was read; others are left over from failures."""
    listener.settimeout(5)
    while True:
        connection, sender = listener.accept()
        with connection:
            if sender != peer:
                continue
            connection.settimeout(5)
            data = _receive(connection, length)
            connection.sendall(data)
            return data


def _receive(connection: socket.socket, length: int) -> bytes:
    data = bytearray()
    while len(data) < length:
        part = connection.recv(min(1 << 16, length - len(data)))
        if not part:
            break
        data += part
    return bytes(data)
