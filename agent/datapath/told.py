"""Refusals in whole sentences: nobody needs to add what the number alone would suggest."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator

from agent.core.refusals import Step, explain


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
        number = error.errno or errno.EIO
        raise ToldError(number, explain(step, number, error.strerror or os.strerror(number), subject)) from error
