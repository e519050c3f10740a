"""What tests of every kind can have: one cache of compiled programs for all labs of a run."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session")
def lab_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Let all labs of a run share one cache of compiled programs: DROPLET_LAB_CACHE, or one for this run."""
    with pytest.MonkeyPatch.context() as patch:
        if "DROPLET_LAB_CACHE" not in os.environ:
            patch.setenv("DROPLET_LAB_CACHE", str(tmp_path_factory.mktemp("programs")))
        yield
