"""A revision of a document as it was delivered. Plain data."""

from __future__ import annotations

from dataclasses import dataclass

from protocol.errors import FieldError
from protocol.signed_versions import UNSIGNED, SignedVersion


@dataclass(frozen=True, slots=True)
class Delivery:
    """One revision of a document; `body` is None when it removes the document.

    `refusal` says why the message may change nothing; `version` is its signed version, `UNSIGNED` where none was
    checked.
    """

    document: str
    revision: int
    body: bytes | None
    refusal: FieldError | None = None
    version: SignedVersion = UNSIGNED
