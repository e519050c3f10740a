"""Refusals in whole sentences: nobody needs to add what the number alone would suggest."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator

from agent.core.plan.remedies import Step, explain


class ToldError(OSError):
    """What the kernel, a driver or we ourselves refused; the text says why, and what to do about it."""


@contextlib.contextmanager
def doing(step: Step, subject: str) -> Iterator[None]:
    """Turn an OSError of the block into a ToldError that says what was being done to which object, and what to do."""
    try:
        yield
    except ToldError:
        raise
    except OSError as error:
        raise ToldError(error.errno or errno.EIO, in_words(error, step, subject)) from error


def in_words(error: OSError, step: Step, subject: str) -> str:
    """Return an error in whole sentences: as it is where it is told already, else with its cause and what to do."""
    number = error.errno or errno.EIO
    detail = error.strerror or os.strerror(number)
    if error.filename is not None:
        detail = f"{detail}: {error.filename}"
    return detail if isinstance(error, ToldError) else explain(step, number, detail, subject)
