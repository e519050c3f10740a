"""Documents whose newest message was refused because of its origin, and the resulting faults. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from agent.core.config.truncation import listed
from protocol.errors import ErrorCode, FieldError
from protocol.status import Fault

KINDS = {ErrorCode.WRONG_SUBJECT: "wrong_subject", ErrorCode.UNTRUSTED: "untrusted_document"}
SHOWN = 3
"""Documents that a fault names for each reason, and reasons; the others are only counted."""
REMEDY = (
    "what was in force stays in force; publish these documents again (remove those that are not yours), and find "
    "out which client stored the messages (docs/operations.md, Faults)"
)


class RefusedMessages:
    """The reason why the newest message was refused, by document."""

    def __init__(self) -> None:
        self._refused: dict[str, FieldError] = {}

    def clear(self) -> None:
        """Forget all of them: every document will be delivered again."""
        self._refused.clear()

    def take(self, document: str, refusal: FieldError | None) -> None:
        """Record why a document's newest message was refused; None when it was accepted."""
        if refusal is None:
            self._refused.pop(document, None)
        else:
            self._refused[document] = refusal

    def faults(self, subject: str) -> Iterator[Fault]:
        """Yield one fault for each kind of refusal; `subject` is the filter of all documents of the host."""
        for code, kind in KINDS.items():
            found = sorted((name, one.message) for name, one in self._refused.items() if one.code is code)
            if found:
                by_reason: dict[str, list[str]] = {}
                for name, reason in found:
                    by_reason.setdefault(reason, []).append(name)
                shown = [f"{listed(names, SHOWN)}: {reason}" for reason, names in by_reason.items()]
                more = [f"and {len(shown) - SHOWN} other reasons"] if len(shown) > SHOWN else []
                plural = "" if len(found) == 1 else "s"
                reasons = "; ".join(shown[:SHOWN] + more)
                detail = f"the newest message of {len(found)} document{plural} is refused: {reasons}"
                yield Fault(kind, subject, detail, REMEDY)
