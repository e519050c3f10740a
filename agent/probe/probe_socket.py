"""Sends probes from one of this host's droplets and receives the replies. I/O on a UDP socket, without decisions.

The socket is bound to the droplet's address and interface, so that probes take the same path as tunnels. DF is set, and
the kernel's path MTU cache is ignored (IP_PMTUDISC_PROBE, ip(7)): it holds what other sockets learnt from ICMP.
"""

from __future__ import annotations

import socket
from collections.abc import Callable

from agent.core.probe.paths import Path
from agent.core.probe.probe_packet import Kind, build, headers, parse
from agent.core.probe.send_errors import SendResult, send_result
from agent.probe.paced_reader import PacedReader

IP_MTU_DISCOVER, IP_PMTUDISC_PROBE = 10, 3
IPV6_MTU_DISCOVER, IPV6_PMTUDISC_PROBE = 23, 3
IPV6_DONTFRAG = 62
HEAD = 512
"""Bytes of a reply that are read: enough for its Geneve header and options."""
FIRST_PART = 16
"""Bytes of a datagram's first part. The kernel itself computes the UDP checksum of a datagram that is sent in parts
(net/ipv4/ip_output.c: __ip_append_data). Otherwise the interface has to, but a veth never does, and transit XDP at its
other end would see a wrong checksum."""

OnReply = Callable[[Path, bytes], object]
"""Called with the path and the nonce of a reply."""


class ProbeSocket:
    """The socket for the probes of one droplet of this host."""

    def __init__(self, source: bytes, interface: str, port: int, take: OnReply) -> None:
        """Open it in the running loop; `port` is Geneve's. OSError: EADDRNOTAVAIL, ENODEV, EPERM."""
        self._source = source
        self._family = socket.AF_INET if len(source) == 4 else socket.AF_INET6
        self._port = port
        self._take = take
        self._socket = _open(self._family, source, interface)
        self._reader = PacedReader(self._socket, self._read_one)

    def close(self) -> None:
        """Close the socket."""
        self._reader.close()

    def drain(self) -> None:
        """Read the available replies."""
        self._reader.drain()

    def send(self, peer: bytes, size: int, nonce: bytes) -> SendResult:
        """Send a request of `size` bytes, IP header included, to a packed address."""
        datagram = build(Kind.REQUEST, nonce, size - headers(peer))
        to = (socket.inet_ntop(self._family, peer), self._port)
        try:
            self._socket.sendto(datagram[:FIRST_PART], socket.MSG_MORE, to)
            self._socket.sendto(datagram[FIRST_PART:], to)
        except OSError as error:
            return send_result(error.errno or 0)
        return SendResult.SENT

    def _read_one(self) -> bool:
        try:
            datagram, sender = self._socket.recvfrom(HEAD)
        except BlockingIOError:
            return False
        except OSError:
            return True  # a late error of an earlier send; reading clears it
        found = parse(datagram)
        if found is not None and found.kind is Kind.REPLY and sender[1] == self._port:
            peer = socket.inet_pton(self._family, sender[0].partition("%")[0])
            self._take(Path(self._source, peer), found.nonce)
        return True


def _open(family: int, source: bytes, interface: str) -> socket.socket:
    opened = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode())
        if family == socket.AF_INET:
            opened.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_PROBE)
        else:
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            opened.setsockopt(socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER, IPV6_PMTUDISC_PROBE)
            opened.setsockopt(socket.IPPROTO_IPV6, IPV6_DONTFRAG, 1)
        opened.bind((socket.inet_ntop(family, source), 0))
    except BaseException:
        opened.close()
        raise
    return opened
