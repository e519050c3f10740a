"""What the agent says of the kernel's rarer refusals, each provoked on the real kernel.

Not here are ENETUNREACH and EMSGSIZE, which probes meet when they are sent (test_probe_sockets.py). A change meets
neither: for the agent's routes, which go with `onlink`, the kernel looks no gateway up, and no driver here refuses an
MTU so.
"""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from agent.core.model.map_layout import MapName
from agent.core.plan.actions import AttachTransit, DetachTransit, EnsureVeth
from agent.datapath.attach.xdp import XDP_FLAGS_SKB_MODE, AttachMode
from agent.datapath.bpf import syscall as bpf
from agent.datapath.bpf.compiler import MapDefinition
from agent.datapath.bpf.maps import MapSizes, open_maps
from agent.datapath.kernel import Kernel, KernelConfig
from agent.errors import OperatorError
from tests.netns.conftest import Topo, ip, ip_json
from tests.netns.foreign import BPF_XDP, create_link
from tests.netns.tenants import endpoint_veth

MIB = 1 << 20


@pytest.fixture
async def native(config: KernelConfig) -> AsyncIterator[Kernel]:
    """An agent whose settings ask for native mode."""
    opened = await Kernel.open(replace(config, attach_mode=AttachMode.NATIVE))
    yield opened
    await opened.close()


def attached(interface: str) -> int:
    """Return the kernel's id of an interface's XDP program."""
    return int(ip_json("link", "show", interface)[0]["xdp"]["prog"]["id"])


@contextmanager
def linked(program_id: int, interface: str) -> Iterator[None]:
    """Have a program attached in generic mode by a bpf_link, as libxdp or bpftool attach."""
    program = bpf.program_by_id(program_id)
    try:
        link = create_link(program, interface, BPF_XDP, XDP_FLAGS_SKB_MODE)
        yield
        os.close(link)
    finally:
        os.close(program)


async def test_a_program_that_a_link_holds_is_busy_and_the_text_says_how_to_detach_it(
    native: Kernel, topo: Topo
) -> None:
    index = topo.ifindex("eth0")
    assert await native.executor.run([AttachTransit(index)]) == []
    number = attached("eth0")
    assert await native.executor.run([DetachTransit(index)]) == []
    with linked(number, "eth0"):
        (refused,) = await native.executor.run([AttachTransit(index)])
        assert refused.errno == errno.EBUSY
        assert "(EBUSY) while attaching transit XDP on the interface with ifindex" in refused.message
        assert "in another mode or by a link: see whose it is (`bpftool net`)" in refused.message
        (kept,) = await native.executor.run([DetachTransit(index)])
        assert kept.errno == errno.EBUSY
        assert kept.message.endswith("another owner's program is attached: it is left alone")
        assert attached("eth0") == number
    assert await native.executor.run([AttachTransit(index)]) == []


async def test_an_interface_that_has_no_xdp_in_its_driver_says_which_mode_to_choose(native: Kernel, topo: Topo) -> None:
    ip("link", "add", "name", "br0", "type", "bridge")
    (refused,) = await native.executor.run([AttachTransit(topo.ifindex("br0"))])
    assert refused.errno == errno.EOPNOTSUPP
    assert "br0: driver bridge refuses native XDP: " in refused.message
    assert refused.message.endswith("(EOPNOTSUPP). Set attach_mode to auto")


async def test_an_interface_that_is_gone_says_to_bring_it_back(kernel: Kernel, topo: Topo) -> None:
    index = topo.ifindex("eth0")
    ip("link", "del", "eth0")
    (refused,) = await kernel.executor.run([AttachTransit(index)])
    assert refused.errno == errno.ENODEV
    assert "(ENODEV) while attaching transit XDP on the interface with ifindex" in refused.message
    assert refused.message.endswith("the interface is gone: bring it back; the agent tries again by itself")
    assert await kernel.executor.run([DetachTransit(index)]) == [], "what is gone is detached"


async def test_a_file_that_is_no_namespace_is_refused(kernel: Kernel, tmp_path) -> None:
    """A file of another file system than nsfs: setns(2) answers EINVAL."""
    (tmp_path / "plain").touch()
    veth = endpoint_veth(kernel.config.instance, str(tmp_path / "plain"), "e0", 10)
    (refused,) = await kernel.executor.run([EnsureVeth(veth)])
    assert refused.errno == errno.EINVAL
    assert "this is no network namespace" in refused.message


async def test_a_map_that_no_host_has_memory_for_says_to_lower_its_size(kernel: Kernel, config: KernelConfig) -> None:
    """16 TiB: the kernel refuses more than the host has at once, and takes nothing (__vmalloc_node_range)."""
    huge = MapDefinition(MapName.ENDPOINTS.value, bpf.MapType.ARRAY, 4, MIB, 1, 0)
    with pytest.raises(OperatorError) as refused:
        open_maps(config.pins.maps.with_name("huge"), [huge], MapSizes(endpoints=16 * MIB))
    assert refused.value.errno == errno.ENOMEM
    assert str(refused.value.strerror).endswith(
        "(ENOMEM) while creating map endpoints of 16777216 entries: the host has no memory for the map: lower its size "
        "in the settings ([sizes])"
    )
    assert kernel.maps[MapName.ENDPOINTS].info.max_entries == 1000, "those that are there stay"
