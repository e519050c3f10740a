"""A digest of a set of (document, revision): controller and agent compare one number instead of lists.

The sum, modulo 2**128, of BLAKE2b-128 over `<name> NUL <revision, 8 bytes little-endian>`: adding and removing one
document costs one hash, whatever the order.
"""

from __future__ import annotations

from hashlib import blake2b

_MODULUS = 1 << 128


def term(document: str, revision: int) -> int:
    """Return the term that one realized document adds to the sum."""
    data = document.encode() + b"\0" + revision.to_bytes(8, "little")
    return int.from_bytes(blake2b(data, digest_size=16).digest(), "little")


def add(total: int, document: str, revision: int) -> int:
    """Return the sum with one document more."""
    return (total + term(document, revision)) % _MODULUS


def remove(total: int, document: str, revision: int) -> int:
    """Return the sum with one document less."""
    return (total - term(document, revision)) % _MODULUS


def text(total: int) -> str:
    """Return 32 hexadecimal digits."""
    return f"{total:032x}"
