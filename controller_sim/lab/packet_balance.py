"""Asks every host whether as many packets came in as ended somewhere: each is counted once coming and once ending."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from nats.aio.client import Client

from controller_sim.control.bus import ask, connected
from controller_sim.lab.lab import Lab
from controller_sim.lab.namespaces import run_coroutine_in
from protocol import codec
from protocol.status import Counters

RECEIVED = "received_"
"""What the outcomes of packets that came in begin with; all others are ends."""
PAUSE = 0.05


@dataclass(frozen=True, slots=True)
class Balance:
    """How many packets came in on a host, from the underlay and from endpoints, and how many ended in some way."""

    came: int
    ended: int

    @property
    def even(self) -> bool:
        """Whether every packet that came in ended in exactly one counter."""
        return self.came == self.ended


def balance_of(counters: Counters) -> Balance:
    """Return one host's balance."""
    came = sum(traffic.packets for name, traffic in counters.outcomes.items() if name.startswith(RECEIVED))
    return Balance(came, sum(traffic.packets for traffic in counters.outcomes.values()) - came)


def settled_balances(lab: Lab, patience: float = 5.0) -> dict[str, Balance]:
    """Return every host's balance once it was even, or its last one after `patience` seconds.

    Counters are read one by one while the bus goes on, so that one look may see a packet come and not end. BusError
    when a host does not answer.
    """
    access, hosts = lab.access(), lab.topology().hosts
    deadline = time.monotonic() + patience

    async def one(client: Client, host: str) -> Balance:
        while True:
            found = balance_of(codec.decode(await ask(client, host, "counters", patience=patience), Counters))
            if found.even or time.monotonic() > deadline:
                return found
            await asyncio.sleep(PAUSE)

    async def work() -> dict[str, Balance]:
        async with connected(access) as client:
            return dict(zip(hosts, await asyncio.gather(*(one(client, host) for host in hosts)), strict=True))

    return run_coroutine_in(lab.names.fabric, work)
