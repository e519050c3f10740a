"""Reads endpoints' sides of their pairs: enters each namespace once, many of them in one thread, and changes nothing.

A host has thousands of endpoints, and all are read at every resync: this asks the kernel for what is looked at and
nothing else. `endpoint_side` repairs one, which is rare.
"""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import ExitStack
from typing import NamedTuple

from agent.core.plan.observed import ObservedPeer
from agent.datapath.net.ethtool import read_offloads
from agent.datapath.net.interface_query import InterfaceQuery
from agent.datapath.net.namespaces import (
    enter_in_this_thread,
    open_control_socket,
    open_netlink_socket,
    opened_namespace,
    run_in_own_thread,
)
from agent.datapath.net.netlink import Message, attribute
from agent.datapath.net.threads import in_thread
from agent.datapath.veth.endpoint_side import as_observed, tenant_addresses
from agent.datapath.veth.pairs import is_veth

AT_ONCE = 64
"""Namespaces that are open at one time, with three descriptors each."""


class _Opened(NamedTuple):
    descriptor: int
    query: socket.socket
    control: socket.socket


class PeerReader:
    """The host's questions, and the namespaces that it is asked for. `host` stays the caller's."""

    def __init__(self, host: InterfaceQuery) -> None:
        self._host = host

    async def read(
        self, pairs: Mapping[str, Sequence[Message]]
    ) -> AsyncIterator[tuple[str, Message, ObservedPeer | Exception | None]]:
        """Yield, for each host side in `pairs` (by the namespace where its other side belongs), what is there.

        None: no such interface, an exception: the namespace or the interface could not be read.
        """
        names = list(pairs)
        for start in range(0, len(names), AT_ONCE):
            with ExitStack() as undo:
                batch = names[start : start + AT_ONCE]
                opened = await in_thread(_open_all, batch)
                for one in opened:
                    if isinstance(one, _Opened):
                        undo.callback(_close, one)
                for name, one in zip(batch, opened, strict=True):
                    for host, found in await self._read_all(one, pairs[name]):
                        yield name, host, found

    async def _read_all(
        self, opened: _Opened | Exception, hosts: Sequence[Message]
    ) -> list[tuple[Message, ObservedPeer | Exception | None]]:
        if isinstance(opened, Exception):
            return [(host, opened) for host in hosts]
        inside = InterfaceQuery(opened.query)
        found: list[tuple[Message, ObservedPeer | Exception | None]] = []
        try:
            expected = await self._host.namespace_id(opened.descriptor)
        except OSError as error:
            return [(host, error) for host in hosts]
        for host in hosts:
            try:
                found.append((host, await _read_one(host, expected, inside, opened.control)))
            except Exception as error:  # what a tenant's namespace shows is the tenant's making
                found.append((host, error))
                return found + [(other, error) for other in hosts[len(found) :]]
        return found


async def _read_one(
    host: Message, expected: int | None, inside: InterfaceQuery, control: socket.socket
) -> ObservedPeer | None:
    index = attribute(host, "IFLA_LINK")
    if expected is None or attribute(host, "IFLA_LINK_NETNSID") != expected or not index:
        return None
    peer = await inside.link(index)
    if peer is None or not is_veth(peer) or attribute(peer, "IFLA_LINK") != host["index"]:
        return None
    gateways = tuple(sorted({route.gateway for route in await inside.default_routes(index)}))
    offloads = read_offloads(control, str(attribute(peer, "IFLA_IFNAME")))
    return as_observed(peer, tenant_addresses(await inside.addresses(index)), gateways, offloads)


def _open_all(names: Sequence[str]) -> list[_Opened | Exception]:
    """Open sockets in some namespaces, or say why not, one by one in a thread that ends with it."""
    return run_in_own_thread(lambda: [_open(name) for name in names])


def _open(name: str) -> _Opened | Exception:
    with ExitStack() as undo:
        try:
            with opened_namespace(name) as entered:
                enter_in_this_thread(entered)
                descriptor = os.dup(entered)
            undo.callback(os.close, descriptor)
            query = undo.enter_context(open_netlink_socket())
            control = undo.enter_context(open_control_socket())
        except Exception as error:
            return error
        undo.pop_all()
        return _Opened(descriptor, query, control)


def _close(one: _Opened) -> None:
    one.query.close()
    one.control.close()
    os.close(one.descriptor)
