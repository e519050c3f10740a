"""Reads from the kernel which XDP features an interface's driver supports, without attaching anything.

The netdev family of generic netlink (Linux 6.3) has it: Documentation/netlink/specs/netdev.yaml.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from typing import Self

from pyroute2.netlink import NETLINK_ADD_MEMBERSHIP, NETLINK_GENERIC, NLM_F_REQUEST, SOL_NETLINK, genlmsg
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.generic import AsyncGenericNetlinkSocket

from agent.datapath.net.netlink import error_from

FAMILY, GROUP = "netdev", "mgmt"
NETDEV_CMD_DEV_GET = 1
TIMEOUT = 10.0
"""Seconds for the kernel's answers to one question."""
LONGEST = 1 << 16
"""Bytes of an event."""


class _Device(genlmsg):  # type: ignore[misc]  # pyroute2 has no types
    """A message of NETDEV_CMD_DEV_GET, with the attributes of enum netdev_a_dev in order."""

    nla_map = (
        ("NETDEV_A_DEV_UNSPEC", "none"),
        ("NETDEV_A_DEV_IFINDEX", "uint32"),
        ("NETDEV_A_DEV_PAD", "none"),
        ("NETDEV_A_DEV_XDP_FEATURES", "uint64"),
    )


class _Netdev(AsyncGenericNetlinkSocket):  # type: ignore[misc]
    """A socket for questions to the netdev family."""

    module_err_level = "debug"
    """An older kernel has no such family: that is no error."""


@asynccontextmanager
async def _netdev() -> AsyncIterator[_Netdev | None]:
    """Open a socket in this thread's network namespace; None where the kernel has no netdev family: before 6.3.

    Every refusal of the kernel is an OSError.
    """
    opened = _Netdev(exception_factory=error_from)
    try:
        async with asyncio.timeout(TIMEOUT):
            try:
                await opened.bind(FAMILY, _Device)
            except (NetlinkError, OSError) as error:
                if _errno(error) != errno.ENOENT:
                    raise
                yield None
            else:
                yield opened
    except NetlinkError as error:
        raise OSError(error.code, os.strerror(error.code)) from error
    finally:
        opened.close()


def _errno(error: NetlinkError | OSError) -> int | None:
    return error.errno if isinstance(error, OSError) else int(error.code)


async def xdp_features(ifindex: int) -> int | None:
    """Return what the driver of an interface in this thread's network namespace takes, as a set of `XdpFeatures`.

    None where the kernel does not tell: older than 6.3. Raises OSError (ENODEV: no such interface).
    """
    question = _Device()
    question["cmd"], question["version"] = NETDEV_CMD_DEV_GET, 1
    question["attrs"].append(("NETDEV_A_DEV_IFINDEX", ifindex))
    async with _netdev() as netdev:
        if netdev is None:
            return None
        answers = await netdev.nlm_request(question, msg_type=netdev.prid, msg_flags=NLM_F_REQUEST)
        (answer,) = [one async for one in answers]
    return int(answer.get_attr("NETDEV_A_DEV_XDP_FEATURES") or 0)


class FeatureEvents:
    """Watches interfaces of this thread's network namespace for changes of their drivers' XDP features."""

    def __init__(self, watched: Callable[[], Collection[int]], changed: Callable[[], None]) -> None:
        self._watched = watched
        self._changed = changed
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_GENERIC)
        self._socket.setblocking(False)

    @classmethod
    async def start(cls, watched: Callable[[], Collection[int]], changed: Callable[[], None]) -> Self:
        """Call `changed` for each change of an interface that `watched` then returns, by ifindex, in the running loop.

        Other interfaces do not count: an endpoint changes those of its own as often as it likes. A kernel that tells no
        features tells no changes either.
        """
        async with _netdev() as netdev:
            group = None if netdev is None else netdev.mcast_groups.get(GROUP)
        with contextlib.ExitStack() as undo:
            events = cls(watched, changed)
            undo.callback(events._socket.close)
            events._socket.bind((0, 0))  # a socket without an address of its own is skipped as the kernel's own
            if group is not None:
                events._socket.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, group)
            asyncio.get_running_loop().add_reader(events._socket, events._on_event)
            undo.pop_all()
        return events

    def close(self) -> None:
        """Close the socket."""
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()

    def _on_event(self) -> None:
        """Read one message. What changed does not matter: all watched interfaces are queried again."""
        try:
            message = _Device(self._socket.recv(LONGEST))
            message.decode()
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
            self._changed()  # the socket overflowed, so something did change
            return
        if message.get_attr("NETDEV_A_DEV_IFINDEX") in self._watched():
            self._changed()
