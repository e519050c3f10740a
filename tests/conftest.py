"""What tests of every kind share: signals as a terminal has them, one cache of compiled programs for all labs."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")
"""No test asserts how long something took: on a busy machine an example may take any time."""


@pytest.fixture(scope="session", autouse=True)
def sigint_is_not_ignored() -> None:
    """Take SIGINT as a terminal's foreground job does: a job in the background ignores it, and so do its children."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def lab_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Let all labs of a run share one cache of compiled programs: DROPLET_LAB_CACHE, or one for this run."""
    with pytest.MonkeyPatch.context() as patch:
        if "DROPLET_LAB_CACHE" not in os.environ:
            patch.setenv("DROPLET_LAB_CACHE", str(tmp_path_factory.mktemp("programs")))
        yield
