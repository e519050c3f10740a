"""Symbolic names of errnos, as the kernel spells them (errno(3))."""

from __future__ import annotations

import errno


def errno_name(number: int) -> str:
    """Return an errno's symbolic name as the kernel spells it, or its digits where it has none."""
    return "EOPNOTSUPP" if number == errno.EOPNOTSUPP else errno.errorcode.get(number, str(number))
