"""Damage to what an agent maintains, and the repair that must follow."""

from __future__ import annotations

from collections.abc import Callable

from agent.datapath.bpf import syscall as bpf
from agent.datapath.bpf.links import detach_tcx, tcx_programs
from controller_sim.lab.namespaces import call_in, run_in
from lab.fixtures import SystemLab
from lab.traffic import pings
from lab.waiting import until

HOST, NAME = "h1", "web-1"


def repaired_after(lab: SystemLab, damage: Callable[[], None]) -> str:
    """Do damage, wait for the event that tells of its repair, see that nothing is left to do, and return the event."""
    before = lab.status(HOST).repairs
    with lab.events(HOST, "repaired") as events:
        damage()
        until(events, "the event")
    detail = "; ".join(events()[0].detail)
    assert lab.status(HOST).repairs > before
    assert lab.plan(HOST) == ()
    assert pings(lab, "web-1", "web-2")
    assert pings(lab, "web-2", "web-1")
    return detail


def inside(*arguments: str) -> Callable[[SystemLab], None]:
    return lambda lab: lab.ip(lab.inside(NAME), *arguments) and None


def on_host_side(*arguments: str) -> Callable[[SystemLab], None]:
    def damage(lab: SystemLab) -> None:
        lab.ip(lab.names.droplet(HOST), "link", "set", "dev", lab.host_side(NAME), *arguments)

    return damage


def offload(name: str, state: str) -> Callable[[SystemLab], None]:
    def damage(lab: SystemLab) -> None:
        assert run_in(lab.inside(NAME), ["ethtool", "-K", "eth0", name, state]).returncode == 0

    return damage


def detach_tcx_programs(lab: SystemLab, interface: str) -> None:
    """Detach all tcx programs of an interface of the host."""
    namespace = lab.names.droplet(HOST)
    index = int(lab.ip(namespace, "-o", "link", "show", interface).split(":")[0])
    for number in call_in(namespace, lambda: tcx_programs(index, "ingress")):
        call_in(namespace, lambda number=number: detach_tcx(index, bpf.program_by_id(number)))
