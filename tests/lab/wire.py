"""What goes over a host's wire: a tap on the fabric's end of it, and the outer headers of the tunnel packets there."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from controller_sim.lab.namespaces import call_in
from lab.fixtures import SystemLab

GENEVE, VXLAN = 6081, 4789
BUFFER = 64 << 20
SO_RCVBUFFORCE = 33


@dataclass(frozen=True)
class Tunnelled:
    """One tunnel packet: its outer headers, and what the UDP datagram carries."""

    source: str
    destination: str
    tos: int
    ttl: int
    source_port: int
    port: int
    checksum: int
    right: bool
    """Whether the UDP checksum adds up (RFC 768; RFC 8200, section 8.1)."""
    body: bytes

    @property
    def option_length(self) -> int:
        """Return the bytes of Geneve options."""
        return (self.body[0] & 0x3F) * 4

    @property
    def is_control(self) -> bool:
        """Whether it is Geneve with the O bit, such as the agents' probes are."""
        return self.port != VXLAN and bool(self.body[1] & 0x80)

    @property
    def inner(self) -> bytes:
        """Return the inner Ethernet frame."""
        return self.body[8 + (self.option_length if self.port != VXLAN else 0) :]


class Tap:
    """All frames from a host, and those that are for it, from the moment that it is opened.

    A bridge floods frames for Ethernet addresses that it does not know, or forgot, to hosts that they are not for.
    """

    def __init__(self, tap: socket.socket, mac: bytes) -> None:
        self._tap = tap
        self._mac = mac

    def frames(self) -> list[bytes]:
        """Return what has passed since the last call."""
        found = []
        with contextlib.suppress(BlockingIOError):
            while True:
                frame, (_, _, kind, *_) = self._tap.recvfrom(1 << 16)
                if kind != socket.PACKET_OUTGOING or frame[0] & 1 or frame[:6] == self._mac:
                    found.append(frame)
        return found

    def tunnelled(self, *ports: int) -> list[Tunnelled]:
        """Return the tunnel packets to some UDP ports that have passed since the last call."""
        parsed = (_parse(frame) for frame in self.frames())
        return [packet for packet in parsed if packet is not None and packet.port in (ports or (GENEVE, VXLAN))]


@contextlib.contextmanager
def tapped(lab: SystemLab, host: str, interface: str = "eth0") -> Iterator[Tap]:
    """Listen on a host's wire during a block."""
    port = lab.ports()[host, interface]
    shown = lab.ip(lab.names.droplet(host), "-o", "link", "show", interface)
    mac = bytes.fromhex(shown.split("link/ether ")[1].split()[0].replace(":", ""))

    def opened() -> socket.socket:
        made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        made.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER)
        made.bind((port, 0))
        made.setblocking(False)
        return made

    with call_in(lab.names.fabric, opened) as tap:
        yield Tap(tap, mac)


def _parse(frame: bytes) -> Tunnelled | None:
    ethertype = struct.unpack_from("!H", frame, 12)[0]
    if ethertype == 0x0800 and frame[23] == socket.IPPROTO_UDP:
        header = (frame[14] & 0xF) * 4
        source, destination = frame[26:30], frame[30:34]
        tos, ttl = frame[15], frame[22]
    elif ethertype == 0x86DD and frame[20] == socket.IPPROTO_UDP:
        header = 40
        source, destination = frame[22:38], frame[38:54]
        tos, ttl = struct.unpack_from("!H", frame, 14)[0] >> 4 & 0xFF, frame[21]
    else:
        return None
    start = 14 + header
    source_port, port, length, checksum = struct.unpack_from("!HHHH", frame, start)
    datagram = frame[start : start + length]
    pseudo = source + destination + struct.pack("!IHBB", length, 0, 0, socket.IPPROTO_UDP)
    family = socket.AF_INET if len(source) == 4 else socket.AF_INET6
    return Tunnelled(
        socket.inet_ntop(family, source),
        socket.inet_ntop(family, destination),
        tos,
        ttl,
        source_port,
        port,
        checksum,
        _sum(pseudo + datagram) == 0xFFFF,
        datagram[8:],
    )


def _sum(data: bytes) -> int:
    """Return the ones' complement sum (RFC 1071)."""
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total
