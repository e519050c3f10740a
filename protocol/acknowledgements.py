"""How a host answers for one revision of one document."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import msgspec

from protocol.documents import KINDS
from protocol.errors import FieldError


class State(StrEnum):
    """What became of a revision."""

    REALIZED = "realized"
    """The maps and links that the attached programs use hold it."""
    PENDING = "pending"
    """It refers to objects that are not known yet; nothing of it is in force."""
    REJECTED = "rejected"
    """It is wrong, or claims what another document owns; the last good revision stays in force."""
    FAILED = "failed"
    """The kernel refused part of it; it is tried again."""


class Reference(msgspec.Struct, frozen=True, order=True):
    """An object that a document needs, by kind (`networks`) and id. Of very many, the last one is `and`, `57 more`."""

    kind: Annotated[str, msgspec.Meta(extra_json_schema={"enum": (*KINDS, "and")})]
    id: str


class KernelFailure(msgspec.Struct, frozen=True):
    """What the kernel refused: a positive errno and its name, the object in words, and what to do about it."""

    errno: int
    name: str
    object: str
    message: str


class Acknowledgement(msgspec.Struct, frozen=True, omit_defaults=True):
    """The newest answer for a document. Times are seconds since the epoch.

    `in_force` is the revision that forwarding follows now, 0 for none; it differs from `revision` while that is not
    realized. `removed` says that the revision removed the document. `absent` says that the stream holds no message of
    the document, and none removed it: it stays in force until it is published again or removed.
    """

    document: str
    revision: int
    state: State
    at: float
    in_force: int = 0
    removed: bool = False
    missing: tuple[Reference, ...] = ()
    errors: tuple[FieldError, ...] = ()
    failures: tuple[KernelFailure, ...] = ()
    retry_at: float | None = None
    absent: bool = False
