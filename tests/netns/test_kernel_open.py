"""A start that fails while it looks at the uplinks."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import NoReturn

import pytest

from agent.datapath.kernel import Kernel, KernelConfig
from agent.datapath.mode_follower import ModeFollower


def descriptors() -> set[str]:
    """Return what this process has open, but for the epoll of event loops."""
    found = set()
    for path in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # that of the listing
            found.add(str(path.readlink()))
    return {one for one in found if one.startswith(("socket:", "anon_inode:bpf"))}


async def test_a_start_that_fails_leaves_nothing_open(config: KernelConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(self: ModeFollower) -> NoReturn:
        raise TimeoutError("the kernel did not answer")

    kernel = await Kernel.open(config)
    await kernel.close()
    before = descriptors()
    monkeypatch.setattr(ModeFollower, "look", refuse)
    with pytest.raises(TimeoutError):
        await Kernel.open(config)
    assert descriptors() <= before
