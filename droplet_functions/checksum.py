"""The internet checksum (RFC 1071), in full and by the difference (RFC 1624, equation 3)."""

from __future__ import annotations

Buffer = bytes | bytearray | memoryview


def total(data: Buffer, start: int = 0) -> int:
    """Return the ones' complement sum of 16-bit words, not inverted; an odd last byte is padded with zero.

    2 ** 16 is 1 modulo 0xFFFF, so the sum of the words is the number that all bytes form, modulo 0xFFFF.
    """
    value = int.from_bytes(data, "big") << (8 if len(data) % 2 else 0)
    return _folded(value, start)


def _folded(value: int, start: int) -> int:
    found = (value + start) % 0xFFFF
    return 0xFFFF if not found and (value or start) else found


def checksum(data: Buffer, start: int = 0) -> int:
    """Return the checksum of data, with the sum `start` of a pseudo-header; 0 for data that holds its own checksum."""
    return ~total(data, start) & 0xFFFF


def updated(before: int, old: Buffer, new: Buffer, *, odd: bool = False) -> int:
    """Return a checksum after bytes that it covers have changed: HC' = ~(~HC + ~m + m').

    `odd`: the bytes begin at an odd offset of what is summed. ValueError when the lengths differ.
    """
    if len(old) != len(new):
        raise ValueError(f"{len(old)} bytes are replaced by {len(new)}: a changed length needs the checksum in full")
    pad = b"\0" if odd else b""
    removed, added = total(pad + bytes(old)), total(pad + bytes(new))
    return ~_folded((~before & 0xFFFF) + (~removed & 0xFFFF) + added, 0) & 0xFFFF
