"""What tests of every kind share: signals as a terminal has them, one cache of compiled programs."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

PROGRAMS = Path(__file__).resolve().parents[1] / "build" / "programs"

settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")
"""No test asserts how long something took: on a busy machine an example may take any time."""


@pytest.fixture(scope="session", autouse=True)
def sigint_is_not_ignored() -> None:
    """Take SIGINT as a terminal's foreground job does: a job in the background ignores it, and so do its children."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def lab_cache() -> Path:
    """Return the folder of compiled programs that all tests and their labs share: DROPLET_LAB_CACHE, or the checkout's.

    It outlives the run: an object's name is the hash of all that went into it, so nothing is compiled twice.
    """
    return Path(os.environ.setdefault("DROPLET_LAB_CACHE", str(PROGRAMS)))
