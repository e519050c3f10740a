"""Versions of signed messages: which message may follow the last accepted one of its document. Pure."""

from __future__ import annotations

from hashlib import sha256
from typing import NamedTuple

from protocol import binding


class SignedVersion(NamedTuple):
    """The version of a signed message, and the SHA-256 of what was signed; empty where that is not known."""

    number: int
    content: bytes = b""


UNSIGNED = SignedVersion(0)
"""Used for a message whose signature was not checked, and for a document without an accepted message."""


def version_of(signed: bytes, number: int) -> SignedVersion:
    """Return the version of a message from the bytes that its signature covers."""
    return SignedVersion(number, sha256(signed).digest())


def objection(new: SignedVersion, taken: SignedVersion) -> str:
    """Return why a signed message may not follow the last accepted one; empty if it may.

    The same message is accepted again: consumers redeliver, and snapshots replay.
    """
    if new.number < taken.number:
        return (
            f"its {binding.VERSION} {new.number} is older than {taken.number}, which this host has accepted before: it "
            f"was replayed, or the publisher's clock went back; publish the document again with a greater version"
        )
    if new.number == taken.number and taken.content and new.content != taken.content:
        return (
            f"this host has accepted another message with its {binding.VERSION} {new.number}, with other content: the "
            f"publisher used a version twice, or two publishers share a key; publish the document again with a version "
            f"greater than {taken.number}"
        )
    return ""
