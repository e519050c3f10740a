"""The offloads that an endpoint's interface needs, and the comparison with those that it has. Pure.

XDP forwards frames exactly as it sees them: an endpoint must complete its own checksums (segmentation offloads depend
on that: netdev_fix_features in net/core/dev.c) and insert its VLAN tags. tc carries unfinished checksums and GSO
packets of TCP. It carries no others: a UDP packet that is cut behind the tunnel headers would be cut at those
(skb_udp_tunnel_segment in net/ipv4/udp_offload.c), the kernel puts no tunnel around a packet that is marked as one of
an endpoint's own tunnel, and no device completes the checksum of SCTP behind tunnel headers.

Where packets leave with a UDP checksum over IPv6, an endpoint completes its own checksums at tc too: the outer one
covers them, also those inside of a tunnel that the endpoint makes itself.

At both hooks an endpoint receives redirected frames only through NAPI (GRO on: veth_xdp_xmit in drivers/net/veth.c).
Names are the kernel's (net/ethtool/common.c).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from agent.core.model.hooks import Hook


class Offload(NamedTuple):
    """One offload of an interface, and whether its driver lets it be changed."""

    on: bool
    changeable: bool


class Sending(NamedTuple):
    """How an endpoint's packets leave: at which hook, and whether GSO packets may. XDP takes none."""

    hook: Hook = Hook.XDP
    gso: bool = False


NO_GSO = Sending()
GSO_MAX_SIZE = 65536
"""Bytes of the longest packet that an endpoint may leave uncut. A tunnel's headers (RFC 768, RFC 791) cannot state the
length of longer ones (BIG TCP), which are dropped."""


class _Rule(NamedTuple):
    on: bool
    essential: bool


_WORDS = {
    "rx-gro": "generic receive offload",
    "tx-checksum-ipv4": "transmit checksum offload",
    "tx-checksum-ip-generic": "transmit checksum offload",
    "tx-checksum-ipv6": "transmit checksum offload",
    "tx-checksum-sctp": "transmit checksum offload of SCTP",
    "tx-vlan-hw-insert": "VLAN tag insertion offload",
    "tx-vlan-stag-hw-insert": "VLAN tag insertion offload",
    "tx-scatter-gather": "scatter-gather",
    "tx-tcp-segmentation": "TCP segmentation offload",
    "tx-tcp-ecn-segmentation": "TCP segmentation offload with ECN",
    "tx-tcp6-segmentation": "TCP segmentation offload over IPv6",
    "tx-tcp-accecn-segmentation": "TCP segmentation offload with accurate ECN",
    "tx-tcp-mangleid-segmentation": "TCP segmentation offload with fixed ids",
    "tx-udp-segmentation": "UDP segmentation offload",
    "tx-sctp-segmentation": "SCTP segmentation offload",
    "tx-gso-list": "segmentation offload of lists",
    "tx-udp_tnl-segmentation": "segmentation offload of UDP tunnels",
    "tx-udp_tnl-csum-segmentation": "segmentation offload of UDP tunnels with checksums",
    "tx-gre-segmentation": "segmentation offload of GRE",
    "tx-gre-csum-segmentation": "segmentation offload of GRE with checksums",
    "tx-ipxip4-segmentation": "segmentation offload of IP in IPv4",
    "tx-ipxip6-segmentation": "segmentation offload of IP in IPv6",
    "tx-esp-segmentation": "segmentation offload of ESP",
}
OFFLOADS = frozenset(_WORDS)
"""The offloads that rules are about."""
_CHECKSUMS = ("tx-checksum-ipv4", "tx-checksum-ip-generic", "tx-checksum-ipv6")
_TAGS = ("tx-vlan-hw-insert", "tx-vlan-stag-hw-insert")
_TCP = ("tx-tcp-segmentation", "tx-tcp-ecn-segmentation", "tx-tcp6-segmentation", "tx-tcp-accecn-segmentation")
_NOT_CARRIED = (
    *("tx-checksum-sctp", "tx-udp-segmentation", "tx-sctp-segmentation", "tx-gso-list", "tx-udp_tnl-segmentation"),
    *("tx-udp_tnl-csum-segmentation", "tx-gre-segmentation", "tx-gre-csum-segmentation", "tx-ipxip4-segmentation"),
    *("tx-ipxip6-segmentation", "tx-esp-segmentation"),
)
_ALWAYS = {"rx-gro": _Rule(True, True)} | dict.fromkeys(_TAGS, _Rule(False, False))


def _rules(sending: Sending) -> Mapping[str, _Rule]:
    if sending.hook is Hook.XDP:
        return _ALWAYS | dict.fromkeys((*_CHECKSUMS, "tx-checksum-sctp"), _Rule(False, True))
    left_to_devices = _Rule(True, False) if sending.gso else _Rule(False, True)
    fragments = {"tx-scatter-gather": left_to_devices} if sending.gso else {}  # segmentation offload depends on it
    mangled = {} if sending.gso else {"tx-tcp-mangleid-segmentation": left_to_devices}
    carried = dict.fromkeys((*_CHECKSUMS, *_TCP), left_to_devices) | mangled | fragments
    return _ALWAYS | carried | dict.fromkeys(_NOT_CARRIED, _Rule(False, True))


_RULES = {sending: _rules(sending) for sending in (Sending(), Sending(Hook.TC), Sending(Hook.TC, True))}
"""Without the essential ones packets are lost. The others may stay wrong if the driver cannot change them."""


def wrong_offloads(found: Mapping[str, Offload], sending: Sending) -> dict[str, bool]:
    """Return the offloads that must change, by the kernel's name, with their required state."""
    return {
        name: rule.on
        for name, rule in _RULES[sending].items()
        if (seen := found.get(name)) is not None and seen.on != rule.on and (rule.essential or seen.changeable)
    }


def cuts_too_late(gso_max_size: int, sending: Sending) -> bool:
    """Return whether an endpoint may send GSO packets that no tunnel carries."""
    return sending.gso and gso_max_size > GSO_MAX_SIZE


def lost_by(wrong: Mapping[str, bool], sending: Sending) -> dict[str, bool]:
    """Return those among wrong offloads without which packets are lost."""
    return {name: on for name, on in wrong.items() if _RULES[sending][name].essential}


def required_offloads(found: Mapping[str, Offload], sending: Sending) -> dict[str, bool]:
    """Return the state of all offloads that have a rule and can be changed, also of those that are right.

    One that is off only because another is off (netdev_fix_features) would come on with it.
    """
    rules = _RULES[sending]
    return {name: rules[name].on for name, seen in found.items() if name in rules and seen.changeable}


def describe_offload(name: str, on: bool) -> str:
    """Return one offload in words: its purpose, the kernel's name, and its state."""
    return f"{_WORDS[name]} ({name}) is {'on' if on else 'off'}"
