"""Receives ICMP and ICMPv6 errors about our tunnels, on raw sockets that let only errors through.

`agent.core.probe.icmp_errors` parses the messages.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Callable, Collection, Container

from agent.core.probe.icmp_errors import TunnelError, parse_icmp, parse_icmpv6
from agent.core.probe.paths import Path
from agent.probe.paced_reader import PacedReader
from protocol.status import Fault

SOL_RAW, ICMP_FILTER = 255, 1
"""raw(7): a mask of 32 bits; types whose bit is set are blocked."""
ICMPV6_FILTER = 1
"""icmpv6(7) on IPPROTO_ICMPV6: 8 masks of 32 bits, set bits likewise."""
IPV6_RECVPKTINFO, IPV6_PKTINFO = 49, 50
MOST = 2048
"""Bytes of a message that are read. An error has at most 576 bytes, or 1280 over IPv6."""

_UNREACHABLE = 3
_UNREACHABLE_V6, _TOO_BIG_V6 = 1, 2

_NO_FAMILY = (errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT)

OnIcmpError = Callable[[TunnelError], object]


class IcmpErrors:
    """The errors of both families; a family that the host does not support is left out."""

    def __init__(self, paths: Container[Path], ports: Collection[int], take: OnIcmpError) -> None:
        """Listen in the running loop for errors about tunnels on `paths` (a live view) to UDP `ports`."""
        self._paths = paths
        self._ports = ports
        self._take = take
        self._readers: list[PacedReader] = []
        self.faults: list[Fault] = []
        """The faults of families that the host supports but whose errors cannot be received."""
        for open_, read in ((_open_v4, self._read_v4), (_open_v6, self._read_v6)):
            try:
                opened = open_()
            except OSError as error:
                if error.errno not in _NO_FAMILY:
                    self.faults.append(_fault(open_ is _open_v6, error))
                continue
            self._readers.append(PacedReader(opened, _reading(read, opened)))

    def close(self) -> None:
        """Close the sockets."""
        for reader in self._readers:
            reader.close()
        self._readers.clear()

    def _read_v4(self, opened: socket.socket) -> None:
        self._deliver(parse_icmp(opened.recv(MOST), self._paths, self._ports))

    def _read_v6(self, opened: socket.socket) -> None:
        message, ancillary, _, sender = opened.recvmsg(MOST, socket.CMSG_SPACE(20))
        destination = next((data[:16] for _, kind, data in ancillary if kind == IPV6_PKTINFO), b"")
        source = socket.inet_pton(socket.AF_INET6, sender[0].partition("%")[0])
        self._deliver(parse_icmpv6(message, source, destination, self._paths, self._ports))

    def _deliver(self, error: TunnelError | None) -> None:
        if error is not None:
            self._take(error)


def _fault(ipv6: bool, error: OSError) -> Fault:
    name = "ICMPv6" if ipv6 else "ICMP"
    detail = f"{name} errors about tunnel packets are not received: {error.strerror or error}"
    return Fault("icmp_errors_not_heard", name, detail, "give the agent CAP_NET_RAW and start it again")


def _reading(read: Callable[[socket.socket], None], opened: socket.socket) -> Callable[[], bool]:
    def read_one() -> bool:
        try:
            read(opened)
        except BlockingIOError:
            return False
        except OSError:
            return True  # a pending error of the socket; reading clears it
        return True

    return read_one


def _open_v4() -> socket.socket:
    mask = struct.pack("=I", ~(1 << _UNREACHABLE) & 0xFFFFFFFF)
    return _open(socket.AF_INET, socket.IPPROTO_ICMP, SOL_RAW, ICMP_FILTER, mask)


def _open_v6() -> socket.socket:
    passed = 1 << _UNREACHABLE_V6 | 1 << _TOO_BIG_V6
    mask = struct.pack("=8I", ~passed & 0xFFFFFFFF, *[0xFFFFFFFF] * 7)
    opened = _open(socket.AF_INET6, socket.IPPROTO_ICMPV6, socket.IPPROTO_ICMPV6, ICMPV6_FILTER, mask)
    opened.setsockopt(socket.IPPROTO_IPV6, IPV6_RECVPKTINFO, 1)
    return opened


def _open(family: int, protocol: int, level: int, option: int, filter_: bytes) -> socket.socket:
    """Open a raw socket that blocks the types in the filter."""
    opened = socket.socket(family, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, protocol)
    try:
        opened.setsockopt(level, option, filter_)
    except BaseException:
        opened.close()
        raise
    return opened
