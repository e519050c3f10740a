"""Errors for operators: what failed, where, why, and what to do."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator

from agent.core.plan.remedies import Step, explain


class OperatorError(OSError):
    """An error whose text says what failed, why, and what to do."""


@contextlib.contextmanager
def kernel_step(step: Step, subject: str) -> Iterator[None]:
    """Turn an OSError of the block into an OperatorError that names the step, the object and the remedy."""
    try:
        yield
    except OperatorError:
        raise
    except OSError as error:
        raise OperatorError(error.errno or errno.EIO, explain_error(error, step, subject)) from error


def explain_error(error: OSError, step: Step, subject: str) -> str:
    """Return the text of an OperatorError as it is, and of any other OSError with its cause and remedy."""
    number = error.errno or errno.EIO
    detail = error.strerror or os.strerror(number)
    if error.filename is not None:
        detail = f"{detail}: {error.filename}"
    return detail if isinstance(error, OperatorError) else explain(step, number, detail, subject)
