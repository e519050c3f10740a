"""How the executor explains refusals: the kernel's message and a remedy, or a complete text that stays unchanged."""

from __future__ import annotations

import asyncio
import ctypes
import errno
import os
import socket
from dataclasses import fields
from types import SimpleNamespace
from typing import Any, get_args

import pytest
from pyroute2.ethtool import ioctl as pyroute2_ethtool

from agent.core.model.desired_entries import Veth
from agent.core.model.errno_names import errno_name
from agent.core.model.map_layout import MapName
from agent.core.model.offloads import NO_GSO, OFFLOADS, Offload, wrong_offloads
from agent.core.plan.actions import Action, AttachTransit, EnsureVeth
from agent.core.plan.remedies import GENERAL, SPECIFIC, Step, explain, step_of
from agent.datapath.executor import Executor
from agent.datapath.net import ethtool
from agent.errors import OperatorError

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
    (failure,) = asyncio.run(Executor({}, edge, edge, edge).run([action]))
    return failure.message


class NewDriver:
    """A driver that reports only with a program attached that it accepts no redirects."""

    def __init__(self) -> None:
        self.attached = self.known = False

    async def attach(self, ifindex: int) -> None:
        self.attached = True

    async def follow(self) -> None:
        self.known = self.attached

    async def detach_refused(self, ifindex: int) -> None:
        if self.known:
            self.attached = False
            raise OperatorError(errno.EOPNOTSUPP, f"interface {ifindex} accepts no redirects")


def raising(error: OSError) -> Any:
    def act() -> None:
        raise error

    return act


class StubbornInterface:
    """An interface whose offloads stay as they are, though it may say that it lets them be changed."""

    def __init__(self, *on: str, changeable: bool = True) -> None:
        self._names = sorted((*OFFLOADS, ethtool.TAGS_OFF))
        self._on = sum(1 << self._names.index(name) for name in on)
        self._changeable = (1 << len(self._names)) - 1 if changeable else 0
        self.asked: list[int] = []

    def ioctl(self, control: socket.socket, request: int, question: Any) -> int:
        """Answer as the kernel does: in the structure that the question points to."""
        if isinstance(question, pyroute2_ethtool.IfReqSsetInfo):
            question.info.contents.data = len(self._names)
            return 0
        command = ctypes.cast(question.gstrings, ctypes.POINTER(ctypes.c_uint32)).contents.value
        self.asked.append(command)
        match command:
            case ethtool.ETHTOOL_GDRVINFO:
                ctypes.memmove(question.gstrings + 4, b"mlx4", 4)
            case pyroute2_ethtool.ETHTOOL_GSTRINGS:
                names = b"".join(name.encode().ljust(pyroute2_ethtool.ETH_GSTRING_LEN, b"\0") for name in self._names)
                ctypes.memmove(question.gstrings + 12, names, len(names))
            case pyroute2_ethtool.ETHTOOL_GFEATURES:
                block = question.gfeatures.contents.features[0]
                block.available, block.active = self._changeable, self._on
        return 0


@pytest.fixture
def plug(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Put an interface in the place of the kernel's."""

    def put(interface: StubbornInterface) -> StubbornInterface:
        monkeypatch.setattr(pyroute2_ethtool, "fcntl", SimpleNamespace(ioctl=interface.ioctl))
        monkeypatch.setattr(ethtool, "_feature_names", [])
        return interface

    return put


def test_a_bare_errno_gets_a_remedy() -> None:
    assert said(raising(OSError(errno.ENODEV, "no such interface", "7"))) == (
        "no such interface: 7 (ENODEV) while attaching transit XDP on the interface with ifindex 2: the interface is "
        "gone: bring it back; the agent tries again by itself"
    )


def test_an_unsupported_operation_suggests_no_setting_that_may_be_set_already() -> None:
    assert said(raising(OSError(errno.EOPNOTSUPP, "Operation not supported"))) == (
        "Operation not supported (EOPNOTSUPP) while attaching transit XDP on the interface with ifindex 2: the "
        "interface cannot run it: give the droplet another interface, or see attach_mode, endpoint_hook and "
        "uplink_hook in the settings"
    )


def test_what_a_driver_reports_once_a_program_is_attached_may_refuse_the_action() -> None:
    driver: Any = NewDriver()
    (failure,) = asyncio.run(Executor({}, driver, driver, driver).run([AttachTransit(2)]))
    assert (failure.errno, failure.message) == (errno.EOPNOTSUPP, "interface 2 accepts no redirects")
    assert not driver.attached


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.EEXIST, errno.EPERM])
def test_a_whole_text_is_left_as_it_is(number: int) -> None:
    assert said(raising(OperatorError(number, "it cannot be. Do this"))) == "it cannot be. Do this"


def test_a_driver_that_strips_vlan_tags_is_named_with_a_remedy(plug: Any) -> None:
    plug(StubbornInterface(ethtool.TAGS_OFF))
    with socket.socket() as control:
        assert said(lambda: ethtool.leave_tags_on(control, "eth7")) == (
            "eth7: driver mlx4 takes VLAN tags off received frames and does not stop when told to. Give the droplet an "
            "interface without VLAN, or one of another driver"
        )


def test_an_endpoint_that_keeps_its_offloads_says_what_is_lost(plug: Any) -> None:
    plug(StubbornInterface("tx-checksum-ip-generic"))
    with socket.socket() as control:
        assert said(lambda: ethtool.set_endpoint_offloads(control, "eth0", NO_GSO), EnsureVeth(VETH)) == (
            "eth0: generic receive offload (rx-gro) is off; transmit checksum offload (tx-checksum-ip-generic) is on, "
            "and driver mlx4 does not change that, so the endpoint's packets would be lost or altered: update the "
            "kernel, and see ethtool -k"
        )


def test_an_offload_that_the_driver_holds_and_that_loses_nothing_is_not_asked_for_again_and_again(plug: Any) -> None:
    """Otherwise every resync would find a difference and try to repair it."""
    interface = plug(StubbornInterface("rx-gro", "tx-vlan-hw-insert", changeable=False))
    with socket.socket() as control:
        assert wrong_offloads(ethtool.read_offloads(control, "eth0"), NO_GSO) == {}
        assert not ethtool.set_endpoint_offloads(control, "eth0", NO_GSO)
    assert pyroute2_ethtool.ETHTOOL_SFEATURES not in interface.asked


def test_an_offload_that_the_driver_holds_and_that_loses_packets_is_a_refusal(plug: Any) -> None:
    plug(StubbornInterface("tx-checksum-sctp", "rx-gro", changeable=False))
    with socket.socket() as control:
        assert wrong_offloads(ethtool.read_offloads(control, "eth0"), NO_GSO) == {"tx-checksum-sctp": False}
        assert "tx-checksum-sctp" in said(
            lambda: ethtool.set_endpoint_offloads(control, "eth0", NO_GSO), EnsureVeth(VETH)
        )


def test_an_offload_that_the_kernel_does_not_have_is_no_difference(plug: Any) -> None:
    assert wrong_offloads({"rx-gro": Offload(True, True)}, NO_GSO) == {}
    assert wrong_offloads({}, NO_GSO) == {}


EVERY_ERRNO = sorted(errno.errorcode)


@pytest.mark.parametrize("step", Step)
def test_every_errno_of_every_step_has_a_text_that_says_what_to_do(step: Step) -> None:
    for number in [*EVERY_ERRNO, 524, 4095]:  # 524: ENOTSUPP, which the kernel lets out at times, and no libc names
        text = explain(step, number, os.strerror(number), "the thing")
        said, _, remedy = text.partition(f" while {step.value} the thing: ")
        assert said in (f"{os.strerror(number)} ({errno_name(number)})", f"Unknown error {number}")
        assert len(remedy) > 30, text


@pytest.mark.parametrize("kind", get_args(Action))
def test_every_action_has_a_step(kind: type) -> None:
    """An action without one would be refused in the errno's words alone."""
    values = [VETH if field.type == "Veth" else MapName.VPCS for field in fields(kind)]
    assert isinstance(step_of(kind(*values)), Step)


def test_the_text_of_a_step_is_more_specific_than_that_of_the_errno() -> None:
    for (step, number), text in SPECIFIC.items():
        assert text != GENERAL.get(number), (step, number)


def test_a_text_names_the_errno_once() -> None:
    assert explain(Step.READ, errno.EPERM, "refused (EPERM)", "x").startswith("refused (EPERM) while reading x: ")
