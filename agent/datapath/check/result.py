"""The result of one check."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CheckResult:
    """One result: whether it is `ok`, what was found, and the remedy if it is not ok; if `ok`, advice.

    A `warning` does not prevent a start.
    """

    name: str
    ok: bool
    detail: str
    remedy: str = ""
    warning: bool = False
