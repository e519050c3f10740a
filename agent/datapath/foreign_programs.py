"""Finds and describes programs of other owners on an interface: at XDP, and at its tcx and clsact hooks."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import NamedTuple

from agent.core.plan.observed import Observed
from agent.core.uplinks.program_owners import (
    CLSACT,
    FILTER_HANDLE,
    FILTER_PRIORITY,
    TCX,
    Place,
    advice,
    description,
    description_in_front,
)
from agent.datapath.attach.tc import CLSACT_INGRESS, Stranger, TcKind, programs_at
from agent.datapath.attach.transit import NO_PROGRAM, Transit
from agent.datapath.attach.transit_agent import TransitAgent
from agent.datapath.attach.xdp import attached_program, place_of
from agent.datapath.attached_programs import is_ours, other_instance, owner_of
from agent.datapath.bpf.links import TCX_HOOKS, tcx_programs
from agent.datapath.bpf.pins import Pins
from agent.datapath.net.link_query import LinkQuery
from agent.datapath.net.netlink import Message, Netlink, attribute
from protocol.status import Fault

CLSACT_PARENTS = (CLSACT_INGRESS, 0xFFFFFFF3)
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


def foreign_instance(link: Message, pins: Pins) -> ForeignProgram | None:
    """Return another instance's program on a link, at either hook; None if there is none, or if ours is there, too."""
    xdp, index = attached_program(link), int(link["index"])
    found = [*([(xdp.program_id, str(xdp.mode))] if xdp is not None else []), *_at_tcx_and_in_our_place(index)]
    if any(is_ours(number, pins) for number, _ in found):
        return None
    for number, mode in found:
        if other_instance(number, pins):
            owner, place = owner_of(number, index, pins), Place(str(attribute(link, "IFLA_IFNAME")), mode)
            return ForeignProgram(description(owner, number, place), advice(owner, place))
    return None


def foreign_faults(
    observed: Observed, pins: Pins, owned: Callable[[int], bool], transit: Transit, agents: TransitAgent
) -> dict[int, Fault]:
    """Return a fault for each interface where another owner's program is in the way of ours, by ifindex.

    That is one in its place, at tc one in front of it, and one of another instance. `owned` recognises our programs.
    Only the first interfaces are named: many have the same cause.
    """
    places = [(one.carrier, Place(one.name), one.transit, transit.strangers) for one in observed.uplinks]
    places += [
        (veth.ifindex, Place(veth.ifname, endpoint=veth.endpoint), veth.transit_agent, agents.tc_strangers)
        for veth in observed.veths.values()
    ]
    faults: dict[int, Fault] = {}
    for ifindex, place, right, at_tc in places:
        with contextlib.suppress(OSError):  # it is gone
            at_xdp = NO_PROGRAM if right else transit.found_on(ifindex)
            found = [(at_xdp.program_id, place._replace(mode=at_xdp.mode))]
            found += [(one.program_id, _at_tc(place, one)) for one in at_tc(ifindex)]
            strangers = [one for one in found if one[0] and not owned(one[0])]
            if strangers:
                faults[ifindex] = _fault(ifindex, pins, *strangers[0])
        if len(faults) == MOST_FAULTS:
            break
    return faults


def _at_tc(place: Place, stranger: Stranger) -> Place:
    return place._replace(mode=stranger.kind, in_front=stranger.in_front, handle=stranger.handle)


def _fault(ifindex: int, pins: Pins, number: int, place: Place) -> Fault:
    owner = owner_of(number, ifindex, pins)
    described = description_in_front if place.in_front else description
    return Fault("foreign_program", place.interface, described(owner, number, place), advice(owner, place))


async def foreign_programs(netlink: Netlink, link: Message, pins: Pins) -> list[str]:
    """Describe all programs of other owners on a link."""
    xdp, index, name = foreign_xdp(link, pins), int(link["index"]), str(attribute(link, "IFLA_IFNAME"))
    found = [xdp.description] if xdp is not None else []
    for number, mode in _at_tcx_and_in_our_place(index):
        if not is_ours(number, pins):
            found.append(description(owner_of(number, index, pins), number, Place(name, mode)))
    labels = await _clsact(netlink, index)
    return found + [f"another owner's tc filter with program {label} is attached to {name}" for label in labels]


def _at_tcx_and_in_our_place(ifindex: int) -> list[tuple[int, str]]:
    """Return id and mode of the tcx programs of an interface, and of the program of the filter in our place."""
    return [*((number, TCX) for number in _tcx(ifindex)), *((number, CLSACT) for number in _in_our_place(ifindex))]


def _tcx(ifindex: int) -> list[int]:
    with contextlib.suppress(OSError):  # an older kernel, or the interface is gone
        return [number for hook in TCX_HOOKS for number in tcx_programs(ifindex, hook)]
    return []


def _in_our_place(ifindex: int) -> list[int]:
    with contextlib.suppress(OSError), contextlib.closing(LinkQuery()) as query:  # the interface is gone
        return programs_at(ifindex, query, TcKind.CLSACT)
    return []


async def _clsact(netlink: Netlink, ifindex: int) -> list[str]:
    """Return the labels that their owners gave the programs of tc filters, without the one in our place."""
    labels = []
    for parent in CLSACT_PARENTS:
        with contextlib.suppress(OSError):  # the interface is gone
            for one in await netlink.dump("get_filters", index=ifindex, parent=parent):
                label = attribute(attribute(one, "TCA_OPTIONS") or {}, "TCA_BPF_NAME")
                in_our_place = (one["handle"], one["info"] >> 16, parent) == (
                    FILTER_HANDLE,
                    FILTER_PRIORITY,
                    CLSACT_INGRESS,
                )
                if attribute(one, "TCA_KIND") == "bpf" and label and not in_our_place:
                    labels.append(str(label))
    return labels
