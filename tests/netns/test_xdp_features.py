"""What a driver says that it takes of XDP, asked of the kernel's netdev family."""

from __future__ import annotations

import asyncio
import errno
import logging
from pathlib import Path

import pytest

from agent.datapath.attach import xdp_features
from agent.datapath.attach.xdp_features import FeatureEvents
from tests.netns.conftest import Topo, ip, run

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
    events = await FeatureEvents.start(lambda: (), lambda: None)
    events.close()
    assert [record for record in caplog.records if record.levelno > logging.DEBUG] == []


def add_pair(name: str, other: str) -> None:
    """Make a pair of interfaces: GRO at one end decides whether the other accepts redirected frames."""
    ip("link", "add", name, "type", "veth", "peer", "name", other)
    for one in (name, other):
        ip("link", "set", one, "up")


async def test_a_change_of_a_drivers_features_is_noticed(topo: Topo) -> None:
    noticed = asyncio.Event()
    add_pair("new0", "new1")
    watched = {topo.ifindex("new0")}
    events = await FeatureEvents.start(lambda: watched, noticed.set)
    try:
        run("ethtool", "-K", "new1", "gro", "on")
        await asyncio.wait_for(noticed.wait(), 60)
    finally:
        events.close()


async def test_a_change_of_an_interface_that_is_no_uplink_is_ignored(topo: Topo) -> None:
    """An endpoint can change the features of its own as often as it likes: each change would be a resync."""
    for name in ("uplink", "tenant"):
        add_pair(name, f"{name}1")
    watched, noticed = {topo.ifindex("uplink")}, asyncio.Event()
    counted: list[bool] = []

    def changed() -> None:
        counted.append(True)
        noticed.set()

    events = await FeatureEvents.start(lambda: watched, changed)
    try:
        for state in ("on", "off"):
            run("ethtool", "-K", "tenant1", "gro", state)
        run("ethtool", "-K", "uplink1", "gro", "on")
        await asyncio.wait_for(noticed.wait(), 60)
    finally:
        events.close()
    assert counted == [True]


async def test_a_query_leaves_no_socket_open(topo: Topo) -> None:
    index = topo.ifindex("eth0")
    await xdp_features.xdp_features(index)
    before = open_descriptors()
    for _ in range(5):
        await xdp_features.xdp_features(index)
    assert open_descriptors() == before
