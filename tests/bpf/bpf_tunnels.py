"""Tunnel packets as another droplet sends them to this host, over either family; right unless said otherwise."""

from __future__ import annotations

from dataclasses import dataclass

import bpf_packets as p
from bpf_dut import D1, D2, DROPLET_MAC, MAC, OVER_IPV6, VNI, A, R


@dataclass(frozen=True)
class Outer:
    """The headers in front of Geneve or VXLAN. Over IPv6 with a UDP checksum, over IPv4 without."""

    source: str = D2
    destination: str = D1
    port: int = 6081
    source_port: int = 50000
    tos: int = 0
    ttl: int = 64
    fragment: int = 0
    identity: int = 0
    ip_options: bytes = b""
    protocol: int = p.UDP
    ip_length: int | None = None
    udp_length: int | None = None
    ip_check: int | None = None
    udp_check: int | None = None
    vlan: int | None = None
    label: int = 0
    to_mac: bytes = DROPLET_MAC[D1]
    from_mac: bytes = DROPLET_MAC[D2]

    def wrap(self, payload: bytes) -> bytes:
        datagram = self.datagram(payload)
        if ":" in self.source:
            packet = p.ipv6(
                self.source, self.destination, datagram, tos=self.tos, ttl=self.ttl, protocol=self.protocol,
                length=self.ip_length, label=self.label,
            )  # fmt: skip
            return p.ethernet(self.to_mac, self.from_mac, p.IPV6, packet, self.vlan)
        packet = p.ipv4(
            self.source, self.destination, datagram, tos=self.tos, ttl=self.ttl, fragment=self.fragment,
            identity=self.identity, options=self.ip_options, protocol=self.protocol, length=self.ip_length,
            check=self.ip_check,
        )  # fmt: skip
        return p.ethernet(self.to_mac, self.from_mac, p.IPV4, packet, self.vlan)

    def datagram(self, payload: bytes) -> bytes:
        datagram = p.udp(self.source_port, self.port, payload, self.udp_length)
        if self.udp_check is not None:
            return datagram[:6] + self.udp_check.to_bytes(2, "big") + datagram[8:]
        return p.summed(self.source, self.destination, datagram) if ":" in self.source else datagram


def six(name: str) -> str:
    """Return a droplet's address over IPv6."""
    return OVER_IPV6[name]


def frame_to(address: str = A, source: str = R, to_mac: bytes = MAC[A], **header: object) -> bytes:
    """Return R's inner frame with a UDP packet, of the addresses' family."""
    if ":" in address:
        return p.ethernet(to_mac, MAC[R], p.IPV6, p.ipv6(source, address, p.udp(), **header))  # type: ignore[arg-type]
    return p.ethernet(to_mac, MAC[R], p.IPV4, p.ipv4(source, address, p.udp(), **header))  # type: ignore[arg-type]


def tunnelled(inner: bytes | None = None, outer: Outer | None = None, **geneve: object) -> bytes:
    inner = frame_to() if inner is None else inner
    return (outer or Outer()).wrap(p.geneve(VNI, inner, **geneve))  # type: ignore[arg-type]


def asks(target: str, sender: str = R, operation: int = 1) -> bytes:
    return p.ethernet(b"\xff" * 6, MAC[R], p.ARP, p.arp(MAC[R], sender, target, operation=operation))
