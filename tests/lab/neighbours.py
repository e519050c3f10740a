"""Endpoints' kernels that do not doubt what they know of their neighbours."""

from __future__ import annotations

from controller_sim.lab.namespaces import run_in
from lab.fixtures import SystemLab

HOUR = 3_600_000


def keep_neighbours(lab: SystemLab) -> None:
    """Have no endpoint's kernel ask anew, within an hour, for a neighbour that has answered it.

    By itself it doubts an answer after 15 to 45 seconds, and asks five seconds after the next packet: the bouncer hears
    the question and answers it, at a moment of the kernel's, where a test counts what bouncers hear and hosts deliver.
    """
    settings = [f"net.{ip}.neigh.eth0.base_reachable_time_ms={HOUR}" for ip in ("ipv4", "ipv6")]
    for endpoint in lab.endpoints:
        done = run_in(lab.inside(endpoint), ["sysctl", "-qw", *settings])
        assert done.returncode == 0, done.stderr
