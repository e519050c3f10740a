"""Features of this host's programs: chosen in the settings, compiled in, and required by documents."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

Family: TypeAlias = Literal["ipv4", "ipv6"]

BOTH: frozenset[Family] = frozenset({"ipv4", "ipv6"})


@dataclass(frozen=True, slots=True)
class Features:
    """Ports are UDP port numbers; `vxlan_port` 0 disables VXLAN.

    `families` are the address families of the overlay, `underlay` those of the droplets' addresses. `vlan_tags` is
    true if a droplet's frames carry an 802.1Q tag, `functions` if users' functions may run.
    """

    geneve_port: int = 6081
    vxlan_port: int = 4789
    families: frozenset[Family] = BOTH
    underlay: frozenset[Family] = BOTH
    vlan_tags: bool = False
    functions: bool = False

    def flags(self) -> tuple[str, ...]:
        """Return the compiler's flags, always in the same order. Features that are off are not compiled in."""
        values = {
            "GENEVE_PORT": self.geneve_port,
            "VXLAN_PORT": self.vxlan_port,
            "INNER_IPV6": int("ipv6" in self.families),
            "OUTER_IPV4": int("ipv4" in self.underlay),
            "OUTER_IPV6": int("ipv6" in self.underlay),
            "VLAN_TAGS": int(self.vlan_tags),
            "STAGES": int(self.functions),
        }
        return tuple(f"-D{name}={value}" for name, value in values.items())


@dataclass(frozen=True, slots=True)
class FunctionRules:
    """Which functions this host accepts: forms of programs, and documents whose functions need not name a VPC.

    `accept` holds some of `source`, `object`, `file`, `process`; `host_wide` patterns of documents' names (fnmatch). Of
    each VPC, functions take at most `vpc_slots` slots of a point, and `vpc_map_bytes` for maps that are full; those of
    all functions take at most `map_bytes`.
    """

    accept: frozenset[str] = frozenset()
    host_wide: tuple[str, ...] = ()
    vpc_slots: int = 8
    vpc_map_bytes: int = 1 << 40
    map_bytes: int = 1 << 40


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the compiler, the checks and the kernel's verifier said of a program for one stage point.

    `refusal` says why it cannot run, empty if it can. `content` is the hash of the program that can run: of a file that
    was changed and is refused, that of the version before, empty if there is none. `map_bytes` is what the maps of the
    program take when they are full.
    """

    content: str
    refusal: str = ""
    map_bytes: int = 0


def family_of(packed: bytes) -> Family:
    """Return the family of a packed address, of 4 or 16 bytes."""
    return "ipv4" if len(packed) == 4 else "ipv6"
