"""The interfaces by which this host reaches the substrate: plain data, read by `agent.datapath`, used by the core."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Uplink:
    """One interface with addresses in the substrate: physical, or a VLAN or a bond upon physical ones.

    `addresses` are packed, 4 or 16 bytes each. Frames come in on `ingress` (a bond's members, after the bond itself)
    and leave by `egress`, with an 802.1Q tag when `vlan` is not 0. Transit XDP belongs on `carrier`: the interface
    itself, or what a VLAN lies on. `transit` is true when our current program is attached there.
    """

    name: str
    ifindex: int
    mac: bytes
    mtu: int
    addresses: tuple[bytes, ...]
    ingress: tuple[int, ...]
    egress: int
    carrier: int
    vlan: int = 0
    transit: bool = False
