"""What the programs of this host can do: chosen in the settings, compiled into the programs, held against documents."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

Family: TypeAlias = Literal["ipv4", "ipv6"]

BOTH: frozenset[Family] = frozenset({"ipv4", "ipv6"})


@dataclass(frozen=True, slots=True)
class Features:
    """Ports in UDP's numbers, `vxlan_port` 0 for no VXLAN.

    `families` are those of the overlay, `substrate` those of the droplets' addresses. `vlan_tags` is
    true when a droplet's frames carry an 802.1Q tag.
    """

    geneve_port: int = 6081
    vxlan_port: int = 4789
    families: frozenset[Family] = BOTH
    substrate: frozenset[Family] = BOTH
    vlan_tags: bool = False

    def flags(self) -> tuple[str, ...]:
        """Return the compiler's flags, always in the same order: what is off is not in the programs at all."""
        values = {
            "GENEVE_PORT": self.geneve_port,
            "VXLAN_PORT": self.vxlan_port,
            "INNER_IPV6": int("ipv6" in self.families),
            "OUTER_IPV4": int("ipv4" in self.substrate),
            "OUTER_IPV6": int("ipv6" in self.substrate),
            "VLAN_TAGS": int(self.vlan_tags),
        }
        return tuple(f"-D{name}={value}" for name, value in values.items())


def family_of(packed: bytes) -> Family:
    """Return the family of a packed address, of 4 or 16 bytes."""
    return "ipv4" if len(packed) == 4 else "ipv6"
