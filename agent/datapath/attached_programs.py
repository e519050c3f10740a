"""Finds the owner of an attached program, and the programs and maps of this instance whose pins were lost.

Pins go when the bpf file system does: it is unmounted, or the container that it belonged to starts again. Programs stay
attached, and with them the maps that they work on. So both are found by the interfaces, and pinned again.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import structlog

from agent.core.model.map_layout import LAYOUT_VERSION
from agent.core.uplinks.program_owners import Owner
from agent.datapath.attach.tc import TcKind, programs_at, supported_kind
from agent.datapath.attach.uplinks import read_uplinks
from agent.datapath.attach.xdp import attached_program
from agent.datapath.bpf import syscall as bpf
from agent.datapath.bpf.links import link_of
from agent.datapath.bpf.marks import is_like_ours, read_mark
from agent.datapath.bpf.pins import Pins, pinned_program_ids
from agent.datapath.bpf.program_holders import holder_of
from agent.datapath.net.link_query import LinkQuery
from agent.datapath.net.netlink import Message, Netlink
from agent.datapath.veth.pairs import marked_endpoint

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class OwnedObjects:
    """Maps and programs of this instance and the current layout that attached or pinned programs keep in the kernel."""

    maps: Mapping[str, int] = field(default_factory=dict)
    """Map ids by name; names as the kernel has them, of 15 characters at most."""
    programs: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """Program ids by name and content hash."""


def is_ours(program_id: int, pins: Pins, *, unmarked: bool = True) -> bool:
    """Return whether a program is this instance's: pinned by it, or marked with its name.

    The maps that it uses say nothing: users' programs may use the pinned ones. An unmarked program of an older version
    is this instance's if no other instance has it pinned, and if it uses no pinned map of a layout that came with
    marks; without `unmarked` it never is. A program that is gone has no owner.
    """
    if program_id in pinned_program_ids(pins):
        return True
    info = program_info(program_id)
    if info is None:
        return False
    marked = read_mark(info)
    if marked is not None:
        return marked[1].instance == pins.instance
    if (
        not unmarked
        or not is_like_ours(info)
        or any(program_id in pinned_program_ids(other) for other in pins.others())
    ):
        return False
    return not any(one.marked_map_ids() & set(info.map_ids) for one in (pins, *pins.others()))


def foreign_users(map_ids: Collection[int], pins: Pins) -> dict[int, str]:
    """Return which of some maps programs of other owners use, each with a description of such a program."""
    found: dict[int, str] = {}
    for number in bpf.all_ids(bpf.Command.PROG_GET_NEXT_ID):
        info = program_info(number)
        used = set(info.map_ids).intersection(map_ids) if info is not None else set()
        if info is not None and used and not is_ours(number, pins):
            found |= dict.fromkeys(used, f"program {info.name} (id {number})")
    return found


def owner_of(program_id: int, ifindex: int, pins: Pins) -> Owner:
    """Return the owner of another's program on an interface, and the process that holds it open, if one is visible."""
    info = program_info(program_id)
    name = info.name if info is not None else ""
    return Owner(other_instance(program_id, pins), holder_of(program_id), name, link_of(program_id, ifindex))


def other_instance(program_id: int, pins: Pins) -> str:
    """Return the name of the other instance that a program belongs to, by its mark or its pins; empty if to none."""
    info = program_info(program_id)
    marked = read_mark(info) if info is not None else None
    if marked is not None:
        return "" if marked[1].instance == pins.instance else marked[1].instance
    return next((one.instance for one in pins.others() if program_id in pinned_program_ids(one)), "")


async def find(netlink: Netlink, pins: Pins, interfaces: Sequence[str]) -> OwnedObjects:
    """Inspect the programs on the uplinks, on endpoints' interfaces and in pins, in this order.

    The uplinks' program wins: of several generations of maps, its maps are those that traffic uses.
    """
    uplinks = await read_uplinks(netlink, interfaces)
    links = await netlink.links()
    carriers = {uplink.carrier for uplink in uplinks}
    on_uplinks = [link for link in links if link["index"] in carriers]
    on_endpoints = [link for link in links if marked_endpoint(link, pins.instance) is not None]
    with contextlib.closing(LinkQuery()) as query:
        kind = supported_kind()
        at_uplinks = list(_attached_to(on_uplinks, query, kind))
        at_endpoints = set(_attached_to(on_endpoints, query, kind))
    numbers = [*at_uplinks, *sorted(at_endpoints, reverse=True)]
    maps: dict[str, int] = {}
    programs: dict[tuple[str, str], int] = {}
    for number in dict.fromkeys([*numbers, *sorted(pinned_program_ids(pins), reverse=True)]):
        info = program_info(number)
        marked = read_mark(info) if info is not None else None
        if info is None or marked is None or marked[1][:2] != (pins.instance, LAYOUT_VERSION):
            continue
        programs.setdefault((info.name, marked[1].content), number)
        for name, map_id in _maps_of(info, but=marked[0]):
            maps.setdefault(name, map_id)
    return OwnedObjects(maps, programs)


def _attached_to(links: Sequence[Message], query: LinkQuery, kind: TcKind) -> Iterator[int]:
    """Yield the ids of the programs at XDP and tc on interfaces, without those that go meanwhile."""
    for link in links:
        attached = attached_program(link)
        if attached is not None:
            yield attached.program_id
        with contextlib.suppress(OSError):
            yield from programs_at(int(link["index"]), query, kind)


def _maps_of(info: bpf.ProgramInfo, *, but: int) -> Iterator[tuple[str, int]]:
    for number in info.map_ids:
        if number != but:
            with contextlib.suppress(FileNotFoundError):
                descriptor = bpf.map_by_id(number)
                try:
                    yield bpf.map_info(descriptor).name, number
                finally:
                    os.close(descriptor)


def program_info(number: int) -> bpf.ProgramInfo | None:
    """Describe a program by its id, None when it has gone."""
    try:
        descriptor = bpf.program_by_id(number)
    except FileNotFoundError:
        return None
    try:
        return bpf.program_info(descriptor)
    finally:
        os.close(descriptor)
