"""Interprets errors of this host's kernel when it does not send a probe, and derives the standing faults. Pure.

An errno of sendto(2) says something about this host and nothing about the peer. If no packet can leave (no route, no
address, no interface), the path is broken, and the peer counts as down on it. If only the agent's own packets are
refused (a packet filter, no buffers), tunnel packets may still pass: the state of the peer stays as it was.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Collection, Iterator
from enum import Enum

from agent.core.probe.paths import Path
from protocol.status import Fault

_DOCUMENT = 'docs/operations.md, "Packets that the agent itself needs"'


class SendResult(Enum):
    """The result of sending a probe; the values say why it was not sent."""

    SENT = "sent"
    TOO_LONG = "longer than the interface takes"
    BUSY = "the kernel has no buffers or descriptors for it"
    FILTERED = "this host's packet filter drops it"
    NO_ADDRESS = "the kernel does not send from the droplet's address, or its route is a blackhole"
    NO_INTERFACE = "the interface is down or gone"
    PROHIBITED = "a route or rule of this host prohibits it"
    IMPOSSIBLE = "this host has no route to it from the droplet's address"

    @property
    def path_is_broken(self) -> bool:
        """Whether tunnel packets cannot use the path either."""
        return self in (SendResult.NO_ADDRESS, SendResult.NO_INTERFACE, SendResult.PROHIBITED, SendResult.IMPOSSIBLE)


_BY_ERRNO = {
    errno.EMSGSIZE: SendResult.TOO_LONG,
    **dict.fromkeys((errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM, errno.EINTR), SendResult.BUSY),
    **dict.fromkeys((errno.EMFILE, errno.ENFILE), SendResult.BUSY),
    # net/netfilter/core.c: nf_hook_slow; BPF programs of a control group give the same.
    errno.EPERM: SendResult.FILTERED,
    # net/ipv4/route.c: a source address that no interface has, and a route of type blackhole.
    errno.EINVAL: SendResult.NO_ADDRESS,
    errno.EADDRNOTAVAIL: SendResult.NO_ADDRESS,
    **dict.fromkeys((errno.ENETDOWN, errno.ENODEV, errno.ENXIO), SendResult.NO_INTERFACE),
    errno.EACCES: SendResult.PROHIBITED,
}
_REMEDIES = {
    SendResult.FILTERED: "let UDP to port {port} out of {interface}: see " + _DOCUMENT,
    SendResult.BUSY: "look at the queue of {interface} (tc -s qdisc), the host's memory and the agent's open files",
    SendResult.NO_ADDRESS: "give {interface} the address {address}, or remove the blackhole route",
    SendResult.NO_INTERFACE: "set {interface} up",
    SendResult.PROHIBITED: "look for prohibit in `ip rule` and `ip route`",
}
BUSY_TIMES = 3
"""Missing buffers for a path's probes are a fault after so many times in a row."""


def send_result(number: int) -> SendResult:
    """Return what an errno of sendto(2), socket(2), setsockopt(2) or bind(2) means; any unknown one is `IMPOSSIBLE`."""
    return _BY_ERRNO.get(number, SendResult.IMPOSSIBLE)


class SendErrors:
    """Whether the last probe on each path was sent, and if not, why."""

    def __init__(self) -> None:
        self._last: dict[Path, SendResult] = {}
        self._busy: dict[Path, int] = {}

    def retain(self, paths: Collection[Path]) -> None:
        """Forget all other paths."""
        for path in self._last.keys() - set(paths):
            del self._last[path]
            self._busy.pop(path, None)

    def note(self, path: Path, result: SendResult) -> None:
        """Record the result of sending a path's probe. A probe that is too long met no other obstacle."""
        if result in (SendResult.SENT, SendResult.TOO_LONG):
            self._last.pop(path, None)
            self._busy.pop(path, None)
            return
        if result is SendResult.BUSY:
            self._busy[path] = self._busy.get(path, 0) + 1
        self._last[path] = result

    def faults(self, name_of: Callable[[bytes], tuple[str, str]], port: int) -> Iterator[Fault]:
        """Yield the standing faults; `name_of` returns the interface and the address, as text, of a path's source.

        A missing route is not a fault: the status reports it as an unresolved next hop.
        """
        standing = {(path.source, result) for path, result in self._last.items() if self._stands(path, result)}
        for source, result in sorted(standing, key=lambda one: (one[0], one[1].name)):
            interface, address = name_of(source)
            remedy = _REMEDIES[result].format(interface=interface, address=address, port=port)
            yield _fault(result, interface, address, port, remedy)

    def _stands(self, path: Path, result: SendResult) -> bool:
        if result is SendResult.BUSY:
            return self._busy[path] >= BUSY_TIMES
        return result is not SendResult.IMPOSSIBLE


def _fault(sending: SendResult, interface: str, address: str, port: int, remedy: str) -> Fault:
    subject = f"{interface} {address}"
    if sending is SendResult.FILTERED:
        detail = (
            f"this host's packet filter (nftables, iptables or BPF) drops probes that leave {interface} to UDP port "
            f"{port} (EPERM): peers that fail are not noticed"
        )
        return Fault("local_firewall", subject, detail, remedy)
    return Fault("probes_not_sent", subject, f"probes to UDP port {port} are not sent: {sending.value}", remedy)
