"""Traffic between endpoints of a lab by plain sockets, with every byte compared."""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import random
import select
import socket
import struct
import threading
import time
from collections.abc import Iterator, Sequence
from ipaddress import ip_address

from controller_sim.lab.namespaces import call_in, run_in
from controller_sim.talk.transfer import family_of
from lab.echoes import answered
from lab.fixtures import SystemLab
from lab.frames import GENEVE_PORT
from lab.waiting import PATIENCE, until

TIMEOUT = 10.0
IPV6_TCLASS, UDP_NO_CHECK6_TX, SO_NO_CHECK, SO_RCVBUFFORCE = 67, 101, 11, 33
BUFFER = 16 << 20


def udp_socket(namespace: str, address: str = "0.0.0.0", port: int = 0) -> socket.socket:
    """Open a bound UDP socket of the address's family inside a namespace."""

    def opened() -> socket.socket:
        made = socket.socket(family_of(address), socket.SOCK_DGRAM)
        made.bind((address, port))
        made.settimeout(TIMEOUT)
        return made

    return call_in(namespace, opened)


def send_tunnelled(lab: SystemLab, source: str, destination: str, body: bytes, **options: int) -> None:
    """Send a UDP datagram as one droplet's tunnel packet to another. `options`: `port`, `tos`, and `sum` 0 for none.

    Over IPv4 there is no checksum, as in other tunnel packets; over IPv6 the wire completes it, which must be physical.
    """
    own, to = lab.topology.droplets[source], lab.topology.droplets[destination]
    family = socket.IPPROTO_IP if ":" not in own.address else socket.IPPROTO_IPV6
    with udp_socket(lab.names.droplet(own.host), own.address) as sender:
        sender.setsockopt(family, socket.IP_TOS if family == socket.IPPROTO_IP else IPV6_TCLASS, options.get("tos", 0))
        sender.connect((to.address, options.get("port", GENEVE_PORT)))
        if family == socket.IPPROTO_IP:
            sender.setsockopt(socket.SOL_SOCKET, SO_NO_CHECK, 1)
        elif not options.get("sum", 1):
            sender.setsockopt(socket.IPPROTO_UDP, UDP_NO_CHECK6_TX, 1)
        sender.send(body)
    lab.handmade += 1


def raw_socket(namespace: str, interface: str = "eth0") -> socket.socket:
    """Open a packet socket that sends frames as they are and hears every frame that comes in."""

    def opened() -> socket.socket:
        made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        made.bind((interface, 0))
        made.settimeout(TIMEOUT)
        return made

    return call_in(namespace, opened)


def ping(lab: SystemLab, source: str, address: str, count: int = 3, wait: float = 5) -> int:
    """Return how many of some echo requests were answered, as soon as all are, or `wait` seconds after the last."""
    return answered(lab.inside(source), address, count, wait)


def pings(lab: SystemLab, source: str, destination: str) -> bool:
    """Say whether all of three echo requests were answered, in each family that both have."""
    return all(ping(lab, source, lab.address(destination, f)) == 3 for f in lab.families(source, destination))


def connect_error(lab: SystemLab, source: str, address: str, port: int = 7109, wait: float = 20.0) -> int:
    """Return the errno with which connecting by TCP fails, 0 when it does not; TimeoutError after `wait` seconds.

    The kernel's own patience is 127 seconds.
    """

    def connected() -> int:
        with socket.socket(family_of(address), socket.SOCK_STREAM) as made:
            made.settimeout(wait)
            try:
                made.connect((address, port))
            except TimeoutError:
                raise
            except OSError as error:
                return error.errno or -1
            return 0

    return call_in(lab.inside(source), connected)


def receive(connection: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size and (part := connection.recv(1 << 16)):
        data += part
    return bytes(data)


def exchange_tcp(lab: SystemLab, client: str, server: str, size: int, family: int | None = None) -> None:
    """Send `size` random bytes in each direction over one connection, and compare them."""
    to = lab.address(server, family)
    exchange_stream(lab.inside(client), lab.inside(server), lab.address(client, ip_address(to).version), to, size)


def exchange_stream(client: str, server: str, own: str, to: str, size: int, through: str = "") -> None:
    """Do as `exchange_tcp` does, from an address in one namespace to one in another.

    With `through` both know only that address, of something that translates theirs.
    """
    there, back = (random.Random(f"{client} {server} {way}").randbytes(size) for way in range(2))
    listener = call_in(server, lambda: socket.create_server((to, 7100), family=family_of(to)))

    def serve() -> bytes:
        connection, peer = listener.accept()
        with connection:
            assert peer[0] == (through or own)
            connection.settimeout(TIMEOUT)
            got = receive(connection, size)
            connection.sendall(back)
            return got

    with listener, concurrent.futures.ThreadPoolExecutor(1) as pool:
        listener.settimeout(TIMEOUT)
        served = pool.submit(serve)
        dialled = call_in(client, lambda: socket.create_connection((through or to, 7100), timeout=TIMEOUT))
        with dialled:
            dialled.sendall(there)
            got_back = receive(dialled, size)
        assert served.result(TIMEOUT) == there, "what the server got differs"
        assert got_back == back, "what the client got differs"


def exchange_udp(lab: SystemLab, asking: str, answering: str, sizes: Sequence[int], family: int | None = None) -> None:
    """Send a datagram of each size and have it sent back, without a loss, and compare it."""
    to = lab.address(answering, family)
    own = lab.address(asking, ip_address(to).version)
    with udp_socket(lab.inside(asking), own, 7101) as one, udp_socket(lab.inside(answering), to, 7101) as other:
        for size in sizes:
            data = random.Random(f"{asking} {answering} {size}").randbytes(size)
            one.sendto(data, (to, 7101))
            got, sender = other.recvfrom(1 << 16)
            assert (got, sender[0]) == (data, own), f"{size} bytes, there"
            other.sendto(got[::-1], sender)
            back, sender = one.recvfrom(1 << 16)
            assert (back, sender[0]) == (data[::-1], to), f"{size} bytes, back"


def send_one_way(
    lab: SystemLab, source: str, destination: str, size: int, family: int | None = None, count: int = 3
) -> None:
    """Send some datagrams that are never answered, so that nothing is learnt of them; each must arrive unchanged."""
    to = lab.address(destination, family)
    own = lab.address(source, ip_address(to).version)
    with udp_socket(lab.inside(source), own) as one, udp_socket(lab.inside(destination), to, 7103) as other:
        for number in range(count):
            data = random.Random(f"{source} {destination} {size} {number}").randbytes(size)
            one.sendto(data, (to, 7103))
            got, sender = other.recvfrom(1 << 16)
            assert (got, sender[0]) == (data, own), f"{size} bytes, number {number}"


class Flow:
    """A datagram every few milliseconds, each with its number and echoed; afterwards none may be missing."""

    EVERY = 0.005
    PORT = 7102
    LOOK = 0.05
    QUIET, SILENT = 10, 100
    """After how many looks without a packet, in turn, no more is to come; the second one while the last is missing."""

    def __init__(self, lab: SystemLab, source: str, destination: str, family: int | None = None) -> None:
        to = lab.address(destination, family)
        self.one = udp_socket(lab.inside(source), lab.address(source, ip_address(to).version), self.PORT)
        self.other = udp_socket(lab.inside(destination), to, self.PORT)
        for end in (self.one, self.other):  # what is lost was lost on the way, and not for want of this process's time
            end.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER)
        self.target = (to, self.PORT)
        self.sent = 0
        self.errors: list[str] = []
        self.missing: list[int] = []
        self._back: set[int] = set()
        self.sending = threading.Event()
        self.threads = [threading.Thread(target=self._send), threading.Thread(target=self._echo)]

    def _send(self) -> None:
        while not self.sending.is_set():
            try:
                self.one.sendto(struct.pack("!I", self.sent), self.target)
            except OSError as error:
                self.errors.append(str(error))
            self.sent += 1
            time.sleep(self.EVERY)

    @property
    def back(self) -> set[int]:
        """The numbers of the packets that came back so far: a copy, as a thread adds to them."""
        return self._back.copy()

    def _echo(self) -> None:
        """Send back, and gather what came back, until sending has ended and no more comes."""
        looks = 0  # and not seconds: a pause of this process leaves no packet behind
        while self._waits(looks):
            found = select.select([self.one, self.other], [], [], self.LOOK)[0]
            looks = 0 if found else looks + 1
            for ready in found:
                data, sender = ready.recvfrom(64)
                if ready is self.other:
                    with contextlib.suppress(OSError):  # what is not sent back is missing
                        ready.sendto(data, sender)
                else:
                    self._back.add(struct.unpack("!I", data)[0])

    def _waits(self, looks: int) -> bool:
        """Say whether more may come, after so many looks that found nothing."""
        if self.threads[0].is_alive():
            return True
        return len(self.back) < self.sent and looks < (self.QUIET if self.sent - 1 in self.back else self.SILENT)

    def start(self) -> None:
        for thread in self.threads:
            thread.start()

    def stop(self) -> list[int]:
        """Stop sending, wait for packets in flight, and return the numbers that never came back."""
        self.sending.set()
        for thread in self.threads:
            thread.join()
        self.one.close()
        self.other.close()
        return sorted(set(range(self.sent)) - self.back)


@contextlib.contextmanager
def flow_between(lab: SystemLab, source: str, destination: str, family: int | None = None) -> Iterator[Flow]:
    """Send packets in both directions during a block; afterwards `missing` has the lost ones."""
    flow = Flow(lab, source, destination, family)
    flow.start()
    try:
        until(lambda: flow.back, "the first packet", PATIENCE)
        yield flow
    finally:
        flow.missing = flow.stop()


@contextlib.contextmanager
def unbroken_flow(lab: SystemLab, source: str, destination: str, family: int | None = None) -> Iterator[Flow]:
    """Send packets in both directions during a block; fail if one is lost."""
    with flow_between(lab, source, destination, family) as flow:
        yield flow
    assert flow.errors == []
    assert flow.missing == [], f"{len(flow.missing)} of {flow.sent} packets were lost"


def datagram_sizes(lab: SystemLab, endpoint: str, family: int) -> list[int]:
    """Return payloads of UDP from nothing to the endpoint's MTU, and some that go in fragments."""
    fits = mtu_of(lab, endpoint) - (28 if family == 4 else 48)
    return [0, 1, 17, 18, 19, 100, 511, 512, 1000, fits - 1, fits, fits + 1, 4000, 9000]


def exchange_all(lab: SystemLab, one: str, other: str, family: int, size: int = 1 << 20) -> None:
    """Compare what two endpoints send each other in one family: echoes, a TCP connection, datagrams of all sizes."""
    assert ping(lab, one, lab.address(other, family)) == 3, f"{one} pings {other} over IPv{family}"
    assert ping(lab, other, lab.address(one, family)) == 3, f"{other} pings {one} over IPv{family}"
    exchange_tcp(lab, one, other, size, family)
    exchange_udp(lab, one, other, datagram_sizes(lab, one, family), family)
    exchange_udp(lab, other, one, datagram_sizes(lab, other, family)[-5:], family)


def mtu_of(lab: SystemLab, endpoint: str) -> int:
    return int(json.loads(lab.ip(lab.inside(endpoint), "-j", "link", "show", "eth0"))[0]["mtu"])


def learnt_mtu(lab: SystemLab, source: str, address: str) -> int | None:
    """Return the MTU to an address that an endpoint's kernel has learnt by ICMP, None when it has learnt none."""
    (route,) = json.loads(lab.ip(lab.inside(source), "-j", "route", "get", address))
    return next((int(metric["mtu"]) for metric in route.get("metrics", []) if "mtu" in metric), None)


def ping_whole(lab: SystemLab, source: str, address: str, size: int, count: int = 1) -> str:
    """Send echo requests that must not be fragmented, of `size` bytes with the IP header; return what ping(8) says."""
    payload = size - (48 if ":" in address else 28)
    options = ["-n", "-M", "do", "-c", str(count), "-i", "0.02", "-W", "3", "-s", str(payload), address]
    return run_in(lab.inside(source), ["ping", *options]).stdout
