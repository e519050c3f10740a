"""Frames that leave an interface as GSO packets or with unfinished checksums, as a tap shows them; UDP_SEGMENT."""

from __future__ import annotations

import contextlib
import random
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address

from controller_sim.lab.namespaces import call_in
from controller_sim.talk.transfer import family_of
from lab.fixtures import SystemLab
from lab.traffic import udp_socket

SOL_PACKET, PACKET_VNET_HDR, PACKET_OUTGOING = 263, 15, 4
SO_RCVBUFFORCE, UDP_SEGMENT = 33, 103
VNET_HEADER = struct.Struct("=BBHHHH")
"""struct virtio_net_hdr: flags, type of segmentation, header length, segment size, start and offset of the checksum."""
NEEDS_CHECKSUM = 1
BUFFER = 64 << 20


@dataclass(frozen=True)
class Frame:
    """A frame as an interface sends it, with what it leaves to others."""

    checksum_unfinished: bool
    gso_type: int
    data: bytes

    @property
    def complete(self) -> bool:
        """Whether it could leave by a wire as it is."""
        return not self.checksum_unfinished and not self.gso_type


class Sent:
    """What an interface sends by its queue, from the moment that this is opened; redirects by XDP are not among it."""

    def __init__(self, tap: socket.socket, *, received: bool = False) -> None:
        """`received`: what the interface receives instead."""
        self._tap = tap
        self._received = received

    def frames(self) -> list[Frame]:
        """Return what has been sent since the last call."""
        found = []
        with contextlib.suppress(BlockingIOError):
            while True:
                data, address = self._tap.recvfrom(1 << 17)
                flags, gso_type, *_ = VNET_HEADER.unpack_from(data)
                if (address[2] == PACKET_OUTGOING) is not self._received:
                    found.append(Frame(bool(flags & NEEDS_CHECKSUM), gso_type, data[VNET_HEADER.size :]))
        return found


@contextlib.contextmanager
def sent_by(namespace: str, interface: str, *, received: bool = False) -> Iterator[Sent]:
    """Listen to what an interface sends during a block or, with `received`, to what it receives."""

    def opened() -> socket.socket:
        made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        made.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
        made.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER)
        made.bind((interface, 0))
        made.setblocking(False)
        return made

    with call_in(namespace, opened) as tap:
        yield Sent(tap, received=received)


def send_segments(
    lab: SystemLab, source: str, destination: str, size: int, count: int, family: int | None = None
) -> None:
    """Send `count` datagrams of `size` bytes by one call with UDP_SEGMENT; each must arrive unchanged, in order."""
    to = lab.address(destination, family)
    own = lab.address(source, ip_address(to).version)
    exchange_segments((lab.inside(source), own), (lab.inside(destination), to), size, count)


def exchange_segments(source: tuple[str, str], destination: tuple[str, str], size: int, count: int) -> None:
    """Do as `send_segments` does, between addresses in namespaces."""
    data = random.Random(f"{source} {destination} {size}").randbytes(size * count)
    with udp_socket(*source) as one, udp_socket(*destination, 7104) as other:
        other.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER)
        one.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, size)
        assert one.sendto(data, (destination[1], 7104)) == len(data)
        for number in range(count):
            got, sender = other.recvfrom(1 << 16)
            wanted = data[number * size : (number + 1) * size]
            assert (got, sender[0]) == (wanted, source[1]), f"datagram {number} of {count}"


def send_raw(
    lab: SystemLab, source: str, destination: str, protocol: int, size: int, family: int | None = None
) -> None:
    """Send a packet of a protocol that neither end knows, by raw sockets; its `size` bytes must arrive unchanged."""
    to = lab.address(destination, family)
    own = lab.address(source, ip_address(to).version)
    data = random.Random(f"{protocol} {size}").randbytes(size)
    with (
        call_in(lab.inside(source), lambda: _raw_socket(own, protocol)) as one,
        call_in(lab.inside(destination), lambda: _raw_socket(to, protocol)) as other,
    ):
        one.sendto(data, (to, 0))
        got, sender = other.recvfrom(1 << 16)
        header = (got[0] & 0xF) * 4 if ":" not in to else 0
        assert (got[header:], sender[0]) == (data, own), f"protocol {protocol}, {size} bytes"


def _raw_socket(address: str, protocol: int) -> socket.socket:
    made = socket.socket(family_of(address), socket.SOCK_RAW, protocol)
    made.bind((address, 0))
    made.settimeout(10.0)
    return made
