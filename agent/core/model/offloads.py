"""Which offloads an endpoint's interface needs, and which of those that it has differ from that. Pure.

XDP passes on the frame that it sees. An endpoint must therefore finish its own checksums (segmentation offloads follow
from that: netdev_fix_features in net/core/dev.c) and put its VLAN tags into the frame, and it receives redirected
frames by NAPI alone (GRO on: veth_xdp_xmit in drivers/net/veth.c). Names are the kernel's (net/ethtool/common.c).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Offload(NamedTuple):
    """One offload of an interface, and whether its driver lets it be changed."""

    on: bool
    changeable: bool


class _Rule(NamedTuple):
    on: bool
    essential: bool
    words: str


_CHECKSUM = _Rule(False, True, "transmit checksum offload")
_TAG = _Rule(False, False, "VLAN tag insertion offload")
RULES: Mapping[str, _Rule] = {
    "rx-gro": _Rule(True, True, "generic receive offload"),
    "tx-checksum-ipv4": _CHECKSUM,
    "tx-checksum-ip-generic": _CHECKSUM,
    "tx-checksum-ipv6": _CHECKSUM,
    "tx-checksum-sctp": _CHECKSUM,
    "tx-vlan-hw-insert": _TAG,
    "tx-vlan-stag-hw-insert": _TAG,
}
"""Without what is essential, packets are lost. The rest is not held against a driver that cannot change it."""


def wrong_offloads(found: Mapping[str, Offload]) -> dict[str, bool]:
    """Return the offloads that must change, by the kernel's name, and what each must be."""
    return {
        name: rule.on
        for name, rule in RULES.items()
        if (seen := found.get(name)) is not None and seen.on != rule.on and (rule.essential or seen.changeable)
    }


def describe_offload(name: str, on: bool) -> str:
    """Return one offload in words: its purpose, the kernel's name, and its state."""
    return f"{RULES[name].words} ({name}) is {'on' if on else 'off'}"
