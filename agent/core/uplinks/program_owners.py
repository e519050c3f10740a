"""The owner of an XDP program that blocks the agent's, and advice for the operator. Pure.

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
    0 if netlink did.
    """

    instance: str = ""
    holder: Holder | None = None
    program: str = ""
    link: int = 0

    def name_program(self, program_id: int) -> str:
        """Return the program's name and the kernel's id of it, for messages."""
        return f"{self.program or '(no name)'} (id {program_id})"


class Place(NamedTuple):
    """Where a program is attached: an interface, the XDP mode, and the endpoint if the interface is one of ours."""

    interface: str
    mode: str = "native"
    endpoint: str = ""


UNKNOWN_OWNER = Owner()
_OF_MODE = {"native": "xdpdrv", "generic": "xdpgeneric", "offload": "xdpoffload"}
"""What `ip link set` calls the modes. Plain `xdp off` leaves a generic program of a driver with native XDP attached."""


def possessive(owner: Owner) -> str:
    """Return the owner's name, in the genitive."""
    return f"the droplet instance {owner.instance}'s" if owner.instance else "another owner's"


def description(owner: Owner, number: int, place: Place) -> str:
    """Return whose program, by name and the kernel's id, is attached where."""
    program = owner.name_program(number)
    whose = f" of endpoint {place.endpoint}" if place.endpoint else ""
    return f"{possessive(owner)} XDP program {program} is attached to {place.interface}{whose}"


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
    if holder is not None:
        return f"process {holder.pid} ({holder.name}) has it open: {_have_it_detached(place)}"
    if place.endpoint:
        return f"detach it ({_detaching(owner, place)}): {_meanwhile(place)}"
    return f"detach it ({_detaching(owner, place)}) if nothing needs it, or use another interface"


def _have_it_detached(place: Place) -> str:
    if place.endpoint:
        return f"have that process detach it: {_meanwhile(place)}"
    return "leave the program alone and use another interface, or have that process give the interface up"


def _meanwhile(place: Place) -> str:
    return f"until then what endpoint {place.endpoint} sends does not pass the agent's program"


def _detaching(owner: Owner, place: Place) -> str:
    if owner.link:
        return f"bpftool link detach id {owner.link}"
    return f"ip link set dev {place.interface} {_OF_MODE.get(place.mode, 'xdp')} off"
