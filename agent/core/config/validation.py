"""Validates one document against the resolved state: missing references and conflicts."""

from __future__ import annotations

from typing import NamedTuple

from agent.core.kinds.catalogue import Listed
from agent.core.model.resolved_state import ResolvedState
from protocol.acknowledgements import Reference
from protocol.errors import ErrorCode, FieldError


class Validation(NamedTuple):
    """The missing references and the errors of a document; it can be in force when there are none."""

    missing: tuple[Reference, ...] = ()
    errors: tuple[FieldError, ...] = ()

    @property
    def valid(self) -> bool:
        """Return whether the document can be in force."""
        return not self.missing and not self.errors

    @property
    def is_waiting(self) -> bool:
        """Return whether nothing is wrong as far as is known, and the rest will be known soon without a new message."""
        return bool(self.errors) and all(error.code is ErrorCode.UNCHECKED for error in self.errors)


VALID = Validation()


def validate(
    listed: Listed,
    needed: frozenset[Reference],
    resolved: ResolvedState,
    document: str = "",
    *,
    was_in_force: bool = False,
) -> Validation:
    """Validate what the document of a name lists; `resolved` already includes its own objects.

    With `was_in_force`, an interface whose MTU became too small meanwhile does not withdraw it.
    """
    missing = tuple(sorted(reference for reference in needed if not resolved.has(reference)))
    if missing:
        return Validation(missing=missing)
    errors: list[FieldError] = []
    for kind, objects in listed:
        errors += kind.not_permitted(objects, document, resolved)
        errors += kind.validate(objects, resolved, was_in_force=was_in_force)
    wrong = [error for error in errors if error.code is not ErrorCode.UNCHECKED]
    return Validation(errors=tuple(wrong or errors)) if errors else VALID
