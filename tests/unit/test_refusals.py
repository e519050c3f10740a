"""What the executor says of a refusal: the kernel's words and a way out, or a text that is whole and left as it is."""

from __future__ import annotations

import asyncio
import errno
import socket
from typing import Any

import pytest

from agent.core.actions import AttachTransit, EnsureVeth, Veth
from agent.datapath import offloads
from agent.datapath.told import ToldError
from agent.executor import Executor

VETH = Veth("a", "dp0", 0x40000000, "a", "eth0", bytes(6), 1438, ("10.0.0.5/24",), ("10.0.0.1",))


class Edge:
    """Links and transit XDP that do what a test says."""

    def __init__(self, act: Any) -> None:
        self._act = act

    async def ensure_veth(self, veth: Veth) -> None:
        self._act()

    async def attach(self, ifindex: int) -> None:
        self._act()


def said(act: Any, action: Any = AttachTransit(2)) -> str:  # noqa: B008
    edge: Any = Edge(act)
    (failure,) = asyncio.run(Executor({}, edge, edge).run([action]))
    return failure.message


def raising(error: OSError) -> Any:
    def act() -> None:
        raise error

    return act


class StubbornInterface:
    """An interface that takes every request and keeps its offloads, by the answers of its driver."""

    def __init__(self, **answers: int) -> None:
        self._answers = {getattr(offloads, f"ETHTOOL_{name}"): value for name, value in answers.items()}

    def ioctl(self, control: socket.socket, ifname: str, question: bytes) -> bytes:
        command = int.from_bytes(question[:4], "little")
        if command == offloads.ETHTOOL_GDRVINFO:
            return offloads._DRIVER.pack(command, b"mlx4")
        return offloads._VALUE.pack(command, self._answers.get(command, 0))


def test_a_number_alone_gets_a_way_out() -> None:
    assert said(raising(OSError(errno.ENODEV, "no such interface", "7"))) == (
        "no such interface: 7; the interface is not there: bring it back, and the agent tries again"
    )


def test_what_is_not_supported_names_no_setting_that_may_be_set_already() -> None:
    assert said(raising(OSError(errno.EOPNOTSUPP, "Operation not supported"))) == (
        "Operation not supported; the kernel or the driver of the interface cannot do this"
    )


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.EEXIST, errno.EPERM])
def test_a_whole_text_is_left_as_it_is(number: int) -> None:
    assert said(raising(ToldError(number, "it cannot be. Do this"))) == "it cannot be. Do this"


def test_a_driver_that_takes_tags_off_is_named_with_what_can_be_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offloads, "_ioctl", StubbornInterface(GFLAGS=offloads.ETH_FLAG_RXVLAN).ioctl)
    with socket.socket() as control:
        assert said(lambda: offloads.leave_tags_on(control, "eth7")) == (
            "eth7: driver mlx4 takes VLAN tags off received frames and does not stop when told to. Give the droplet an "
            "interface without VLAN, or one of another driver"
        )


def test_an_endpoint_that_keeps_its_offloads_says_what_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offloads, "_ioctl", StubbornInterface(GTXCSUM=1).ioctl)
    with socket.socket() as control:
        assert said(lambda: offloads.set_endpoint_offloads(control, "eth0"), EnsureVeth(VETH)) == (
            "eth0 does not turn receiving by NAPI (GRO) on and transmit checksums off, without which its packets are "
            "lost; the agent tries again"
        )
