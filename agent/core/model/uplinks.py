"""The uplinks of this host: plain data, read by `agent.datapath`, used by the core."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Uplink:
    """One interface with addresses in the underlay: a physical one, or a VLAN or bond on top of physical ones.

    `addresses` are packed, 4 or 16 bytes each. Frames arrive on `ingress` (a bond's members, after the bond itself)
    and leave by `egress`, with an 802.1Q tag if `vlan` is not 0. Transit XDP is attached to `carrier`: the interface
    itself, or the parent of a VLAN. `transit` is true if our current program is attached there. `gso` says why the
    carrier hands over GSO packets, several received packets as one; empty if it does not.
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
    gso: str = ""
