"""What a driver says that it takes of XDP, asked of the kernel's netdev family."""

from __future__ import annotations

import asyncio
import errno
import logging
from pathlib import Path

import pytest

from agent.datapath.attach import xdp_features
from agent.datapath.attach.xdp_features import FeatureEvents
from tests.netns.conftest import Topo, ip

BASIC_AND_REDIRECT = 0b11
"""NETDEV_XDP_ACT_BASIC and NETDEV_XDP_ACT_REDIRECT of linux/netdev.h, which a veth always takes."""


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_an_interface_has_the_features_of_its_driver(topo: Topo) -> None:
    features = await xdp_features.xdp_features(topo.ifindex("eth0"))
    assert features is not None
    assert features & BASIC_AND_REDIRECT == BASIC_AND_REDIRECT
    assert await xdp_features.xdp_features(topo.ifindex("lo")) == 0


async def test_an_interface_that_is_gone_is_an_os_error(topo: Topo) -> None:
    with pytest.raises(OSError, match="No such device") as raised:
        await xdp_features.xdp_features(999_999)
    assert raised.value.errno == errno.ENODEV


async def test_a_kernel_without_the_family_tells_nothing_logs_nothing_and_can_be_listened_to(
    topo: Topo, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(xdp_features, "FAMILY", "nosuchfamily")
    assert await xdp_features.xdp_features(topo.ifindex("eth0")) is None
    events = await FeatureEvents.start(lambda: None)
    events.close()
    assert [record for record in caplog.records if record.levelno > logging.DEBUG] == []


async def test_a_change_of_a_drivers_features_is_noticed(topo: Topo) -> None:
    noticed = asyncio.Event()
    events = await FeatureEvents.start(noticed.set)
    try:
        ip("link", "add", "new0", "type", "veth", "peer", "name", "new1")
        await asyncio.wait_for(noticed.wait(), 60)
    finally:
        events.close()


async def test_a_query_leaves_no_socket_open(topo: Topo) -> None:
    index = topo.ifindex("eth0")
    await xdp_features.xdp_features(index)
    before = open_descriptors()
    for _ in range(5):
        await xdp_features.xdp_features(index)
    assert open_descriptors() == before
