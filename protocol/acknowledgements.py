"""Acknowledgements: what a host reports about one revision of one document."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import msgspec

from protocol.documents import KINDS
from protocol.errors import ErrorCode, FieldError


class State(StrEnum):
    """The state of a revision."""

    REALIZED = "realized"
    """The maps and links that the attached programs use hold it."""
    PENDING = "pending"
    """It refers to objects that are not known yet, or its programs are being checked; nothing of it is in force."""
    REJECTED = "rejected"
    """It is invalid, or claims an object that another document owns; the last good revision stays in force."""
    FAILED = "failed"
    """The kernel refused part of it; the host retries it."""


class Reference(msgspec.Struct, frozen=True, order=True):
    """An object that a document needs, by kind (`networks`) and id. Of very many, the last one is `and`, `57 more`."""

    kind: Annotated[str, msgspec.Meta(extra_json_schema={"enum": (*KINDS, "and")})]
    id: str

    def __str__(self) -> str:
        """Return the object in words, as in `network front`."""
        return f"{'VPC' if self.kind == 'vpcs' else self.kind.removesuffix('s')} {self.id}"


class KernelFailure(msgspec.Struct, frozen=True):
    """A refusal of the kernel: a positive errno and its name, the object in words, and the remedy."""

    errno: int
    name: str
    object: str
    message: str


class Acknowledgement(msgspec.Struct, frozen=True, omit_defaults=True):
    """The newest acknowledgement of a document. Times are seconds since the epoch.

    `in_force` is the revision that the host applies now, 0 for none; it differs from `revision` while that is not
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

    @property
    def is_preliminary(self) -> bool:
        """Return whether another acknowledgement of this revision follows as soon as its programs were checked."""
        return self.state is State.PENDING and any(error.code is ErrorCode.UNCHECKED for error in self.errors)
