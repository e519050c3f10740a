"""Probes between two hosts with the real programs: transit XDP answers, the agent's socket hears it."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path as File

import pytest

from agent.core.model.map_layout import DROPLET, LOCAL_DROPLET, U32, MapName, mapped
from agent.core.model.offloads import NO_GSO
from agent.core.plan.actions import AttachTransit
from agent.core.probe.paths import Rules
from agent.core.probe.probe_packet import smallest
from agent.core.probe.send_errors import SendResult
from agent.core.uplinks.hook_choice import HookSettings
from agent.datapath.bpf.maps import MapSizes
from agent.datapath.kernel import Kernel, KernelConfig
from agent.datapath.net.ethtool import set_endpoint_offloads
from agent.datapath.net.namespaces import in_namespace, open_control_socket, opened_namespace
from agent.probe.probe_socket import ProbeSocket

from .conftest import _libc, enter, ip, ip_json, run
from .prober_setup import NONCE, Heard, ProbeSetup, path_of
from .routed import PORT, V4, V6, Addresses, Routed, routed

both = pytest.mark.parametrize("family", [V4, V6], ids=["ipv4", "ipv6"])
QUICK = Rules(interval=0.1, deadline=0.3, check_every=1.0, narrow_every=0.5)


@pytest.fixture
def net() -> Iterator[Routed]:
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        with routed() as made:
            for side in ("near", "far"):  # what a program sends back out of a veth arrives only where GRO is on
                with opened_namespace(made.router) as descriptor:
                    control = in_namespace(descriptor, open_control_socket)
                with control:
                    set_endpoint_offloads(control, side, NO_GSO)
            yield made
            _libc.setns(home, 0x40000000)
    finally:
        _libc.setns(home, 0x40000000)
        os.close(home)


class Host:
    """A host's programs, with its droplets of both families and those that it knows."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel

    async def install(self, own: tuple[str, str], others: tuple[str, str]) -> None:
        (link,) = ip_json("link", "show", "eth0")
        index, mac = int(link["ifindex"]), bytes.fromhex(link["address"].replace(":", ""))
        addresses = [family.packed(text) for family, text in zip((V4, V6), own, strict=True)]
        maps = self.kernel.maps
        own_droplets = [
            (U32.pack(place), LOCAL_DROPLET.pack(mapped(address), index, index, index, mac, 0, 0))
            for place, address in enumerate(addresses)
        ]
        assert maps[MapName.LOCAL_DROPLETS].put(own_droplets) == []
        known = [family.packed(text) for family, text in zip((V4, V6), others, strict=True)]
        assert maps[MapName.DROPLETS].put([(mapped(address), DROPLET.pack(0, 0)) for address in known]) == []
        assert await self.kernel.executor.run([AttachTransit(index)]) == []

    def forget(self, address: bytes) -> None:
        assert self.kernel.maps[MapName.DROPLETS].delete([mapped(address)]) == []

    def outcome(self, name: str) -> int:
        return self.kernel.queries.read_outcomes()[name].packets


async def _open(net: Routed, namespace: str, name: str, cache: File, folder: File) -> Host:
    enter(namespace)
    config = KernelConfig(
        name,
        f"{net.prefix}{name}",
        ("eth0",),
        cache,
        folder / name,
        hooks=HookSettings("xdp", "xdp"),
        sizes=MapSizes(endpoints=1000),
    )
    return Host(await Kernel.open(config))


@pytest.fixture
async def far(net: Routed, lab_cache: File, tmp_path: File) -> AsyncIterator[Host]:
    """The far host with its programs; the near one has its own too, and the test is there."""
    far = await _open(net, net.far, "far", lab_cache, tmp_path)
    await far.install((V4.far, V6.far), (V4.near, V6.near))
    near = await _open(net, net.near, "near", lab_cache, tmp_path)
    await near.install((V4.near, V6.near), (V4.far, V6.far))
    yield far
    for host, name in ((far, "far"), (near, "near")):
        await host.kernel.close()
        run("umount", str(tmp_path / name), check=False)


@both
async def test_transit_xdp_sends_a_probe_of_every_size_back(net: Routed, far: Host, family: Addresses) -> None:
    path, heard = path_of(family), Heard()
    prober = ProbeSocket(path.source, "eth0", PORT, heard.take)
    before = far.outcome("probe_reflected")
    try:
        for number, size in enumerate((smallest(path.peer), 1280, 1499, 1500), 1):
            assert prober.send(path.peer, size, NONCE) is SendResult.SENT
            await heard.come(number)
        assert heard == [(path, NONCE)] * 4
        assert far.outcome("probe_reflected") == before + 4
    finally:
        prober.close()


@both
async def test_a_host_that_does_not_know_this_one_does_not_answer(net: Routed, far: Host, family: Addresses) -> None:
    far.forget(family.packed(family.near))
    setup = ProbeSetup(net, family, QUICK)
    try:
        await setup.until(lambda: setup.prober.counts.lost >= 3)
        assert setup.state() == ("unknown", 1500)
        assert far.outcome("unknown_droplet") >= 3
    finally:
        await setup.close()


@both
async def test_a_host_that_goes_is_down_and_comes_back(net: Routed, far: Host, family: Addresses) -> None:
    setup = ProbeSetup(net, family, QUICK)
    try:
        await setup.until(lambda: setup.state() == ("up", 1500))
        ip("link", "set", "eth0", "down", namespace=net.far)
        await setup.until(lambda: setup.found.down)
        ip("link", "set", "eth0", "up", namespace=net.far)
        await setup.until(lambda: not setup.found.down)
    finally:
        await setup.close()


@both
async def test_the_narrowest_link_of_the_path_is_found(net: Routed, far: Host, family: Addresses) -> None:
    net.narrow(1400)
    setup = ProbeSetup(net, family, QUICK)
    try:
        await setup.until(lambda: setup.found.mtu == 1400)
        net.narrow(1500)
        await setup.until(lambda: setup.found.mtu is None)
    finally:
        await setup.close()
