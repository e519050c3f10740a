"""Offloads, drivers and statistics of real interfaces, by a socket of their namespace."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator

import pytest

from agent.datapath.net.device_statistics import statistics
from agent.datapath.net.ethtool import driver_of, leave_tags_on, read_offloads
from agent.datapath.net.namespaces import in_namespace, open_control_socket, opened_namespace
from tests.netns.conftest import Topo, run


@pytest.fixture
def control(topo: Topo) -> Iterator[socket.socket]:
    """A socket of the underlay's namespace, in which this thread is not."""
    with opened_namespace(topo.underlay) as descriptor:
        opened = in_namespace(descriptor, open_control_socket)
    with opened:
        yield opened


def offloads(topo: Topo) -> dict[str, str]:
    lines = run("ip", "netns", "exec", topo.underlay, "ethtool", "-k", "sub0").splitlines()[1:]
    return {name.strip(): state for name, _, state in (line.partition(": ") for line in lines)}


def test_only_the_offload_that_takes_tags_off_is_turned_off(topo: Topo, control: socket.socket) -> None:
    before = offloads(topo)
    assert before["rx-vlan-offload"] == "on"
    assert leave_tags_on(control, "sub0")
    assert offloads(topo) == {**before, "rx-vlan-offload": "off"}
    assert not leave_tags_on(control, "sub0")


def test_an_interface_that_takes_no_tags_off_is_left_alone(topo: Topo, control: socket.socket) -> None:
    assert not leave_tags_on(control, "lo")


def test_offloads_are_those_that_ethtool_shows(topo: Topo, control: socket.socket) -> None:
    shown = offloads(topo)
    found = read_offloads(control, "sub0")
    for name, shown_as in (("rx-gro", "generic-receive-offload"), ("tx-vlan-hw-insert", "tx-vlan-offload")):
        assert found[name].on is shown[shown_as].startswith("on")
        assert found[name].changeable is ("[fixed]" not in shown[shown_as])


def test_a_driver_is_named_and_one_that_is_gone_is_unknown(control: socket.socket) -> None:
    assert driver_of(control, "sub0") == "veth"
    assert driver_of(control, "gone0") == "unknown"


def test_what_is_asked_of_an_interface_that_is_gone_is_an_os_error(control: socket.socket) -> None:
    for question in (read_offloads, leave_tags_on):
        with pytest.raises(OSError, match="No such device") as raised:
            question(control, "gone0")
        assert raised.value.errno == errno.ENODEV


def test_statistics_are_the_drivers_and_without_any_an_os_error(topo: Topo) -> None:
    assert statistics("eth0")["peer_ifindex"] > 0
    with pytest.raises(OSError, match="not supported") as raised:
        statistics("lo")
    assert raised.value.errno == errno.EOPNOTSUPP
