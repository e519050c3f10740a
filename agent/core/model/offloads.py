"""The offloads that an endpoint's interface needs, and the comparison with those that it has. Pure.

XDP forwards frames exactly as it sees them. An endpoint must therefore complete its own checksums (segmentation
offloads depend on that: netdev_fix_features in net/core/dev.c) and insert its VLAN tags, and it receives redirected
frames only through NAPI (GRO on: veth_xdp_xmit in drivers/net/veth.c). Names are the kernel's (net/ethtool/common.c).
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
"""Without the essential ones packets are lost. The others may stay wrong if the driver cannot change them."""


def wrong_offloads(found: Mapping[str, Offload]) -> dict[str, bool]:
    """Return the offloads that must change, by the kernel's name, with their required state."""
    return {
        name: rule.on
        for name, rule in RULES.items()
        if (seen := found.get(name)) is not None and seen.on != rule.on and (rule.essential or seen.changeable)
    }


def describe_offload(name: str, on: bool) -> str:
    """Return one offload in words: its purpose, the kernel's name, and its state."""
    return f"{RULES[name].words} ({name}) is {'on' if on else 'off'}"
