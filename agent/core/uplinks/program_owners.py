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

    `program` is the program's name, empty if it is gone or has none.
    """

    instance: str = ""
    holder: Holder | None = None
    program: str = ""

    def name_program(self, program_id: int) -> str:
        """Return the program's name and the kernel's id of it, for messages."""
        return f"{self.program or '(no name)'} (id {program_id})"


STRANGER = Owner()


def possessive(owner: Owner) -> str:
    """Return the owner's name, in the genitive."""
    return f"the droplet instance {owner.instance}'s" if owner.instance else "another owner's"


def advice(owner: Owner, interface: str) -> str:
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
        return (
            f"process {holder.pid} ({holder.name}) has it open: leave the program alone and use another interface, or "
            "have that process give the interface up"
        )
    return f"detach it (ip link set dev {interface} xdp off) if nothing needs it, or use another interface"
