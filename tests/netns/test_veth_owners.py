"""Endpoints' pairs and what others own: names and indexes that are taken, interfaces that are never deleted."""

from __future__ import annotations

import asyncio
import errno

import pytest
from lab.waiting import many_turns

from tests.netns.conftest import Topo, ip, ip_json
from tests.netns.hops import until
from tests.netns.tenants import assert_right, open_links, peer_side, wanted


async def test_a_missing_namespace_is_refused(topo: Topo) -> None:
    async with open_links() as links:
        with pytest.raises(OSError) as caught:
            await links.ensure_veth(wanted("no-such-namespace"))
        assert caught.value.errno == errno.ENOENT


async def test_a_file_that_is_no_namespace_is_refused(topo: Topo, tmp_path) -> None:
    path = tmp_path / "file"
    path.touch()
    async with open_links() as links:
        with pytest.raises(OSError) as caught:
            await links.ensure_veth(wanted(str(path)))
        assert caught.value.errno == errno.EINVAL


async def test_a_name_that_is_taken_inside_is_refused_and_left_alone(topo: Topo) -> None:
    veth = wanted(topo.endpoint_namespace())
    ip("link", "add", "eth0", "type", "veth", "peer", "name", "eth1", namespace=veth.namespace)
    before = peer_side(veth)
    async with open_links() as links:
        with pytest.raises(OSError, match="already has an interface eth0") as caught:
            await links.ensure_veth(veth)
    assert caught.value.errno == errno.EEXIST
    assert peer_side(veth) == before
    assert ip_json("link", "show", "type", "veth", "group", "default")[0]["ifname"] == "eth0"


@pytest.mark.parametrize("how", ["deleted", "renamed", "moved", "its pair deleted"])
async def test_a_name_that_becomes_free_is_noticed_at_once(topo: Topo, how: str) -> None:
    veth, other = wanted(topo.endpoint_namespace()), topo.endpoint_namespace()
    ip("link", "add", "eth0", "type", "veth", "peer", "name", "eth1", namespace=veth.namespace)
    async with open_links() as links:
        for _ in range(2):  # a retry does not watch twice
            with pytest.raises(OSError, match="already has an interface eth0"):
                await links.ensure_veth(veth)
        assert len(links.name_watch) == 1
        ip("link", "set", "eth0", "mtu", "1400", namespace=veth.namespace)
        ip("link", "add", "other", "type", "veth", "peer", "name", "other2", namespace=veth.namespace)
        ip("link", "del", "other", namespace=veth.namespace)
        await many_turns()
        assert not links.name_watch.freed.is_set()
        match how:
            case "deleted":
                ip("link", "del", "eth0", namespace=veth.namespace)
            case "renamed":
                ip("link", "set", "eth0", "name", "eth9", namespace=veth.namespace)
            case "moved":
                ip("link", "set", "eth0", "netns", other, namespace=veth.namespace)
            case _:
                ip("link", "del", "eth1", namespace=veth.namespace)
        await asyncio.wait_for(links.name_watch.freed.wait(), 20)
        assert len(links.name_watch) == 0
        await links.ensure_veth(veth)
    assert_right(veth)


async def test_watches_of_taken_names_are_bounded_and_end(topo: Topo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.datapath.veth.name_watch.MOST", 1)
    monkeypatch.setattr("agent.datapath.veth.name_watch.EXPIRES", 0.01)
    async with open_links() as links:
        for veth in (wanted(topo.endpoint_namespace()), wanted(topo.endpoint_namespace(), "db", 6)):
            ip("link", "add", "eth0", "type", "veth", "peer", "name", "eth1", namespace=veth.namespace)
            with pytest.raises(OSError, match="already has an interface eth0"):
                await links.ensure_veth(veth)
            assert len(links.name_watch) <= 1
        await until(lambda: len(links.name_watch) == 0)


async def test_an_ifindex_that_is_taken_is_refused_with_its_holder(topo: Topo) -> None:
    veth = wanted(topo.endpoint_namespace())
    ip("link", "add", "theirs", "index", str(veth.ifindex), "type", "veth", "peer", "name", "theirs2")
    async with open_links() as links:
        with pytest.raises(OSError, match="held by theirs") as caught:
            await links.ensure_veth(veth)
    assert caught.value.errno == errno.EEXIST
    assert ip_json("link", "show", "theirs")


async def test_a_host_side_name_in_use_by_another_owner_is_refused(topo: Topo) -> None:
    veth = wanted(topo.endpoint_namespace())
    ip("link", "add", veth.ifname, "type", "veth", "peer", "name", "theirs2")
    ip("link", "set", veth.ifname, "alias", "theirs")
    async with open_links() as links:
        with pytest.raises(OSError, match="does not carry our mark") as caught:
            await links.ensure_veth(veth)
    assert caught.value.errno == errno.EEXIST


async def test_deleting_removes_both_sides_and_tolerates_absence(topo: Topo) -> None:
    veth = wanted(topo.endpoint_namespace())
    async with open_links() as links:
        await links.ensure_veth(veth)
        await links.delete_veth(veth.endpoint, veth.ifindex)
        await links.delete_veth(veth.endpoint, veth.ifindex)
    assert [link["ifname"] for link in ip_json("link", "show", namespace=veth.namespace)] == ["lo"]


async def test_an_unfinished_pair_is_deleted_by_its_endpoints_name_alone(topo: Topo) -> None:
    veth = wanted(topo.endpoint_namespace())
    ip("link", "add", veth.ifname, "index", str(veth.ifindex), "type", "veth", "peer", "name", "x")
    async with open_links() as links:
        for another in ("other", veth.ifname):
            with pytest.raises(OSError, match="does not carry the mark"):
                await links.delete_veth(another, veth.ifindex)
        await links.delete_veth(veth.endpoint, veth.ifindex)
    assert veth.ifname not in ip("link", "show")


async def test_an_interface_without_our_mark_is_never_deleted(topo: Topo) -> None:
    ip("link", "add", "theirs", "index", "1073741999", "type", "veth", "peer", "name", "theirs2")
    async with open_links() as links:
        with pytest.raises(OSError, match="does not carry the mark") as caught:
            await links.delete_veth("web", 1073741999)
        with pytest.raises(OSError, match="does not carry the mark"):
            await links.delete_veth("theirs", 1073741999)
    assert caught.value.errno == errno.EPERM
    assert "theirs" in ip("link", "show")


async def test_another_endpoints_pair_is_never_deleted(topo: Topo) -> None:
    veth = wanted(topo.endpoint_namespace())
    async with open_links() as links:
        await links.ensure_veth(veth)
        with pytest.raises(OSError):
            await links.delete_veth("other", veth.ifindex)
        assert_right(veth)
