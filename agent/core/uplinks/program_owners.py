"""The owner of a program that blocks the agent's, and advice for the operator. Pure.

The advice never breaks a running agent: it allows detaching a program only if no process is known to hold it open.
"""

from __future__ import annotations

from typing import NamedTuple


class Holder(NamedTuple):
    """A process that holds a program open."""

    pid: int
    name: str


class Owner(NamedTuple):
    """A program's owner: an instance of the agent or another one (`instance` is empty), and the process holding it.

    `program` is the program's name, empty if it is gone or has none. `link` is the id of the bpf_link that attaches it,
    0 if none does.
    """

    instance: str = ""
    holder: Holder | None = None
    program: str = ""
    link: int = 0

    def name_program(self, program_id: int) -> str:
        """Return the program's name and the kernel's id of it, for messages."""
        return f"{self.program or '(no name)'} (id {program_id})"


FILTER_PRIORITY, FILTER_HANDLE = 1, 0xD201
"""Where the agent's tc filter stands: before those of other priorities. Others are unlikely to choose the handle."""


class Place(NamedTuple):
    """Where a program is attached: an interface, how, and the endpoint if the interface is one of ours.

    `mode` is a mode of XDP, `tcx`, or `clsact` for a filter, whose `handle` is that of the agent's if it stands in the
    agent's place. `in_front`: frames pass it before the agent's program.
    """

    interface: str
    mode: str = "native"
    endpoint: str = ""
    in_front: bool = False
    handle: int = FILTER_HANDLE


UNKNOWN_OWNER = Owner()
TCX, CLSACT = "tcx", "clsact"
_KINDS = {TCX: "tcx program", CLSACT: "tc filter with program"}
"""What a program is called, by the hook if that is not XDP."""
_OF_MODE = {"native": "xdpdrv", "generic": "xdpgeneric", "offload": "xdpoffload"}
"""What `ip link set` calls the modes. Plain `xdp off` leaves a generic program of a driver with native XDP attached."""


def possessive(owner: Owner) -> str:
    """Return the owner's name, in the genitive."""
    return f"the droplet instance {owner.instance}'s" if owner.instance else "another owner's"


def description(owner: Owner, number: int, place: Place) -> str:
    """Return whose program, by name and the kernel's id, is attached where."""
    program = owner.name_program(number)
    whose = f" of endpoint {place.endpoint}" if place.endpoint else ""
    kind = _KINDS.get(place.mode, "XDP program")
    return f"{possessive(owner)} {kind} {program} is attached to {place.interface}{whose}"


def description_in_front(owner: Owner, number: int, place: Place) -> str:
    """Return whose program at tc runs before the agent's, and what that means."""
    return f"{description(owner, number, place)} in front of the agent's: what it keeps, the agent's never sees"


def advice(owner: Owner, place: Place) -> str:
    """Return the remedy for a program on an interface that this agent needs."""
    holder = owner.holder
    if owner.instance and holder is not None:
        return (
            f"the agent of instance {owner.instance} is running (process {holder.pid}, {holder.name}): leave the "
            "program alone, and give each agent an interface of its own"
        )
    if owner.instance:
        return (
            "no process is seen to hold it: if that instance is gone for good, remove what it left by `droplet-agent "
            "--uninstall` with its settings, which refuses while its agent runs; otherwise use another interface"
        )
    if holder is not None and place.in_front:
        return f"process {holder.pid} ({holder.name}) has it open: have that process attach it {_behind(place)}"
    if holder is not None:
        return f"process {holder.pid} ({holder.name}) has it open: {_have_it_detached(place)}"
    if place.in_front:
        return f"have it attached {_behind(place)}, or detach it ({_detaching(owner, place)}) if nothing needs it"
    if place.endpoint:
        return f"detach it ({_detaching(owner, place)}): {_meanwhile(place)}"
    return f"detach it ({_detaching(owner, place)}) if nothing needs it, or use another interface"


def _have_it_detached(place: Place) -> str:
    if place.endpoint:
        return f"have that process detach it: {_meanwhile(place)}"
    return "leave the program alone and use another interface, or have that process give the interface up"


def _behind(place: Place) -> str:
    """Say where a program at tc is in nobody's way."""
    return f"with another priority than {FILTER_PRIORITY}" if place.mode == CLSACT else "behind the agent's"


def _meanwhile(place: Place) -> str:
    return f"until then frames that endpoint {place.endpoint} sends can bypass the agent's program"


def _detaching(owner: Owner, place: Place) -> str:
    if owner.link:
        return f"bpftool link detach id {owner.link}"
    if place.mode == CLSACT:
        where = f"prio {FILTER_PRIORITY} handle {place.handle:#x}"
        return f"tc filter del dev {place.interface} ingress {where} protocol all bpf"
    if place.mode == TCX:
        return f"bpftool net detach tcx_ingress dev {place.interface}"
    return f"ip link set dev {place.interface} {_OF_MODE.get(place.mode, 'xdp')} off"
