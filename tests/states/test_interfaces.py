"""What happens to several droplets of one host when its interfaces change under them."""

from __future__ import annotations

import errno
from dataclasses import replace
from itertools import permutations

import pytest
from agent_configurations import FAMILIES, SEVERAL, UNSIGNED, Configuration, changed, droplets, on
from agent_under_test import Agent, Stream, publish
from fake_kernel import BOND0, ETH0
from test_sequences import deliver_whole, ends_like, has_nothing_to_do, in_a_folder

from agent.core.model.endpoint_slots import IFINDEX_BASE
from agent.core.model.features import Features
from agent.core.model.map_layout import DROPLET, DROPLET_ZERO_CHECKSUM, LOCAL_DROPLET, MapName
from agent.core.model.uplinks import Uplink
from agent.core.nexthop.next_hops import Peer
from agent.core.plan.actions import Action, EnsureVeth
from protocol.addresses import parse_address


def ingress_addresses(agent: Agent, uplink: Uplink) -> set[int]:
    """Return the interfaces on which frames for an uplink's droplets are taken."""
    values = map(LOCAL_DROPLET.unpack, agent.kernel.maps[MapName.LOCAL_DROPLETS].values())
    return {value[2] for value in values if value[1] == uplink.ifindex}


@pytest.mark.parametrize("order", list(permutations(("underlay", "second", "bond", "c", "f"))))
def test_droplets_and_their_endpoints_come_and_go_in_every_order(order: tuple[str, ...]) -> None:
    async def scenario(agent: Agent) -> None:
        stream, configuration = Stream(), {name: SEVERAL[name] for name in SEVERAL.keys() - set(order)}
        await publish(agent, stream, configuration)
        for name in order:
            configuration = {**configuration, name: SEVERAL[name]}
            await deliver_whole(agent, stream.lead_to(configuration))
        await ends_like(agent, "several droplets")
        for name in order:
            del configuration[name]
            await deliver_whole(agent, stream.lead_to(configuration))
            await has_nothing_to_do(agent)

    in_a_folder(scenario)


@pytest.mark.parametrize("restarts", [False, True])
def test_an_interface_that_loses_its_address_removes_nothing_and_is_reported(restarts: bool) -> None:
    """The address is lost unintentionally: a lease expired, or a network manager restarts."""

    async def scenario(agent: Agent) -> None:
        stream = Stream()
        await deliver_whole(agent, stream.lead_to(SEVERAL))
        before = agent.kernel.contents()
        agent.kernel.interfaces = (ETH0, replace(BOND0, addresses=()))
        if restarts:
            await agent.start()
            await deliver_whole(agent, stream.replay())
            await agent.complete()
        agent.kernel.begin_watch()
        await agent.resync.repair()
        assert agent.kernel.end_watch() == []
        assert agent.kernel.contents() == before
        assert {name for name, (state, _, _) in agent.statuses().items() if state != "realized"} == {"bond"}
        (failure,) = agent.acknowledged["bond"].lacking
        assert (agent.acknowledged["bond"].state, failure.name) == ("failed", "EADDRNOTAVAIL")
        assert failure.message.startswith("10.5.0.1 is gone from interface bond0: give it back")
        await agent.retry()
        assert agent.acknowledged["bond"].state == "failed"
        agent.kernel.interfaces = (ETH0, BOND0)
        await agent.resync.repair()
        assert agent.acknowledged["bond"].state == "realized"
        assert agent.kernel.contents() == before
        await ends_like(agent, "several droplets")

    in_a_folder(scenario)


NARROW = replace(ETH0, mtu=1300)


async def narrowed(agent: Agent) -> Stream:
    """Have both families realized on an interface that becomes too narrow for IPv6 then; return their stream."""
    stream = Stream()
    await publish(agent, stream, FAMILIES)
    agent.kernel.interfaces = (NARROW, BOND0)
    await agent.resync.repair()
    return stream


def is_ensured(action: Action, endpoint: str) -> bool:
    return isinstance(action, EnsureVeth) and action.veth.endpoint == endpoint


def mtus(agent: Agent) -> dict[str, int]:
    return {name: veth.mtu for name, veth in agent.kernel.veths.items()}


@pytest.mark.parametrize("restarts", [False, True])
def test_an_interface_whose_mtu_becomes_too_small_removes_nothing_and_is_reported(restarts: bool) -> None:
    """a has an IPv4 address alone, which 1,238 bytes are enough for; c has both families, d has IPv6."""

    async def scenario(agent: Agent) -> None:
        stream = Stream()
        await deliver_whole(agent, stream.lead_to(FAMILIES))
        before = agent.kernel.contents()
        agent.kernel.interfaces = (NARROW, BOND0)
        if restarts:
            await agent.start()
            await deliver_whole(agent, stream.replay())
            await agent.complete()
        agent.kernel.begin_watch()
        await agent.resync.repair()
        assert agent.kernel.end_watch() == []
        assert agent.kernel.contents().keys() == before.keys()
        assert mtus(agent) == {"a": 1238, "c": 1280, "d": 1280}
        statuses = {name for name, (state, _, _) in agent.statuses().items() if state != "realized"}
        assert statuses == {"c", "d"}
        (failure,) = agent.acknowledged["c"].lacking
        assert (agent.acknowledged["c"].state, failure.name, failure.object) == ("failed", "EMSGSIZE", "endpoint c")
        assert failure.message.startswith("interface eth0 has MTU 1300, which leaves 1206 for endpoint 'c'")
        await has_nothing_to_do(agent)
        await agent.retry()
        assert agent.acknowledged["c"].state == "failed"
        agent.kernel.interfaces = (ETH0, BOND0)
        await agent.resync.repair()
        assert agent.kernel.contents() == before
        await ends_like(agent, "both families")

    in_a_folder(scenario)


@pytest.mark.parametrize("restarts", [False, True])
def test_an_endpoint_with_a_missing_interface_affects_no_other_on_a_narrow_interface(restarts: bool) -> None:
    """1,360 bytes are enough for the agent to start, and too few for IPv6 over IPv6. c2's namespace is gone."""

    async def scenario(agent: Agent) -> None:
        stream, (both,) = Stream(), on("d1-6", "c2", "fd00:0:0:1::40")
        (content,) = FAMILIES["c"]
        await publish(agent, stream, changed(FAMILIES, c=({"endpoints": [*content["endpoints"], *both["endpoints"]]},)))
        agent.kernel.interfaces = (replace(ETH0, mtu=1360), BOND0)
        del agent.kernel.veths["c2"]
        agent.kernel.refuse = lambda action: errno.ENOENT if is_ensured(action, "c2") else 0
        if restarts:
            await agent.start()
            await deliver_whole(agent, stream.replay())
            await agent.complete()
        await agent.resync.repair()
        assert "c" in agent.kernel.veths
        assert agent.acknowledged["c"].state == "failed"
        assert [failure.name for failure in (*agent.acknowledged["c"].failures, *agent.acknowledged["c"].lacking)] == [
            *("ENOENT", "EMSGSIZE", "EMSGSIZE")
        ]

    in_a_folder(scenario)


CRAMPED = {
    "with another class": {"c": on("d1-6", "c", "192.168.1.20", "fd00:0:0:1::20", dscp=46)},
    "with an IPv6 address more": {"a": on("d1", "a", "192.168.1.10", "fd00:0:0:1::a")},
    "new": {"late": on("d1", "late", "fd00:0:0:1::30")},
    "from a wide interface": {"e": on("d1", "e", "fd00:0:0:1::22")},
}


@pytest.mark.parametrize("revisions", CRAMPED.values(), ids=CRAMPED)
def test_no_revision_comes_to_an_interface_that_is_too_narrow_for_it(revisions: Configuration) -> None:
    """Whatever was in force stays, also after another look at the interfaces."""

    async def scenario(agent: Agent) -> None:
        stream = await narrowed(agent)
        before, (name,) = agent.kernel.contents(), revisions
        await publish(agent, stream, changed(FAMILIES, **revisions))
        for _ in range(2):
            assert agent.acknowledged[name].state == "rejected"
            assert "eth0 has MTU 1300" in agent.acknowledged[name].errors[0].message
            assert bool(agent.acknowledged[name].in_force) is (name in FAMILIES)
            assert agent.kernel.contents() == before
            await agent.resync.repair()
        agent.kernel.interfaces = (ETH0, BOND0)
        await agent.resync.repair()
        assert agent.acknowledged[name].state == "realized"

    in_a_folder(scenario)


def test_on_a_narrow_interface_what_fits_comes_and_what_does_not_may_go() -> None:
    async def scenario(agent: Agent) -> None:
        stream = await narrowed(agent)
        fits = {"fits": on("d1", "fits", "192.168.1.31"), "c": on("d1-6", "c", "192.168.1.20")}
        await publish(agent, stream, changed(FAMILIES, **fits, d=None))
        assert {agent.acknowledged[name].state for name in fits} == {"realized"}
        assert mtus(agent) == {"a": 1238, "c": 1206, "fits": 1238}
        await has_nothing_to_do(agent)

    in_a_folder(scenario)


def test_a_narrow_interface_slows_no_other_document_and_hides_no_repair() -> None:
    async def scenario(agent: Agent) -> None:
        stream = await narrowed(agent)
        for _ in range(20):
            await agent.retry()
        assert len(agent.retries) == 0
        agent.kernel.cleared.clear()
        agent.kernel.refuse = lambda action: errno.ENOENT if is_ensured(action, "late") else 0
        await publish(agent, stream, changed(FAMILIES, late=on("d1", "late", "192.168.1.50")))
        agent.kernel.refuse = lambda action: 0
        await agent.retry()
        assert "late" in agent.kernel.veths
        del agent.kernel.veths["c"]
        await agent.resync.repair()
        assert len(agent.repaired) == 1
        assert {*agent.kernel.cleared} == {agent.kernel.veths["late"].ifindex - IFINDEX_BASE}

    in_a_folder(scenario)


def test_a_droplet_that_moves_to_another_address_of_its_interface_is_followed() -> None:
    """The old address goes first, then the document comes, then the new address."""

    async def scenario(agent: Agent) -> None:
        stream, new = Stream(), bytes([10, 0, 1, 77])
        await publish(agent, stream, SEVERAL)
        agent.kernel.interfaces = (ETH0, replace(BOND0, addresses=()))
        await agent.resync.repair()
        (content,) = SEVERAL["bond"]
        moved = {**content, "droplets": [{**one, "address": "10.0.1.77"} for one in content["droplets"]]}
        await publish(agent, stream, changed(SEVERAL, bond=(content, moved)))
        assert agent.acknowledged["bond"].state == "rejected"
        assert agent.acknowledged["bond"].in_force > 0
        agent.kernel.interfaces = (ETH0, replace(BOND0, addresses=(new,)))
        await agent.resync.repair()
        assert agent.acknowledged["bond"].state == "realized"
        assert new in {
            LOCAL_DROPLET.unpack(value)[0][12:] for value in agent.kernel.maps[MapName.LOCAL_DROPLETS].values()
        }
        await has_nothing_to_do(agent)

    in_a_folder(scenario)


@pytest.mark.parametrize("members", [(5, 3), (5, 4), (5,), (5, 3, 4, 6), (5, 6, 7, 8)])
def test_a_bonds_members_come_and_go_without_a_gap(members: tuple[int, ...]) -> None:
    async def scenario(agent: Agent) -> None:
        await publish(agent, Stream(), SEVERAL)
        for now in (replace(BOND0, ingress=members), BOND0):
            agent.kernel.begin_watch()
            agent.kernel.interfaces = (ETH0, now)
            await agent.resync.repair()
            assert agent.kernel.end_watch() == []
            assert ingress_addresses(agent, now) == set(now.ingress)
            await has_nothing_to_do(agent)
        await ends_like(agent, "several droplets")

    in_a_folder(scenario)


def test_an_interface_with_another_address_and_tag_is_followed_in_place() -> None:
    async def scenario(agent: Agent) -> None:
        agent.kernel.features = Features(vlan_tags=True)
        await agent.start()
        await agent.complete()
        await publish(agent, Stream(), SEVERAL)
        agent.kernel.begin_watch()
        agent.kernel.interfaces = (replace(ETH0, mac=bytes.fromhex("0200000001aa"), vlan=7, egress=9), BOND0)
        await agent.resync.repair()
        assert agent.kernel.end_watch() == []
        await has_nothing_to_do(agent)

    in_a_folder(scenario)


def test_a_droplet_with_zero_checksums_sets_the_flag_only_for_itself() -> None:
    async def scenario(agent: Agent) -> None:
        stream, far = Stream(), parse_address("2001:db8::2")
        apart = changed(FAMILIES, underlay=droplets(), own=({"droplets": [UNSIGNED]},))
        signed = changed(apart, own=({"droplets": [{**UNSIGNED, "udp_checksum": "full"}]},))
        peer: Configuration = {"far": ({"droplets": [{"id": "far", "host": "h9", "address": "2001:db8::2"}]},)}
        for configuration, unsigned in ((signed, 0), (apart, DROPLET_ZERO_CHECKSUM), (signed, 0)):
            await publish(agent, stream, {**configuration, **peer})
            own = map(LOCAL_DROPLET.unpack, agent.kernel.maps[MapName.LOCAL_DROPLETS].values())
            assert {value[-1] for value in own if value[0] == parse_address(str(UNSIGNED["address"]))} == {unsigned}
            assert DROPLET.unpack(agent.kernel.maps[MapName.DROPLETS][far])[0] == 0
            assert agent.kernel.peers[far] == Peer(zero_checksum=False)
            await has_nothing_to_do(agent)

    in_a_folder(scenario)


def test_what_a_hosts_programs_cannot_do_is_refused_and_the_rest_is_realized() -> None:
    async def scenario(agent: Agent) -> None:
        agent.kernel.features = Features(vxlan_port=0)
        await agent.start()
        await agent.complete()
        await publish(agent, Stream(), {**SEVERAL, "x": ({"networks": [VXLAN]},)})
        assert agent.acknowledged["x"].errors[0].path == "networks[0].encapsulation"
        others = {state for name, (state, _, _) in agent.statuses().items() if name != "x"}
        assert others == {"realized"}

    in_a_folder(scenario)


VXLAN = {"id": "x", "vpc": "red", "cidrs": ["192.168.7.0/24"], "encapsulation": "vxlan"}
