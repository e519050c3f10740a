"""Errors of a document: one entry per wrong field, and the exception that carries them."""

from __future__ import annotations

from enum import StrEnum

import msgspec


class ErrorCode(StrEnum):
    """Why a field was refused."""

    NOT_MESSAGEPACK = "not_messagepack"
    """The body is not MessagePack, is truncated, or has trailing bytes."""
    UNKNOWN_KIND = "unknown_kind"
    """The document lists a kind of object that this version does not know."""
    UNKNOWN_FIELD = "unknown_field"
    MISSING_FIELD = "missing_field"
    WRONG_TYPE = "wrong_type"
    INVALID = "invalid"
    """The value has the right type and breaks a rule; the message says which."""
    DUPLICATE = "duplicate"
    """The same object, address or member twice in one document."""
    CLAIMED = "claimed"
    """Another document owns the object; the message names it."""
    OUT_OF_RANGE = "out_of_range"
    """An address outside its network, a network outside its VPC, or more than this host can do."""
    DISABLED = "disabled"
    """The host's settings turn off what the field asks for; the message names the setting."""
    TOO_LARGE = "too_large"
    UNCHECKED = "unchecked"
    """The host is still finding out whether it can run the program. Only pending documents have this code."""
    WRONG_SUBJECT = "wrong_subject"
    """The message names no subject, or not the one under which the stream holds it."""
    UNTRUSTED = "untrusted"
    """The host trusts only some publishers, and none of them signed the message, or it is an older one replayed."""


class FieldError(msgspec.Struct, frozen=True):
    """One wrong field: its path from the document's root (`endpoints[3].mac`, or `$` for the whole body)."""

    path: str
    code: ErrorCode
    message: str


class DocumentError(ValueError):
    """A body that is not a valid document. `errors` is never empty."""

    def __init__(self, errors: list[FieldError]) -> None:
        self.errors = errors
        first = errors[0]
        more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
        super().__init__(f"{first.path}: {first.message}{more}")
