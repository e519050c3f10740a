"""A host whose probes were never answered differs from one that is alone, or that speaks to VXLAN peers."""

from __future__ import annotations

from underlay_model import Model

from agent.core.model.resolved_state import HostState, ResolvedState
from agent.core.probe import unanswered
from agent.core.probe.paths import Path, PathRecord, Rules
from agent.core.probe.probing import Probing
from agent.core.probe.unanswered import answering
from protocol.addresses import parse_address
from protocol.documents import Droplet, Network, Vpc

OWN = bytes([10, 0, 0, 1])


def asked(model: Model) -> dict[bytes, list[bytes]]:
    return model.probing.unanswered({path.peer for path in model.far})


def test_probes_that_were_never_answered_are_reported_after_ten_of_them() -> None:
    model = Model()
    paths = model.add(3, silent=True)
    model.run(5)
    assert asked(model) == {}, "too early to say"
    model.run(10)
    assert asked(model) == {OWN: [path.peer for path in paths]}


def test_one_answer_from_anyone_is_enough() -> None:
    model = Model()
    model.add(3, silent=True)
    (path,) = model.add(silent=True)
    model.run(15)
    model.far[path].silent = False
    model.run(2)
    assert asked(model) == {}
    model.far[path].silent = True
    model.run(20)
    assert asked(model) == {}, "that peer is down, which is reported separately"


def test_a_host_that_is_alone_has_nothing_to_tell() -> None:
    model = Model()
    model.run(30)
    assert asked(model) == {}


def test_peers_that_need_not_answer_and_those_that_nothing_leads_to_do_not_count() -> None:
    model = Model()
    one, other = model.add(2, silent=True)
    model.run(15)
    assert model.probing.unanswered({one.peer}) == {OWN: [one.peer]}
    assert model.probing.unanswered(()) == {}
    model.probing.unreachable({one.peer, other.peer}, model.now)
    assert asked(model) == {}


def test_who_answered_an_agent_before_this_one_has_answered() -> None:
    path = Path(OWN, bytes([10, 0, 0, 2]))
    probing = Probing(Rules(unanswered=0), lambda: bytes(8))
    probing.set_paths({path: 1500}, 0.0, {path: PathRecord(down=True)})
    assert probing.unanswered({path.peer}) == {}


def test_where_a_network_is_of_vxlan_only_bouncers_and_dividers_must_answer() -> None:
    droplets = {id_: Droplet(id_, id_, f"10.0.0.{number}") for number, id_ in enumerate(("own", "b", "d", "other"), 1)}
    web = Network("web", "red", ("10.1.0.0/24",), bouncers=("b", "own"))
    resolved = ResolvedState(
        HostState("own", "own", ()),
        {
            "droplets": droplets,
            "networks": {"web": web},
            "vpcs": {"red": Vpc("red", 7, ("10.1.0.0/16",), dividers=("d",))},
        },
        own={"own": droplets["own"]},
    )
    addresses = {id_: parse_address(one.address) for id_, one in droplets.items()}
    assert answering(resolved) == {addresses["b"], addresses["d"], addresses["other"]}
    vxlan = Network("old", "red", ("10.1.1.0/24",), bouncers=("b",), encapsulation="vxlan")
    with_peers = resolved.with_objects("networks", (), {"old": vxlan})
    assert answering(with_peers) == {addresses["b"], addresses["d"]}


def test_the_fault_names_the_interface_the_address_and_the_likely_causes() -> None:
    uplinks = {OWN: unanswered.Uplink("eth0", "eth0 is a veth. ")}
    (fault,) = unanswered.faults({OWN: [bytes([10, 0, 0, 3]), bytes([10, 0, 0, 2])]}, uplinks, 6081)
    assert (fault.kind, fault.subject) == ("no_probe_answered", "eth0 10.0.0.1")
    assert fault.detail == "no droplet has ever answered a probe from 10.0.0.1: not 10.0.0.2 nor any of 1 others"
    assert fault.remedy.startswith("eth0 is a veth. ")
    assert "UDP port 6081" in fault.remedy
    assert "ethtool -K <peer> gro on" in fault.remedy
