"""Refusals in whole sentences: nobody needs to add what the number alone would suggest."""

from __future__ import annotations


class ToldError(OSError):
    """What the kernel, a driver or we ourselves refused; the text says why, and what to do about it."""
