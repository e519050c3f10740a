"""What tests of every kind share: the settings that processes inherit, one cache of compiled programs for all labs."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")
"""No test asserts how long something took: on a busy machine an example may take any time."""


ENDING = (signal.SIGHUP, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
OURS = ("DROPLET_", "NATS_", "COLUMNS", "LINES", "FORCE_COLOR", "NO_COLOR", "LC_", "LANG", "TZ", "PYTHONUNBUFFERED")
"""How names of variables begin that programs under test read."""


@pytest.fixture(scope="session", autouse=True)
def inherited_settings() -> Iterator[None]:
    """Give tests, and the processes that they start, what a terminal's foreground job has, whatever the parent had.

    A job in the background ignores SIGINT, nohup SIGHUP; a service has another umask, directory and limit of files.
    """
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for one in ENDING:
        if signal.getsignal(one) is signal.SIG_IGN:
            signal.signal(one, signal.SIG_DFL)
    os.umask(0o022)
    files, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(files, min(4096, most)), most))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(Path(__file__).parents[1])
        for name in [name for name in os.environ if name.startswith(OURS) and name != "DROPLET_LAB_CACHE"]:
            patch.delenv(name)
        patch.setenv("LC_ALL", "C.UTF-8")
        yield


@pytest.fixture(scope="session")
def lab_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Let all labs of a run share one cache of compiled programs: DROPLET_LAB_CACHE, or one for this run."""
    with pytest.MonkeyPatch.context() as patch:
        if "DROPLET_LAB_CACHE" not in os.environ:
            patch.setenv("DROPLET_LAB_CACHE", str(tmp_path_factory.mktemp("programs")))
        yield
