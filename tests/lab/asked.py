"""Datagrams that ask functions at stage points for a verdict: the first byte says which, the port the point."""

from __future__ import annotations

from agent.core.model.hooks import POINTS
from lab.fixtures import SystemLab
from lab.function_topology import OTHER
from lab.functions import SENDING_PORT, Counted, Datagrams, counted

BASE = 7200
"""A function obeys datagrams to this port and the number of its point."""
REASON = 5
"""For which it drops them."""


class Asked:
    """Datagrams that pass one point on a host, in one family, and the sockets where they may end."""

    def __init__(self, lab: SystemLab, host: str, id_: str, point: str, family: int, sockets: Datagrams) -> None:
        self.lab, self.host, self.id = lab, host, id_
        self.port = BASE + POINTS.index(point) + 1
        sender, receiver = self._ends(point)
        (here, own), (there, self.address) = (self._place(one, family) for one in (sender, receiver))
        self.sender = sockets.socket(here, own, SENDING_PORT)
        self.receiver = sockets.socket(there, self.address, self.port)
        target = f"other-{host}"
        self.target = sockets.socket(lab.inside(target), lab.address(target, family), self.port)

    def _ends(self, point: str) -> tuple[str, str]:
        host, other = self.host, OTHER[self.host]
        if point == "from_endpoint":
            return f"web-{host}", f"web-{other}"
        if point == "forwarded":
            return f"by-{host}-{other}", f"by-{host}-m"
        return ("m", host) if point == "passed" else (f"web-{other}", f"web-{host}")

    def _place(self, name: str, family: int) -> tuple[str, str]:
        """Return the namespace and the address of an endpoint or a host."""
        if name not in self.lab.endpoints:
            return self.lab.names.droplet(name), self.lab.topology.droplets[name].address
        return self.lab.inside(name), self.lab.address(name, family)

    def counted(self) -> Counted:
        return counted(self.lab, self.host, self.id)

    def note_at_passed(self) -> None:
        """Count a packet that was taken from the underlay and did not pass as one of a tunnel, which it is not."""
        self.lab.handmade += self.id == "at-passed"

    def send(self, verdict: int, text: bytes = b" please") -> bytes:
        payload = bytes([verdict]) + text
        self.sender.sendto(payload, (self.address, self.port))
        return payload
