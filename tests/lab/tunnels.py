"""Tunnels by the kernel's own devices, between endpoints or hosts."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from controller_sim.lab.namespaces import run_in
from lab.fixtures import SystemLab
from lab.traffic import mtu_of

OVERHEAD = 100
"""Bytes, enough for an outer IPv6 header, UDP, VXLAN or Geneve, and the inner Ethernet header."""
KINDS = {
    4: {
        "vxlan": "vxlan id 5 local {own} remote {other} dstport 8472",
        "geneve": "geneve id 5 remote {other}",
        "gretap": "gretap local {own} remote {other}",
    },
    6: {
        "vxlan": "vxlan id 5 local {own} remote {other} dstport 8472",
        "geneve": "geneve id 5 remote {other}",
        "ip6gretap": "ip6gretap local {own} remote {other}",
    },
}
"""For each family of the outer addresses, the kinds of tunnels with the options of their devices."""
DEVICE = "inner0"


def kinds_of_tunnels(namespace: str, family: int) -> list[str]:
    """Return the kinds of tunnels over a family for which this kernel has devices; VXLAN must be among them."""
    asked = {kind: run_in(namespace, ["ip", "link", "add", DEVICE, "type", kind]).stderr for kind in KINDS[family]}
    found = [kind for kind, said in asked.items() if "Unknown device type" not in said and "not supported" not in said]
    run_in(namespace, ["ip", "link", "delete", DEVICE])
    assert "vxlan" in found
    return found


@dataclass(frozen=True)
class End:
    """An end of a tunnel: a namespace, its address outside of the tunnel, and the MTU there in bytes."""

    namespace: str
    address: str
    mtu: int

    @classmethod
    def of(cls, lab: SystemLab, endpoint: str, family: int) -> End:
        return cls(lab.inside(endpoint), lab.address(endpoint, family), mtu_of(lab, endpoint))


@contextlib.contextmanager
def tunnel_between(one: End, other: End, kind: str) -> Iterator[tuple[str, str]]:
    """Connect two ends by a tunnel of a kind; yield their addresses inside it."""
    inside = ("192.168.77.1", "192.168.77.2")
    options = KINDS[6 if ":" in one.address else 4][kind]
    try:
        for own, to, address in ((one, other, inside[0]), (other, one, inside[1])):
            device = options.format(own=own.address, other=to.address)
            _add_device(own.namespace, address, f"mtu {own.mtu - OVERHEAD} type {device}")
        yield inside
    finally:
        for end in (one, other):
            run_in(end.namespace, ["ip", "link", "delete", DEVICE])


def _add_device(namespace: str, address: str, options: str) -> None:
    link, up = f"link add name {DEVICE} {options}", f"link set {DEVICE} up"
    for line in (link, f"address add {address}/24 dev {DEVICE}", up):
        done = run_in(namespace, ["ip", *line.split()])
        assert done.returncode == 0, f"{line}: {done.stderr}"
