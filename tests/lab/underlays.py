"""One topology over an underlay of either family: its text, changed."""

from __future__ import annotations

import re


def over_ipv6(text: str) -> str:
    """Return a topology whose droplets have IPv6 addresses: fd18:0:0:A::B in place of each 172.18.A.B."""
    text = re.sub(r'\[172\.18[^,]*, ("fd18[^"]*")\]', r"\1", text)
    text = re.sub(r"172\.18\.(\d+)\.0/24", r'"fd18:0:0:\1::/64"', text)
    return re.sub(r"172\.18\.(\d+)\.(\d+)(/24)?", lambda m: f'"fd18:0:0:{m[1]}::{m[2]}{"/64" if m[3] else ""}"', text)


def over(underlay: str, text: str) -> str:
    """Return a topology, written for an underlay of IPv4, over `ipv4` or `ipv6`."""
    return over_ipv6(text) if underlay == "ipv6" else text
