"""How much of the underlay's MTU tunnels take, by the family (4, 6) of the underlay. Pure.

The same numbers as the agent's (`agent.core.model.overhead`), which a test holds them against: the controller imports
no agent.
"""

from __future__ import annotations

OVERHEAD = {4: 20 + 8 + 8 + 14, 6: 40 + 8 + 8 + 14}
"""Bytes of outer IP, UDP, Geneve or VXLAN, and the inner Ethernet header (RFC 7348, section 5)."""
RETURN_TO_SENDER = {4: 4 + 8, 6: 4 + 20}
"""Bytes by which our endpoints' MTU is smaller still: the option that a conversation's first packets carry."""
IPV6_LEAST = 1280
"""What an interface with IPv6 must carry (RFC 8200, section 5)."""


def least_for_agent(version: int) -> int:
    """Return the smallest MTU of an interface on which an agent runs: its endpoints are left what IPv6 needs."""
    return IPV6_LEAST + OVERHEAD[version] + RETURN_TO_SENDER[version]
