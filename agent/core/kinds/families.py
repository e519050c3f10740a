"""Errors for address families that this host's programs are not compiled with."""

from __future__ import annotations

from collections.abc import Iterator

from agent.core.model.features import Family, Features, family_of
from protocol.addresses import parse_cidr
from protocol.errors import ErrorCode, FieldError


def family_is_off(family: Family, setting: str) -> str:
    """Return what is wrong with an address, and what to do."""
    name = {"ipv4": "IPv4", "ipv6": "IPv6"}[family]
    return f"{name} is off on this host: add {family} to {setting} in the settings, and start the agent again"


def cidr_errors(path: str, cidrs: tuple[str, ...], features: Features) -> Iterator[FieldError]:
    """Yield an error for each CIDR of a family that is off."""
    for position, text in enumerate(cidrs):
        family = family_of(parse_cidr(text).address)
        if family not in features.families:
            message = f"{text}: {family_is_off(family, 'data_plane.families')}"
            yield FieldError(f"{path}.cidrs[{position}]", ErrorCode.DISABLED, message)
