"""Of two agents of one instance in a network namespace, the second is refused; other users cannot prevent a start."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest

from agent.datapath.instance_lock import hold_instance
from agent.errors import OperatorError
from tests.netns.conftest import Topo, enter

HOLDER = """
import os, socket, sys
os.setuid(65534)
held = socket.socket(socket.AF_UNIX)
held.bind("\\0droplet-agent/" + sys.argv[1])
held.listen()
print("held", flush=True)
sys.stdin.read()
"""


def test_a_second_agent_of_the_instance_is_refused_until_the_first_ends(topo: Topo) -> None:
    with hold_instance("blue"):
        words = rf"another agent of instance blue runs in this network namespace \(process {os.getpid()}\)"
        with pytest.raises(OperatorError, match=words):
            hold_instance("blue")
        with hold_instance("green"):
            pass
        enter(topo.underlay)
        with hold_instance("blue"):
            pass
        enter(topo.droplet)
    with hold_instance("blue"):
        pass


def test_another_user_cannot_keep_an_agent_from_starting(topo: Topo) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, "blue"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(OSError, match="in use"), socket.socket(socket.AF_UNIX) as other:
            other.bind("\0droplet-agent/blue")
        with hold_instance("blue"):
            pass
        assert holder.stdin is not None
        holder.stdin.close()
