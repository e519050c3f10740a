"""The sockets of a host's probes: one for each own droplet, and those that receive ICMP errors."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from agent.core.model.resolved_state import ResolvedState
from agent.core.probe.icmp_errors import TunnelError
from agent.core.probe.paths import Path, Probe
from agent.core.probe.send_errors import SendErrors, SendResult, send_result
from agent.probe.icmp_listener import IcmpErrors
from agent.probe.probe_socket import ProbeSocket
from protocol.addresses import format_address, parse_address
from protocol.status import Fault

OPEN_SECONDS = 2.0
"""Seconds between two attempts to open sockets that could not be opened."""


class ProbeSockets:
    """Sends probes by the own droplets' interfaces, and tracks why some cannot be sent."""

    def __init__(
        self,
        ports: tuple[int, ...],
        answered: Callable[[Path, bytes], None],
        heard: Callable[[TunnelError], None],
    ) -> None:
        """`ports` are the tunnels' UDP ports, Geneve's first; `answered` is called with a reply's path and nonce."""
        self.ports = ports
        self.interfaces: dict[bytes, tuple[str, int]] = {}
        """Name and ifindex by own address: if an interface is replaced, a socket stays bound to the old ifindex."""
        self._answered = answered
        self._heard = heard
        self._sockets: dict[bytes, ProbeSocket] = {}
        self._unopened: dict[bytes, SendResult] = {}
        self._send_errors = SendErrors()
        self._icmp: IcmpErrors | None = None
        self._open_at = 0.0

    def listen(self, paths: Collection[Path]) -> None:
        """Start to receive ICMP errors about `paths` (a live view)."""
        self._icmp = IcmpErrors(paths, self.ports, self._heard)

    def close(self) -> None:
        """Close all sockets."""
        if self._icmp is not None:
            self._icmp.close()
        for opened in self._sockets.values():
            opened.close()
        self._sockets.clear()

    def follow(self, resolved: ResolvedState) -> None:
        """Set where this host's droplets are: sockets on other interfaces are closed and replaced."""
        interfaces: dict[bytes, tuple[str, int]] = {}
        for droplet in resolved.own_droplets():
            uplink = resolved.uplink_of(droplet)
            if uplink is not None:
                interfaces[parse_address(droplet.address)] = uplink.name, uplink.ifindex
        for source in [one for one in self._sockets if interfaces.get(one) != self.interfaces.get(one)]:
            self._sockets.pop(source).close()
        self.interfaces, self._open_at = interfaces, 0.0

    def turn(self, now: float) -> None:
        """Open missing sockets, and read all answers."""
        if now >= self._open_at:
            self._open_at = now + OPEN_SECONDS
            self._open_missing()
        for opened in self._sockets.values():
            opened.drain()

    def send(self, probe: Probe) -> SendResult:
        """Send a probe; return the result."""
        opened = self._sockets.get(probe.path.source)
        if opened is not None:
            sending = opened.send(probe.path.peer, probe.size, probe.nonce)
        else:
            sending = self._unopened.get(probe.path.source, SendResult.NO_INTERFACE)
        self._send_errors.note(probe.path, sending)
        return sending

    def faults(self, paths: Collection[Path]) -> list[Fault]:
        """Return the faults that prevent probes on `paths` from being sent, or ICMP errors from being received."""
        self._send_errors.retain(paths)
        silent = self._icmp.faults if self._icmp is not None else []
        return [*self._send_errors.faults(self._place, self.ports[0]), *silent]

    def ifindexes(self) -> Mapping[bytes, int]:
        """Return the interface of each own address."""
        return {source: ifindex for source, (_, ifindex) in self.interfaces.items()}

    def _open_missing(self) -> None:
        for source in self.interfaces.keys() - self._sockets.keys():
            interface, _ = self.interfaces[source]
            try:
                self._sockets[source] = ProbeSocket(source, interface, self.ports[0], self._answered)
            except OSError as error:
                self._unopened[source] = send_result(error.errno or 0)
            else:
                self._unopened.pop(source, None)

    def _place(self, source: bytes) -> tuple[str, str]:
        """Return the interface and the address of an own droplet, as text."""
        return self.interfaces[source][0] if source in self.interfaces else "", format_address(source)
