"""`python -m bench.netlink`: compares `agent.datapath.net.raw_netlink` with pyroute2's decoder, in one run; needs root.

Both read the same links and addresses, in a network namespace that ends with the process, and the values that the
agent uses. Prints the CPU time for each line, the least of some rounds, and the ratio.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from pyroute2.netlink import NETLINK_GET_STRICT_CHK, SOL_NETLINK
from pyroute2.netlink.rtnl import RTMGRP_LINK
from pyroute2.netlink.rtnl.marshal import MarshalRtnl

from agent.datapath.net.interface_query import RT_TABLE_MAIN, InterfaceQuery
from agent.datapath.net.link_query import LinkQuery
from agent.datapath.net.namespaces import open_netlink_socket
from agent.datapath.net.netlink import DUMP_ATTEMPTS, DUMP_PAUSE, Message, Netlink, attribute
from agent.datapath.veth.name_watch import frees_name

COUNT = 2000
ROUNDS = 5
MANY = 50
"""How often a round asks a short question."""
LINK_ATTRIBUTES = tuple(
    f"IFLA_{name}"
    for name in ("ADDRESS", "IFNAME", "MTU", "LINK", "LINKINFO", "IFALIAS", "LINK_NETNSID", "XDP", "MAX_MTU")
)
WATCHED = 2
"""The index of the first link that is not `lo`."""

_Question = Callable[[], Awaitable[Any]]


def main() -> None:
    """Run the comparison in a namespace of its own."""
    if sys.argv[1:] == ["--inside"]:
        asyncio.run(_compare())
        return
    command = ["unshare", "--net", sys.executable, "-m", "bench.netlink", "--inside"]
    sys.exit(subprocess.run(command, check=False).returncode)


async def _compare() -> None:
    _fill()
    print(f"| {COUNT:,} links, {COUNT:,} addresses | by hand | pyroute2 | ratio |\n| --- | --- | --- | --- |")
    with open_netlink_socket() as own, _strict_socket() as strict:
        query, netlink, known = InterfaceQuery(own), Netlink(strict), LinkQuery()
        event = _link_event()
        await _line("all links", lambda: _links(query), lambda: _links_by_pyroute2(netlink))
        await _line("addresses of one interface", lambda: query.addresses(1), lambda: _addresses(netlink, 1))
        await _line("XDP program of one link", lambda: _xdp(known), lambda: _xdp_by_pyroute2(netlink), MANY)
        await _line("one endpoint's namespace", _endpoint, _endpoint_by_pyroute2, MANY)
        await _line("one link event", lambda: _event(event), lambda: _event_by_pyroute2(event), MANY)
        known.close()


def _fill() -> None:
    pairs = [f"link add v{number} type veth peer name w{number}" for number in range(COUNT // 2)]
    addresses = [f"addr add 172.16.{number // 250}.{1 + number % 250}/32 dev lo" for number in range(COUNT)]
    commands = "\n".join([*pairs, "link set lo up", *addresses])
    subprocess.run(["ip", "-batch", "-"], input=commands, check=True, text=True)


def _strict_socket() -> socket.socket:
    opened = open_netlink_socket()
    opened.setsockopt(SOL_NETLINK, NETLINK_GET_STRICT_CHK, 1)
    return opened


def _link_event() -> bytes:
    with open_netlink_socket() as events:
        events.bind((0, RTMGRP_LINK))
        subprocess.run(["ip", "link", "set", "v0", "mtu", "1400"], check=True)
        return events.recv(1 << 16)


async def _line(name: str, by_hand: _Question, by_pyroute2: _Question, repeated: int = 1) -> None:
    hand, other = [1000 * await _least(question, repeated) for question in (by_hand, by_pyroute2)]
    print(f"| {name} | {hand:.3g} ms | {other:.4g} ms | {other / hand:.0f} |", flush=True)


async def _least(question: _Question, repeated: int) -> float:
    """Return the CPU seconds of one question, the kernel's included."""
    spent = []
    for _ in range(ROUNDS):
        start = time.process_time()
        for _ in range(repeated):
            await question()
        spent.append(time.process_time() - start)
    return min(spent) / repeated


def _used(links: Iterable[Message]) -> list[list[Any]]:
    return [[attribute(link, name) for name in LINK_ATTRIBUTES] for link in links]


async def _links(query: InterfaceQuery) -> list[list[Any]]:
    return _used(await query.links(DUMP_ATTEMPTS, DUMP_PAUSE))


async def _links_by_pyroute2(netlink: Netlink) -> list[list[Any]]:
    return _used(await netlink.links())


async def _addresses(netlink: Netlink, index: int) -> list[Any]:
    # Without a filter of its own pyroute2 passes the index on, and the kernel picks the addresses.
    found = await netlink.dump("addr", "dump", dump_filter=None, index=index)
    own = ((attribute(one, "IFA_LOCAL") or attribute(one, "IFA_ADDRESS"), one["prefixlen"]) for one in found)
    return [ipaddress.ip_interface(one) for one in own]


async def _xdp(known: LinkQuery) -> None:
    known.xdp(WATCHED)


async def _xdp_by_pyroute2(netlink: Netlink) -> None:
    link = await netlink.link(index=WATCHED)
    attribute(attribute(link or {}, "IFLA_XDP"), "IFLA_XDP_PROG_ID")


async def _endpoint() -> None:
    with open_netlink_socket() as opened:
        query = InterfaceQuery(opened)
        await query.link(WATCHED)
        await query.addresses(WATCHED)
        await query.default_routes(WATCHED)


async def _endpoint_by_pyroute2() -> None:
    async with Netlink(_strict_socket()) as netlink:
        await netlink.link(index=WATCHED)
        await _addresses(netlink, WATCHED)
        for family in (socket.AF_INET, socket.AF_INET6):
            options = {"family": family, "oif": WATCHED, "table": RT_TABLE_MAIN}
            await netlink.dump("route", "dump", dump_filter=None, **options)


async def _event(data: bytes) -> None:
    frees_name(data, WATCHED, "other")


async def _event_by_pyroute2(data: bytes) -> None:
    for message in MarshalRtnl().parse(data):
        attribute(message, "IFLA_IFNAME")


if __name__ == "__main__":
    main()
