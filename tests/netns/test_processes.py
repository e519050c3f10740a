"""Namespaces by process id: what a document meant is attached, and nothing that came in its place."""

from __future__ import annotations

import errno
from dataclasses import replace
from pathlib import Path

import pytest
from lab.processes import end, linked, living_in, namespace_of, reuse
from lab.waiting import until

from agent.core.model.desired_entries import Veth
from agent.core.model.process_bindings import Binding, Process
from agent.core.plan.actions import DeleteVeth, EnsureVeth
from agent.datapath.kernel import Kernel
from tests.netns.conftest import Topo, ip_json
from tests.netns.tenants import endpoint_veth

PROCESS = ["{pid}", "/proc/{pid}/ns/net", "/proc/{pid}/task/{pid}/ns/net", "/proc/./{pid}/ns/net"]
"""The forms in which a document names a namespace by a process."""


def veth_in(kernel: Kernel, namespace: str, revision: int = 7) -> Veth:
    return replace(endpoint_veth(kernel.config.instance, namespace, "web", 10), revision=revision)


def interfaces(namespace: str) -> list[str]:
    return [link["ifname"] for link in ip_json("link", "show", namespace=namespace)]


async def ensure(kernel: Kernel, veth: Veth) -> str:
    """Have a pair made; return the refusal, empty when there is none."""
    failures = await kernel.executor.run([EnsureVeth(veth)])
    assert all(failure.errno in (errno.ESTALE, errno.ENOENT) for failure in failures), failures
    return failures[0].message if failures else ""


@pytest.mark.parametrize("spelling", PROCESS)
async def test_a_process_id_that_was_given_out_again_gets_nothing_of_the_first(
    kernel: Kernel, topo: Topo, spelling: str
) -> None:
    first, second = topo.endpoint_namespace(), topo.endpoint_namespace()
    with living_in(first) as pid:
        veth = veth_in(kernel, spelling.format(pid=pid))
        assert await ensure(kernel, veth) == ""
        assert interfaces(first) == ["lo", "eth0"]
        before = ip_json("link", "show", veth.ifname)
        with living_in(second, 0) as helper:  # the second tenant's, which keeps its namespace in use
            assert helper
            again = reuse(pid, second)
            try:
                for _ in range(2):
                    message = await ensure(kernel, veth)
                    assert "another one has its id now: nothing was attached" in message
                    assert "publish the document again" in message
                    assert interfaces(second) == ["lo"]
                assert ip_json("link", "show", veth.ifname) == before, "what the first tenant has is left alone"
                assert await ensure(kernel, replace(veth, revision=8)) == "", "a new revision says it anew"
                assert interfaces(second) == ["lo", "eth0"]
            finally:
                end(again)


async def test_a_process_that_ended_is_named_with_what_to_do(kernel: Kernel, topo: Topo) -> None:
    with living_in(topo.endpoint_namespace()) as pid:
        veth = veth_in(kernel, str(pid))
        assert await ensure(kernel, veth) == ""
        end(pid)
        assert "there is no such namespace" in await ensure(kernel, veth)


async def test_a_process_that_moved_to_another_namespace_gets_nothing_there(
    kernel: Kernel, topo: Topo, tmp_path: Path
) -> None:
    """On request it creates a namespace for itself, as the same process."""
    go = tmp_path / "go"
    moving = ("sh", "-c", f"while [ ! -e {go} ]; do sleep 0.05; done; exec unshare --net sleep 600")
    with living_in(topo.endpoint_namespace(), 0, *moving) as pid:
        veth = veth_in(kernel, str(pid))
        assert await ensure(kernel, veth) == ""
        before = namespace_of(pid)
        go.touch()
        until(lambda: namespace_of(pid) != before, "its move")
        assert "in another network namespace" in await ensure(kernel, veth)


async def test_nothing_of_before_a_reboot_is_trusted(kernel: Kernel, topo: Topo) -> None:
    with living_in(topo.endpoint_namespace()) as pid:
        veth = veth_in(kernel, str(pid))
        assert await ensure(kernel, veth) == ""
        (kept,) = kernel.bindings.take_changed().values()
        assert kept is not None
        assert kept.process is not None
        kernel.bindings.restore({"web": kept._replace(process=kept.process._replace(boot="another"))}, {"web": 7})
        assert await kernel.executor.run([DeleteVeth("web", veth.ifindex)]) == []
        assert "the host was started again" in await ensure(kernel, veth)
        assert await ensure(kernel, replace(veth, revision=8)) == ""


def as_shown(pid: int) -> Process:
    shown = Path(f"/proc/{pid}/ns/net").stat()
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return Process(boot, int(fields[19]), shown.st_dev, shown.st_ino)


async def test_a_saved_binding_identifies_its_process(kernel: Kernel, topo: Topo) -> None:
    name = topo.endpoint_namespace()
    with living_in(name) as pid:
        assert await ensure(kernel, veth_in(kernel, str(pid))) == ""
        assert kernel.bindings.take_changed() == {"web": Binding("revision 7", as_shown(pid))}


async def test_a_pair_without_a_saved_process_is_kept_and_never_created_elsewhere(kernel: Kernel, topo: Topo) -> None:
    """An agent before this one made it, and remembered nothing: the pair itself says where it belongs."""
    with living_in(topo.endpoint_namespace()) as pid:
        veth = veth_in(kernel, str(pid))
        assert await ensure(kernel, veth) == ""
        kernel.bindings.restore({}, {"web": 8})
        veth = replace(veth, revision=8)
        assert await ensure(kernel, veth) == ""
        kernel.bindings.restore({}, {"web": 9})
        veth = replace(veth, revision=9)
        assert await kernel.executor.run([DeleteVeth("web", veth.ifindex)]) == []
        assert "nothing says which process was meant" in await ensure(kernel, veth)


async def test_a_link_to_a_process_means_that_process_until_it_is_made_again(kernel: Kernel, topo: Topo) -> None:
    """As in `ln -s /proc/PID/ns/net /run/netns/NAME`, which many scripts do for containers."""
    first, second = topo.endpoint_namespace(), topo.endpoint_namespace()
    name = f"{topo.prefix}link"
    with living_in(first) as pid, linked(name, pid) as make_link_again:
        veth = veth_in(kernel, name, revision=0)
        assert await ensure(kernel, veth) == ""
        again = reuse(pid, second)
        try:
            assert "make the link again" in await ensure(kernel, veth)
            assert interfaces(second) == ["lo"]
            make_link_again()
            assert await ensure(kernel, veth) == ""
            assert interfaces(second) == ["lo", "eth0"]
        finally:
            end(again)


async def test_a_namespace_made_again_under_its_name_is_what_was_meant(kernel: Kernel, topo: Topo) -> None:
    name = topo.endpoint_namespace()
    veth = veth_in(kernel, name, revision=0)
    assert await ensure(kernel, veth) == ""
    topo.remake(name)
    until(lambda: not ip_json("link", "show", "type", "veth", "group", "default")[1:], "the end of the old pair")
    assert await ensure(kernel, veth) == ""
    assert interfaces(name) == ["lo", "eth0"]
    assert kernel.bindings.take_changed() == {}
