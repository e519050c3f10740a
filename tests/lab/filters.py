"""Filters on a lab's wires, by tc(8) on the fabric's end: what a network card or a switch does not let through."""

from __future__ import annotations

from controller_sim.lab.namespaces import run_in
from lab.fixtures import SystemLab

SHOT, UNSPEC = 2, 0xFFFFFFFF


def let_only_its_own_address_in(lab: SystemLab, host: str, old: str, interface: str = "eth0") -> None:
    """Drop frames to an old Ethernet address of a host on its wire, as the filter of a network card does.

    A veth takes every frame, and XDP sees those for others too.
    """
    mac = bytes.fromhex(old.replace(":", ""))
    code = (
        (0x20, 0, 0, 0),  # the first four bytes of the frame
        (0x15, 0, 3, int.from_bytes(mac[:4])),
        (0x28, 0, 0, 4),  # the other two of its destination
        (0x15, 0, 1, int.from_bytes(mac[4:])),
        (0x06, 0, 0, SHOT),
        (0x06, 0, 0, UNSPEC),
    )
    text = ",".join([str(len(code)), *(" ".join(map(str, one)) for one in code)])
    port = lab.ports()[host, interface]
    _tc(lab, "qdisc", "replace", "dev", port, "clsact")
    _tc(lab, "filter", "add", "dev", port, "egress", "bpf", "bytecode", text, "direct-action")


def let_all_in(lab: SystemLab, host: str, interface: str = "eth0") -> None:
    """Take the filters off a host's wire."""
    _tc(lab, "qdisc", "del", "dev", lab.ports()[host, interface], "clsact")


def _tc(lab: SystemLab, *arguments: str) -> None:
    done = run_in(lab.names.fabric, ["tc", *arguments])
    assert done.returncode == 0, done.stderr
