"""Checks a document's endpoints, of which there may be ten thousand: all at once, or one by one if that fails."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from protocol.addresses import MAC_PATTERN, parse_host_address, parse_mac
from protocol.documents import NAME_PATTERN, Attachment, Endpoint
from protocol.errors import ErrorCode, FieldError

_NAME = re.compile(NAME_PATTERN)
_NAMES = re.compile(rf"(?:{NAME_PATTERN}\n)*+")
_MACS = re.compile(rf"(?:{MAC_PATTERN}\n)*+")
LONGEST_REFERENCE = 63


def check_endpoints(endpoints: tuple[Endpoint, ...]) -> list[FieldError]:
    """Return every broken rule; empty if all endpoints are valid."""
    if _are_sound(endpoints):
        return []
    return [
        *(error for field, parse in ENDPOINT_TEXTS.items() for error in _each(endpoints, field, parse)),
        *_repeated_ids(endpoints),
        *_repeated_families(endpoints),
        *_wrong_addresses(endpoints),
        *_wrong_attachments(endpoints),
    ]


def _are_sound(endpoints: tuple[Endpoint, ...]) -> bool:
    """Return whether all are valid, without naming mistakes: a few passes in C over all of them."""
    ids = [endpoint.id for endpoint in endpoints]
    macs = [endpoint.mac for endpoint in endpoints]
    references = {endpoint.network for endpoint in endpoints} | {endpoint.droplet for endpoint in endpoints}
    addresses = [(endpoint.network, address) for endpoint in endpoints for address in endpoint.addresses]
    try:
        for _, address in addresses:
            parse_host_address(address)
    except ValueError:
        return False
    return (
        _all_match(_NAMES, ids)
        and _all_match(_MACS, macs)
        and all(1 <= len(reference) <= LONGEST_REFERENCE for reference in references)
        and len(set(ids)) == len(ids)
        and len(set(addresses)) == len(addresses)
        and not any(map(_is_of_one_family, endpoints))
        and not any(map(_fault_of, {endpoint.attachment for endpoint in endpoints}))
    )


def _all_match(lines: re.Pattern[str], texts: list[str]) -> bool:
    joined = "\n".join([*texts, ""])
    return joined.count("\n") == len(texts) and lines.fullmatch(joined) is not None


def parse_name(text: str) -> str:
    """Return an object's id, or raise ValueError."""
    if not _NAME.fullmatch(text):
        raise ValueError(
            f"{text[:80]!r} is not a valid id: use at most 63 lower-case letters, digits, dots, dashes and underscores"
        )
    return text


def parse_reference(text: str) -> str:
    """Return the id of another object, or raise ValueError."""
    if not 1 <= len(text) <= LONGEST_REFERENCE:
        raise ValueError(f"an id has 1 to {LONGEST_REFERENCE} characters, not {len(text)}")
    return text


ENDPOINT_TEXTS: dict[str, Callable[[str], object]] = {
    "id": parse_name,
    "network": parse_reference,
    "droplet": parse_reference,
    "mac": parse_mac,
}
"""The checks of an endpoint's fields that its type leaves to these rules."""


def _each(endpoints: tuple[Endpoint, ...], field: str, parse: Callable[[str], object]) -> Iterator[FieldError]:
    for index, endpoint in enumerate(endpoints):
        try:
            parse(getattr(endpoint, field))
        except ValueError as error:
            yield FieldError(f"endpoints[{index}].{field}", ErrorCode.INVALID, str(error))


def _repeated_ids(endpoints: tuple[Endpoint, ...]) -> Iterator[FieldError]:
    ids: dict[str, int] = {}
    for index, endpoint in enumerate(endpoints):
        first = ids.setdefault(endpoint.id, index)
        if first != index:
            message = f"endpoint {endpoint.id!r} stands in endpoints[{first}] already"
            yield FieldError(f"endpoints[{index}].id", ErrorCode.DUPLICATE, message)


def _is_of_one_family(endpoint: Endpoint) -> bool:
    """Return whether an endpoint has two addresses of one family: it could send only from the first one."""
    addresses = endpoint.addresses
    return len(set(addresses)) == 2 and (":" in addresses[0]) == (":" in addresses[1])


def _repeated_families(endpoints: tuple[Endpoint, ...]) -> Iterator[FieldError]:
    for index, endpoint in enumerate(endpoints):
        if _is_of_one_family(endpoint):
            message = "at most one address of each family: make another endpoint for this one"
            yield FieldError(f"endpoints[{index}].addresses[1]", ErrorCode.INVALID, message)


def _wrong_addresses(endpoints: tuple[Endpoint, ...]) -> Iterator[FieldError]:
    seen: dict[tuple[str, str], int] = {}
    for index, endpoint in enumerate(endpoints):
        for position, address in enumerate(endpoint.addresses):
            path = f"endpoints[{index}].addresses[{position}]"
            try:
                parse_host_address(address)
            except ValueError as error:
                yield FieldError(path, ErrorCode.INVALID, str(error))
                continue
            first = seen.setdefault((endpoint.network, address), index)
            if first != index or endpoint.addresses.index(address) != position:
                message = f"{address} is that of endpoints[{first}] already"
                yield FieldError(path, ErrorCode.DUPLICATE, message)


def _fault_of(attachment: Attachment | None) -> tuple[str, ErrorCode, str] | None:
    """Return the field of an attachment that is missing or too much, the error and what to do; None for a valid one."""
    if attachment is None:
        return None
    if not attachment.is_function:
        missing = "name the network namespace in which the interface appears, or set kind to function"
        return None if attachment.namespace else ("", ErrorCode.MISSING_FIELD, f"namespace is missing: {missing}")
    if attachment.namespace:
        message = "a function endpoint has no interface: leave namespace out, or set kind to veth"
        return ".namespace", ErrorCode.INVALID, message
    if attachment != Attachment(kind="function"):
        message = "a function endpoint has no interface: leave its name out, or set kind to veth"
        return ".interface", ErrorCode.INVALID, message
    return None


def _wrong_attachments(endpoints: tuple[Endpoint, ...]) -> Iterator[FieldError]:
    for index, endpoint in enumerate(endpoints):
        if (fault := _fault_of(endpoint.attachment)) is not None:
            field, code, message = fault
            yield FieldError(f"endpoints[{index}].attachment{field}", code, message)
