"""What tests of every kind share: the settings that processes inherit, one cache of compiled programs, processes."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

PROGRAMS = Path(__file__).resolve().parents[1] / "build" / "programs"

CLEAN_UP = 60.0
"""Seconds that processes which were interrupted may take to take down their labs."""
HOOKS = ("xdp", "tc")
MOST_WORKERS = 8
"""Processes that share the tests on a large machine: the neighbour table of the kernel is one for all of them."""
LONGEST_FIRST = ("tests/bpf/", "tests/netns/test_lab_", "tests/system/", "tests/netns/", "tests/states/")

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
    signal.signal(signal.SIGINT, interrupt_once if "PYTEST_XDIST_WORKER" in os.environ else signal.default_int_handler)
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
        if "PYTEST_XDIST_WORKER" in os.environ:
            patch.setenv("COLUMNS", "120")  # without a terminal, tables would be 80 wide
        yield


def interrupt_once(number: int, frame: FrameType | None) -> None:
    """Interrupt the tests, but not what then takes labs down: execnet sends its processes another SIGINT after 5 s."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise KeyboardInterrupt


@pytest.fixture(scope="session", autouse=True)
def lab_cache() -> Path:
    """Return the folder of compiled programs that all tests and their labs share: DROPLET_LAB_CACHE, or the checkout's.

    It outlives the run: an object's name is the hash of all that went into it, so nothing is compiled twice.
    """
    return Path(os.environ.setdefault("DROPLET_LAB_CACHE", str(PROGRAMS)))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest, so that short tests are left to fill the end when several processes share them."""
    items.sort(
        key=lambda item: next((i for i, one in enumerate(LONGEST_FIRST) if one in item.nodeid), len(LONGEST_FIRST))
    )


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """After Ctrl-C, let the processes that share the tests take down their labs: xdist kills them after ten seconds."""
    shared = session.config.pluginmanager.getplugin("dsession")
    if shared is None or exitstatus != pytest.ExitCode.INTERRUPTED:
        return
    workers = list(shared._active_nodes)
    for node in workers:
        if not node._down:
            with contextlib.suppress(ProcessLookupError):
                os.kill(node.gateway._io.popen.pid, signal.SIGINT)
    deadline = time.monotonic() + CLEAN_UP
    while not all(node._down for node in workers) and time.monotonic() < deadline:
        time.sleep(0.05)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Run twice as many processes as there are CPUs: most tests of labs wait most of the time."""
    return min(2 * (os.cpu_count() or 1), MOST_WORKERS)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Share the tests among processes (`-n`) so that one of them runs what shares a module's fixtures."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFixtures(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group_of(nodeid)

    config.option.loadscopereorder = False
    return ByFixtures(config, log)


def group_of(nodeid: str) -> str:
    """Return which tests one process runs: those of a file, apart by the family of the lab that they use.

    Tests of the programs of one hook are one group, because their last test is about all of them.
    """
    file, _, test = nodeid.partition("::")
    words = re.split(r"[\[\]-]", test)
    if "tests/bpf/" in file:
        hook = next((one for one in HOOKS if one in words), "")
        return f"tests/bpf {hook}" if hook else file
    family = next((one for one in ("ipv4", "ipv6") if one in words), "")
    return f"{file} {family}"
