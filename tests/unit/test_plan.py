"""The plan adds before it removes, and says nothing when nothing is to do."""

from __future__ import annotations

from agent.core.model.desired_entries import DesiredEntries, Veth
from agent.core.model.map_layout import MapName
from agent.core.model.offloads import Offload
from agent.core.model.uplinks import Uplink
from agent.core.plan.actions import DeleteEntries, DeleteVeth, EnsureVeth, PutEntries
from agent.core.plan.diff import KernelDiff, Suspects
from agent.core.plan.observed import Observed, ObservedPeer, ObservedVeth
from agent.core.plan.planner import additions, describe, plan_all, plan_change

VETH = Veth("a", "dp0", 0x40000000, "a", "eth0", bytes(6), 1438, ("10.0.0.5/24",), ("10.0.0.1",))
OLD = DesiredEntries({MapName.VPCS: {b"1": b"x"}, MapName.ENDPOINTS: {b"k": b"v"}}, {"a": VETH}, frozenset({2}))
NEW = DesiredEntries({MapName.VPCS: {b"2": b"x"}, MapName.ENDPOINTS: {b"k": b"w"}}, {}, frozenset({2}))


def test_equal_states_need_no_action() -> None:
    assert plan_change(OLD, OLD) == []


def test_additions_come_first_and_removals_in_reverse_order() -> None:
    kinds = [(type(action), getattr(action, "map", None)) for action in plan_change(OLD, NEW)]
    kept = [kind for kind in kinds if kind[1] is not MapName.DIRECT]
    assert kept == [
        (PutEntries, MapName.VPCS),
        (PutEntries, MapName.ENDPOINTS),
        (DeleteVeth, None),
        (DeleteEntries, MapName.VPCS),
    ]


def test_what_only_adds_removes_nothing() -> None:
    kept = [action for action in additions(plan_change(OLD, NEW)) if getattr(action, "map", None) != MapName.DIRECT]
    assert {type(action) for action in kept} == {PutEntries}


def test_an_interface_with_another_index_is_recreated() -> None:
    other = DesiredEntries(
        veths={"a": Veth(**{**{n: getattr(VETH, n) for n in VETH.__slots__}, "ifindex": 0x40000001})}
    )
    actions = plan_change(DesiredEntries(veths={"a": VETH}), other)
    assert [type(action) for action in actions] == [DeleteVeth, EnsureVeth]


def seen(peer: ObservedPeer | None, *, known: bool = True) -> Observed:
    veth = ObservedVeth("a", VETH.ifname, VETH.ifindex, True, True, VETH.mtu, True, peer, known)
    return Observed((Uplink("eth0", 2, bytes(6), 1500, (), (2,), 2, 2, transit=True),), {"a": veth}, OLD.entries)


def test_a_veth_end_that_could_not_be_read_is_neither_repaired_nor_deleted() -> None:
    assert plan_all([OLD], seen(None, known=False)) == []


def test_a_veth_without_its_other_end_is_recreated() -> None:
    assert plan_all([OLD], seen(None)) == [EnsureVeth(VETH)]


def test_every_action_is_one_line_for_people() -> None:
    lines = [describe(action) for action in (*plan_change(DesiredEntries(), OLD), *plan_change(OLD, DesiredEntries()))]
    assert all(line and "\n" not in line for line in lines)


def kernel(**maps: dict[bytes, bytes]) -> Observed:
    return Observed((), {}, {MapName(name): entries for name, entries in maps.items()})


def test_planning_does_not_change_the_observation() -> None:
    observed = kernel(vpcs={b"1": b"x", b"9": b"x"})
    assert plan_all([DesiredEntries({MapName.VPCS: {b"1": b"x"}})], observed) == [DeleteEntries(MapName.VPCS, (b"9",))]
    assert observed == kernel(vpcs={b"1": b"x", b"9": b"x"})


def test_a_diff_of_single_documents_finds_what_the_plan_for_all_does() -> None:
    parts = [OLD, DesiredEntries({MapName.ENDPOINTS: {b"l": b"v"}}), DesiredEntries({MapName.VPCS: {b"3": b"y"}})]
    observed = seen(None)
    diff = KernelDiff(Observed(observed.uplinks, observed.veths, {MapName.VPCS: {b"1": b"x", b"9": b"x"}}))
    for number, part in enumerate(parts):
        diff.add(f"document {number}", part)
    assert {name: set(part.entries) for name, part in diff.wanted.items()} == {
        "document 0": {MapName.ENDPOINTS},
        "document 1": {MapName.ENDPOINTS},
        "document 2": {MapName.VPCS},
    }
    whole = Observed(observed.uplinks, observed.veths, {MapName.VPCS: {b"1": b"x", b"9": b"x"}})
    assert plan_change(*diff.before_and_after()) == plan_all(parts, whole)


def test_correct_entries_are_no_suspects() -> None:
    diff = KernelDiff(kernel(vpcs={b"1": b"x", b"2": b"old", b"9": b"x"}, droplets={}))
    diff.add("a", DesiredEntries({MapName.VPCS: {b"1": b"x"}}))
    assert diff.wanted == {}
    diff.add("b", DesiredEntries({MapName.VPCS: {b"2": b"new"}}, {"a": VETH}))
    assert diff.has_unexpected
    assert diff.suspects() == Suspects({MapName.VPCS: {b"2", b"9"}}, {"a"}, set())
    diff.discard({"b"})
    assert diff.suspects() == Suspects({MapName.VPCS: {b"9"}}, set(), set())
    assert not diff.is_empty


def test_a_kernel_in_the_desired_state_needs_no_action() -> None:
    diff = KernelDiff(kernel(vpcs={b"1": b"x"}))
    diff.add("a", DesiredEntries({MapName.VPCS: {b"1": b"x"}}))
    assert diff.is_empty
    assert diff.observed.maps == {MapName.VPCS: {}}, "taken out, not copied"


def test_the_repair_of_a_veth_names_the_differences() -> None:
    """An offload for one: it is in the plan as any other difference is."""
    peer = ObservedPeer("eth0", bytes(6), 1280, True, (), ("10.0.0.1",), offloads={"rx-gro": Offload(False, True)})
    (action,) = plan_all([OLD], seen(peer))
    assert action == EnsureVeth(VETH)
    assert describe(action) == (
        "repair veth a: the MTU of eth0 is 1280; eth0 lacks address 10.0.0.5/24; "
        "generic receive offload (rx-gro) is off at eth0"
    )


def test_correct_and_unknown_offloads_need_no_action() -> None:
    offloads = {"rx-gro": Offload(True, True), "tx-checksum-ip-generic": Offload(False, True)}
    for found in (offloads, {}, {"tx-vlan-hw-insert": Offload(True, False)}):
        peer = ObservedPeer("eth0", bytes(6), VETH.mtu, True, VETH.addresses, VETH.gateways, offloads=found)
        assert plan_all([OLD], seen(peer)) == []
