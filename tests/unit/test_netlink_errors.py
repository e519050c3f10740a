"""What the kernel answers to a netlink request is an OSError with its errno, whatever pyroute2 makes of it."""

from __future__ import annotations

import errno
import os
import struct

import pytest
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.rtnl.marshal import MarshalRtnl

from agent.datapath.net.netlink import error_from

NLMSG_ERROR = 2


def refusal(number: int) -> Exception:
    """Return what pyroute2 reads from a struct nlmsgerr (netlink(7)) with an errno."""
    about = struct.pack("=IHHII12x", 28, 28, 0, 1, 0)  # of RTM_NEWNEIGH, with a struct ndmsg
    data = struct.pack("=IHHIIi", 20 + len(about), NLMSG_ERROR, 0, 1, 0, -number) + about
    (message,) = MarshalRtnl().parse(data)
    error = message["header"]["error"]
    assert isinstance(error, NetlinkError | OSError)
    return error


@pytest.mark.parametrize("number", [errno.ENOBUFS, errno.EINVAL, errno.ENODEV, errno.ENOENT])
def test_a_refusal_has_the_kernels_errno(number: int) -> None:
    found = error_from(refusal(number), {})  # type: ignore[arg-type]
    assert (found.errno, found.strerror) == (number, os.strerror(number))


def test_a_refusal_contains_the_kernels_extended_acknowledgement() -> None:
    message = {"attrs": [("NLMSGERR_ATTR_MSG", "Invalid state")]}
    assert error_from(NetlinkError(errno.EINVAL), message).strerror == "Invalid state"
