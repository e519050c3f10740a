"""The errors that a program's author can mend. They reject a document, unlike other refusals of the kernel."""

from __future__ import annotations


class FunctionError(Exception):
    """A program that this host refuses. The message is short; `log` is all that was said, of a compiler or verifier."""

    def __init__(self, message: str, log: str = "") -> None:
        super().__init__(message)
        self.log = log or message


class SourceError(FunctionError):
    """A source that is refused or does not compile."""


class ObjectError(FunctionError):
    """An object file that cannot be read."""


class CheckError(FunctionError):
    """An instruction or a map that functions may not have."""
