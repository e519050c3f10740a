"""Moves: the new host is prepared, the old one releases the endpoint, and only then does the new one get it."""

from __future__ import annotations

from pathlib import Path

import controller_sim
from controller_sim.control.bus import Stored
from controller_sim.control.compiler import Documents, compile_documents
from controller_sim.control.moves import Move, Moved, Phases, in_phases
from controller_sim.control.publisher import Change, difference
from controller_sim.topology.file import parse_topology
from controller_sim.topology.ipam import allocate
from controller_sim.topology.placement import place
from protocol import codec, subjects

TEXT = (Path(controller_sim.__file__).parent / "topologies" / "moving.yaml").read_text()
LONELY = TEXT.replace("  - {name: web-3, network: web, droplet: h3}\n", "")


def compiled(text: str) -> Documents:
    topology = parse_topology(text)
    return compile_documents(topology, allocate(topology), place(topology), str)


def phases(before: str, after: str) -> Phases:
    stream = [
        Stored(subjects.config(host, name), 1, {}, codec.encode(document))
        for host, documents in compiled(before).items()
        for name, document in documents.items()
    ]
    found = in_phases(compiled(after), stream)
    arrivals = {str(change): change for changes in found.arrivals.values() for change in changes}
    flat = [*found.before, *found.release, *found.rest, *arrivals.values()]
    assert sorted(flat, key=str) == sorted(difference(compiled(after), stream), key=str), "nothing is left out"
    return found


def names(changes: list[Change]) -> list[tuple[str, str, bool]]:
    return [(change.host, change.document, change.body is None) for change in changes]


def arrivals(found: Phases) -> dict[str, list[tuple[str, str, bool]]]:
    return {move.endpoint: names(changes) for move, changes in found.arrivals.items()}


def moved(text: str, name: str, old: str, new: str) -> str:
    line = f"{{name: {name}, network: web, droplet: {old}}}"
    assert line in text
    return text.replace(line, line.replace(old, new))


def test_a_change_without_a_move_is_one_round_in_the_usual_order():
    found = phases(LONELY, TEXT)
    assert (found.before, found.release, found.arrivals) == ([], [], {})
    assert {host for host, _, _ in names(found.rest)} == {"h3", "h4"}


def test_a_move_updates_the_old_host_and_the_bouncers_first_and_the_new_host_last():
    found = phases(TEXT, moved(TEXT, "web-2", "h2", "h3"))
    assert list(found.arrivals) == [Move("endpoint.web-2", "h2", "h3")]
    assert found.before == []
    assert names(found.release) == [("h2", "endpoint.web-2", True), ("h4", "network.web.p", False)]
    assert names(found.rest) == [("h2", "vpc.red", True)]
    assert arrivals(found) == {"web-2": [("h3", "endpoint.web-2", False)]}


def test_a_new_host_without_the_vpc_is_prepared_first():
    found = phases(LONELY, moved(LONELY, "web-2", "h2", "h3"))
    assert names(found.before) == [("h3", "vpc.red", False)]
    assert arrivals(found) == {"web-2": [("h3", "endpoint.web-2", False)]}


def test_an_endpoint_that_leaves_its_bouncers_host_is_removed_there_before_the_bouncer_lists_it():
    text = TEXT.replace("bouncers: [h4]", "bouncers: [h2]")
    found = phases(text, moved(text, "web-2", "h2", "h3"))
    assert names(found.release) == [("h2", "endpoint.web-2", True), ("h2", "network.web.p", False)]


def test_an_endpoint_that_comes_to_its_bouncers_host_leaves_the_bouncers_list_just_before():
    text = TEXT.replace("bouncers: [h4]", "bouncers: [h3]")
    found = phases(text, moved(text, "web-2", "h2", "h3"))
    assert names(found.rest) == [("h2", "vpc.red", True)]
    assert arrivals(found) == {"web-2": [("h3", "network.web.p", False), ("h3", "endpoint.web-2", False)]}


def test_two_endpoints_that_swap_hosts_are_both_removed_first():
    found = phases(TEXT, moved(moved(TEXT, "web-2", "h2", "h3"), "web-3", "h3", "h2"))
    assert {(host, name) for host, name, removed in names(found.release) if removed} == {
        ("h2", "endpoint.web-2"),
        ("h3", "endpoint.web-3"),
    }
    assert arrivals(found) == {"web-2": [("h3", "endpoint.web-2", False)], "web-3": [("h2", "endpoint.web-3", False)]}


def test_a_move_reports_how_long_the_endpoint_was_unreachable():
    move = Move("endpoint.web-2", "h2", "h3")
    done = "web-2: h2 -> h3, unreachable for at most 70.1 ms (h2 released it after 53.4 ms)"
    assert str(Moved(move, 0.0534, 0.0701)) == done
    assert str(Moved(move, None, None)) == "web-2: h2 -> h3, not there yet"


def test_each_move_waits_for_its_own_hosts_and_a_list_of_several_goes_with_the_first():
    text = TEXT.replace("bouncers: [h4]", "bouncers: [h3]").replace(
        "web-3, network: web, droplet: h3", "web-3, network: web, droplet: h1"
    )
    found = phases(text, moved(moved(text, "web-2", "h2", "h3"), "web-3", "h1", "h3"))
    assert arrivals(found) == {
        "web-2": [("h3", "network.web.p", False), ("h3", "endpoint.web-2", False)],
        "web-3": [("h3", "network.web.p", False), ("h3", "endpoint.web-3", False)],
    }


def test_a_message_that_cannot_be_read_is_in_nobodys_way():
    wanted = compiled(moved(TEXT, "web-2", "h2", "h3"))
    stream = [
        Stored(subjects.config(host, name), 1, {}, codec.encode(document))
        for host, documents in compiled(TEXT).items()
        for name, document in documents.items()
    ]
    clean = in_phases(wanted, stream)
    odd = [
        Stored("droplet.v1.h1.config.Endpoint.X", 2, {}, b"\xc1\xff"),
        Stored("droplet.v1.h3.config.vpc.red", 3, {}, b"\xc1\xff"),
    ]
    stream = [message for message in stream if message.subject != odd[1].subject]
    found = in_phases(wanted, [*stream, *odd])
    assert found.arrivals == clean.arrivals
    assert Change("h3", "vpc.red", codec.encode(wanted["h3"]["vpc.red"])) in found.rest
