"""The version of a Linux kernel, parsed from the release that uname(2) returns. Pure."""

from __future__ import annotations

import re

Version = tuple[int, int]
"""Major and minor: compares as versions do."""


def version_of(release: str) -> Version:
    """Return the version of a release such as `6.1.0-56-amd64`; (0, 0), older than any, if it cannot be parsed."""
    found = re.match(r"(\d+)\.(\d+)", release)
    return (int(found[1]), int(found[2])) if found else (0, 0)
