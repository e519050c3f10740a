"""Silent droplets are reported and avoided; narrow paths are reported and respected."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from lab.fixtures import SystemLab, running_lab, topology_text
from lab.peers import knows, peers
from lab.traffic import pings
from lab.waiting import until

from agent.core.model.map_layout import NETWORK, NEXT_HOP, NEXT_HOP_DOWN, split_set
from agent.core.nexthop.next_hops import unpack_key
from controller_sim.control.bus import BusError
from protocol import codec
from protocol.rpc import PathReply, PathRequest, PeerPath
from protocol.status import AgentState, NarrowPath


@pytest.fixture(scope="module")
def lab(lab_cache: None) -> Iterator[SystemLab]:
    with running_lab("peers", topology_text("two_bouncers"), lossy="interfaces are down and narrow") as lab:
        yield lab


@pytest.fixture(autouse=True)
def known(lab: SystemLab) -> None:
    """Every droplet answers every host: the silence of one that has never answered says nothing."""
    until(lambda: all(knows(lab, host) for host in lab.hosts), "all to answer all")


def by_droplet(lab: SystemLab, host: str) -> dict[str, PeerPath]:
    return {path.droplet: path for path in peers(lab, host)}


def start_again(lab: SystemLab, host: str) -> None:
    """Kill an agent and start another, until it answers: it may have reason to be degraded."""
    lab.kill_agent(host)
    lab.lab.start_agent(host)

    def answers() -> bool:
        try:
            return bool(lab.status(host))
        except BusError:
            return False

    until(answers, f"an answer of {host}")


def bouncers(lab: SystemLab, host: str) -> set[int]:
    """Return the last bytes of the bouncers' addresses that a host would send to."""
    values = [NETWORK.unpack(value) for value in lab.entries(host, "networks").values()]
    return {member[-1] for value in values for member in split_set(value[4], value[2])}


def unresolved(lab: SystemLab, host: str) -> set[str]:
    return {address for one in lab.status(host).unresolved_next_hops for address in one.addresses}


def up_next_hops(lab: SystemLab, host: str) -> set[int]:
    """Return the last bytes of the droplets' addresses to which a next hop leads that is not down.

    One that answers no ARP loses its entry some seconds after it was marked as down.
    """
    entries = lab.entries(host, "next_hops").items()
    up = (key for key, value in entries if not NEXT_HOP.unpack(value)[2] & NEXT_HOP_DOWN)
    return {unpack_key(key).droplet[-1] for key in up}


def test_every_droplet_is_up_and_every_path_has_its_configured_mtu(lab):
    for host in lab.hosts:
        assert {path.state for path in peers(lab, host)} == {"up"}
        assert by_droplet(lab, host).keys() == {other for other in lab.hosts if other != host}
        assert {(path.configured, path.carries) for path in peers(lab, host)} == {(1500, 1500)}


def test_a_silent_bouncer_is_avoided_and_used_again_later(lab):
    assert bouncers(lab, "h1") == {13, 14}
    with lab.events("h1", "droplet_down") as downs, lab.events("h1", "droplet_up") as ups:
        lab.ip(lab.names.droplet("h3"), "link", "set", "eth0", "down")
        try:
            until(lambda: lab.status("h1").down_droplets == ("h3",), "h3 in the status")
            assert lab.status("h1").state is AgentState.DEGRADED
            until(lambda: bouncers(lab, "h1") == bouncers(lab, "h2") == {14}, "the other bouncer alone")
            until(lambda: up_next_hops(lab, "h1") == {12, 14}, "no next hop to h3")
            for source, destination in lab.pairs():
                assert pings(lab, source, destination), f"{source} to {destination}"
        finally:
            lab.ip(lab.names.droplet("h3"), "link", "set", "eth0", "up")
        until(lambda: lab.status("h1").down_droplets == (), "h3 again")
        until(lambda: bouncers(lab, "h1") == {13, 14}, "both bouncers")
        until(ups, "the event of its return")
        line = next(line for event in downs() for line in event.detail if "h3" in line)
        assert line.endswith("answers no probes")
    until(lambda: lab.status("h1").state is AgentState.IN_SYNC, "a host in sync")


def test_a_trace_through_bouncers_that_are_all_down_shows_it(lab):
    addresses = {str(lab.topology.droplets[name].address) for name in ("h3", "h4")}

    def path() -> PathReply:
        request = codec.encode(PathRequest("web-1", "10.0.1.77"))
        return codec.decode(lab.ask("h1", "path", request), PathReply)

    assert (path().route, set(path().hosts), path().down) == ("bouncer", addresses, ())
    for name in ("h3", "h4"):
        lab.ip(lab.names.droplet(name), "link", "set", "eth0", "down")
    try:
        until(lambda: set(path().down) == addresses, "both to be down")
        assert set(path().droplets) == {"h3", "h4"}
    finally:
        for name in ("h3", "h4"):
            lab.ip(lab.names.droplet(name), "link", "set", "eth0", "up")
    until(lambda: path().down == () and lab.status("h1").down_droplets == (), "both again")


def test_a_restarted_agent_knows_who_was_down(lab):
    lab.ip(lab.names.droplet("h4"), "link", "set", "eth0", "down")
    try:
        until(lambda: lab.status("h2").down_droplets == ("h4",), "h4 in the status")
        start_again(lab, "h2")
        until(lambda: lab.status("h2").down_droplets == ("h4",), "h4 in the status of the new agent")
    finally:
        lab.ip(lab.names.droplet("h4"), "link", "set", "eth0", "up")
    until(lambda: lab.status("h2").down_droplets == (), "h4 again")


def test_a_restarted_agent_knows_which_neighbours_do_not_answer_arp(lab):
    """Its next hop is gone from the map by then, with the mark that it was down."""
    lab.ip(lab.names.droplet("h4"), "link", "set", "eth0", "down")
    try:
        address = lab.topology.droplets["h4"].address
        # So that the kernel asks now, and not when it doubts its answer in half a minute.
        lab.ip(lab.names.droplet("h2"), "neighbour", "delete", address, "dev", "eth0")
        until(lambda: address in unresolved(lab, "h2"), "h4 without a next hop")
        start_again(lab, "h2")
        until(lambda: lab.status("h2").down_droplets == ("h4",), "h4 in the status of the new agent")
        until(lambda: bouncers(lab, "h1") == bouncers(lab, "h2") == {13}, "the other bouncer alone")
        for source, destination in lab.pairs():
            assert pings(lab, source, destination), f"{source} to {destination}"
    finally:
        lab.ip(lab.names.droplet("h4"), "link", "set", "eth0", "up")
    until(lambda: lab.status("h2").down_droplets == (), "h4 again")
    until(lambda: bouncers(lab, "h2") == {13, 14}, "both bouncers")


def test_a_host_with_a_smaller_interface_is_a_narrow_path_for_the_others(lab):
    """What is longer than its interface takes is swallowed there, without a word."""
    lab.ip(lab.names.droplet("h4"), "link", "set", "eth0", "mtu", "1396")  # a veth takes 4 bytes more, for a tag
    try:
        start_again(lab, "h1")  # it checks all paths anew
        narrow = until(lambda: lab.status("h1").narrow_paths, "a narrow path")
        assert narrow == (NarrowPath("h4", lab.topology.droplets["h4"].address, 1500, narrow[0].carries, "h1"),)
        assert 1396 <= narrow[0].carries <= 1400
    finally:
        lab.ip(lab.names.droplet("h4"), "link", "set", "eth0", "mtu", "1500")
    start_again(lab, "h1")
    until(lambda: by_droplet(lab, "h1")["h4"].carries == 1500, "a path that is well")
