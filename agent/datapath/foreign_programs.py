"""Finds and describes programs of other owners on an interface: at XDP, and at its tcx and clsact hooks."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import NamedTuple

from agent.core.model.hooks import PROGRAMS, Hook
from agent.core.plan.observed import Observed
from agent.core.uplinks.program_owners import Place, advice, description
from agent.datapath.attach.tc import HANDLE
from agent.datapath.attach.xdp import attached_program, place_of
from agent.datapath.attached_programs import is_ours, owner_of, program_info
from agent.datapath.bpf.links import TCX_HOOKS, tcx_programs
from agent.datapath.bpf.pins import Pins
from agent.datapath.net.link_query import LinkXdp
from agent.datapath.net.netlink import Message, Netlink, attribute
from protocol.status import Fault

CLSACT_PARENTS = (0xFFFFFFF2, 0xFFFFFFF3)
"""TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_INGRESS) and _MIN_EGRESS of linux/pkt_sched.h; a qdisc `ingress` has the first."""

MOST_FAULTS = 10
"""Interfaces that are named as faults: finding the process that holds a program takes some milliseconds."""


class ForeignProgram(NamedTuple):
    """Whose program is attached where, and what to do if it is in the way."""

    description: str
    advice: str


def foreign_xdp(link: Message, pins: Pins) -> ForeignProgram | None:
    """Return another owner's XDP program on a link, None if there is none."""
    found = attached_program(link)
    if found is None or is_ours(found.program_id, pins):
        return None
    owner, place = owner_of(found.program_id, int(link["index"]), pins), place_of(found, link)
    return ForeignProgram(description(owner, found.program_id, place), advice(owner, place))


def foreign_faults(
    observed: Observed, pins: Pins, owned: Callable[[int], bool], attached: Callable[[int], LinkXdp]
) -> dict[int, Fault]:
    """Return a fault for each interface where another owner's XDP program is in the place of ours, by ifindex.

    `owned` recognises our programs, `attached` reads the program of an interface. Only the first interfaces are named:
    many have the same cause.
    """
    places = {uplink.carrier: ("", uplink.name) for uplink in observed.uplinks if not uplink.transit}
    places |= {veth.ifindex: (veth.endpoint, veth.ifname) for veth in observed.veths.values() if not veth.transit_agent}
    faults: dict[int, Fault] = {}
    for ifindex, (endpoint, name) in places.items():
        with contextlib.suppress(OSError):  # it is gone
            found = attached(ifindex)
            if found.program_id and not owned(found.program_id):
                owner, place = owner_of(found.program_id, ifindex, pins), Place(name, found.mode, endpoint)
                detail = description(owner, found.program_id, place)
                faults[ifindex] = Fault("foreign_program", name, detail, advice(owner, place))
        if len(faults) == MOST_FAULTS:
            break
    return faults


async def foreign_programs(netlink: Netlink, link: Message, pins: Pins) -> list[str]:
    """Describe all programs of other owners on a link."""
    xdp, index, name = foreign_xdp(link, pins), int(link["index"]), str(attribute(link, "IFLA_IFNAME"))
    found = [xdp.description] if xdp is not None else []
    for number in _tcx(index):
        if is_ours(number, pins):
            continue
        info = program_info(number)
        found.append(f"another owner's tcx program {info.name if info else ''} (id {number}) is attached to {name}")
    labels = await _clsact(netlink, index)
    return found + [f"another owner's tc filter with program {label} is attached to {name}" for label in labels]


def _tcx(ifindex: int) -> list[int]:
    with contextlib.suppress(OSError):  # an older kernel, or the interface is gone
        return [number for hook in TCX_HOOKS for number in tcx_programs(ifindex, hook)]
    return []


async def _clsact(netlink: Netlink, ifindex: int) -> list[str]:
    """Return the labels that their owners gave the programs of tc filters."""
    labels = []
    for parent in CLSACT_PARENTS:
        with contextlib.suppress(OSError):  # the interface is gone
            for one in await netlink.dump("get_filters", index=ifindex, parent=parent):
                label = attribute(attribute(one, "TCA_OPTIONS") or {}, "TCA_BPF_NAME")
                is_agents = one["handle"] == HANDLE and label in PROGRAMS[Hook.TC]
                if attribute(one, "TCA_KIND") == "bpf" and label and not is_agents:
                    labels.append(str(label))
    return labels
