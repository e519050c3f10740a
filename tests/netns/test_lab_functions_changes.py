"""Functions that change under traffic: replaced, configured anew, removed, and while their agent is killed; none lost.

All of it at both hooks at once, on the hosts of either end.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest
from lab.echoes import unbroken
from lab.fixtures import SystemLab, running_lab
from lab.function_topology import FAMILIES, HOSTS, OTHER, SMALL
from lab.functions import (
    answer,
    at_port,
    body_of,
    counted,
    datagrams,
    drops,
    function,
    function_pins,
    grows_to,
    nothing_heard,
    port_bytes,
    put,
    records,
    source,
)
from lab.stream import streaming
from lab.traffic import unbroken_flow
from lab.waiting import until

from agent.core.functions.versions import MOST_FAULTS
from agent.core.model.map_layout import STAGE_ARRAYS, STAGE_SLOTS, TRAFFIC, U32, MapName
from agent.datapath.bpf import syscall as bpf
from agent.datapath.bpf.outcomes import Outcome
from controller_sim.lab.lab import agent_program
from controller_sim.lab.namespaces import run_in
from protocol import codec
from protocol.acknowledgements import Acknowledgement, State
from protocol.documents import Function
from protocol.status import Counters

DOCUMENT = "tenant.changing"
FULL_SPEED = "a stream at full speed may overrun a queue on the way"
POINTS = ("from_endpoint", "to_endpoint")
PORTS = (7401, 7402)
COUNTING = "BPF_ARRAY(seen, __u64, 4);"
VERSIONS = [
    source(
        f"""\
	int at = {number};
	__u64 *count = seen.lookup(&at);

	if (count)
		__sync_fetch_and_add(count, 1);
{at_port("return STAGE_DROP;")}""",
        COUNTING,
    )
    for number in range(2)
]
"""Two programs that count what they see, each in a place of its own, and drop what comes to a port."""


def changing(version: int, port: int) -> list[Function]:
    """Return one of the programs at both ends of an endpoint's packets, with a port that it drops."""
    return [
        function(f"at-{point}", point, VERSIONS[version], vpc="red", configuration=port_bytes(port)) for point in POINTS
    ]


@pytest.fixture(scope="module")
def lab(lab_cache: None) -> Iterator[SystemLab]:
    with running_lab("changing", SMALL, lossy=FULL_SPEED) as made:
        yield made


@contextmanager
def traffic(lab: SystemLab) -> Iterator[None]:
    """Have traffic of both tenants between the hosts in both families, and a connection; hold that nothing is lost."""
    with ExitStack() as stack:
        for family in FAMILIES:
            stack.enter_context(unbroken_flow(lab, "web-x", "web-t", family))
            stack.enter_context(unbroken_flow(lab, "shop-t", "shop-x", family))
            stack.enter_context(unbroken(lab.inside("other-t"), lab.address("other-x", family)))
        stream = stack.enter_context(streaming(lab, "web-x", "other-t", 6))
        yield
        stream.goes_on()


def is_dropped(lab: SystemLab, host: str, port: int) -> bool:
    """Say whether what an endpoint of a host sends to a port is dropped."""
    return drops(lab, (f"web-{host}", f"web-{OTHER[host]}"), 6, port)


def is_clean(lab: SystemLab, host: str) -> bool:
    """Say whether one build of each function is pinned, perhaps with the one before, and nothing is to be done."""
    builds = [list(folder.iterdir()) for folder in function_pins(lab, host)]
    return all(1 <= len(found) <= 2 for found in builds) and lab.plan(host) == ()


def test_replacing_configuring_and_removing_functions_under_traffic_loses_no_packet(lab):
    """Programs change, then configurations, then both; what a document says acts once it is realized."""
    states = [(0, 0), (1, 0), (0, 0), (0, 1), (0, 0), (1, 1), None, (1, 0), None]
    with traffic(lab):
        for state in states:
            for host in HOSTS:
                put(lab, host, DOCUMENT, *changing(state[0], PORTS[state[1]]) if state else ())
            for host in HOSTS:
                dropped = [is_dropped(lab, host, port) for port in PORTS]
                assert dropped == [state is not None and number == state[1] for number in range(2)]
    for host in HOSTS:
        assert function_pins(lab, host) == []
        assert lab.plan(host) == ()


def test_a_function_keeps_its_counters_and_sees_traffic_after_a_change_of_its_program(lab):
    with unbroken_flow(lab, "web-x", "web-t"):
        for host in HOSTS:
            put(lab, host, DOCUMENT, *changing(0, PORTS[0]))
        for version in (1, 0):
            for host in HOSTS:
                before = {point: counted(lab, host, f"at-{point}") for point in POINTS}
                put(lab, host, DOCUMENT, *changing(version, PORTS[0]))
                for point in POINTS:
                    grown = grows_to(lab, host, f"at-{point}", before[point], went_on=20)
                    assert (grown.dropped, grown.faults) == (0, 0)
    for host in HOSTS:
        put(lab, host, DOCUMENT)


CHANGES = ((0, 0), (1, 0), (1, 1), None)
"""Published while the agent is killed: a load, a new program, a configuration, a removal."""


def test_an_agent_killed_at_any_moment_of_a_change_ends_in_the_state_of_its_documents(lab):
    """On both hosts at once, at random moments; neither the other tenant loses a packet nor this one."""
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")
    moments = random.Random(seed)
    with ExitStack() as stack:
        for family in FAMILIES:
            stack.enter_context(unbroken_flow(lab, "shop-x", "shop-t", family))
            stack.enter_context(unbroken_flow(lab, "web-t", "web-x", family))
        for state in CHANGES:
            body = body_of(*changing(state[0], PORTS[state[1]])) if state else None
            revisions = {host: lab.publish(host, DOCUMENT, body) for host in HOSTS}
            for host in moments.sample(HOSTS, 2):
                time.sleep(moments.uniform(0, 0.3))
                lab.kill_agent(host)
            for host in HOSTS:
                lab.lab.start_agent(host)
            for host in HOSTS:
                lab.wait_in_sync(host)
                assert answer(lab, host, DOCUMENT, revisions[host]).state is State.REALIZED
                until(lambda host=host: is_clean(lab, host), f"{host} with one build of each function")
            for host in HOSTS:
                dropped = [is_dropped(lab, host, port) for port in PORTS]
                assert dropped == [state is not None and number == state[1] for number in range(2)]


def test_at_a_slot_that_is_empty_on_fault_decides_until_the_program_is_back(lab):
    """The agent is dead meanwhile, as it would repair the slot."""
    for on_fault, host in ((on_fault, host) for on_fault in ("open", "closed") for host in HOSTS):
        one = function(
            "filter", "from_endpoint", VERSIONS[0], vpc="red", configuration=port_bytes(1), on_fault=on_fault
        )
        put(lab, host, DOCUMENT, one)
        (record,) = [one for one in records(lab, host) if one.id == "filter"]
        lab.kill_agent(host)
        index = U32.pack((record.point - 1) * STAGE_SLOTS + record.slot)
        for name in STAGE_ARRAYS.values():
            if (lab.pins(host) / "maps" / name).exists():
                with lab.map(host, name) as slots:
                    bpf.delete(slots, index)
        ends = f"web-{host}", f"web-{OTHER[host]}"
        if on_fault == "open":
            assert not drops(lab, ends, 6, PORTS[0])
        else:
            assert is_dropped_as_no_program(lab, host, ends)
        lab.lab.start_agent(host)
        lab.wait_in_sync(host)
        assert not drops(lab, ends, 6, PORTS[0])
        put(lab, host, DOCUMENT)


def no_program(lab: SystemLab, host: str) -> int:
    """Return how many packets of a host ended as no_program, without its agent."""
    with lab.map(host, MapName.OUTCOMES) as outcomes:
        values = bpf.lookup_percpu(outcomes, U32.pack(Outcome.NO_PROGRAM), TRAFFIC.size)
    return sum(TRAFFIC.unpack(value)[0] for value in values)


def is_dropped_as_no_program(lab: SystemLab, host: str, ends: tuple[str, str]) -> bool:
    """Say whether a datagram that an endpoint of a host sends is dropped at an empty slot."""
    before = no_program(lab, host)
    own, to = (lab.address(one, 6) for one in ends)
    with datagrams() as sockets:
        sender, receiver = (sockets.socket(lab.inside(end), ip, 7500) for end, ip in zip(ends, (own, to), strict=True))
        sender.sendto(b"dropped?", (to, 7500))
        until(lambda: no_program(lab, host) > before, "a packet that ended as no_program")
        return nothing_heard(receiver)


FAILS = source(at_port("return 0;"), "/* returns no verdict for what comes to its port */")


def test_a_new_version_that_fails_is_rolled_back_and_told_also_after_a_restart(lab):
    host, id_ = "x", "at-from_endpoint"
    fails = function(id_, "from_endpoint", FAILS, vpc="red", configuration=port_bytes(PORTS[1]))
    put(lab, host, DOCUMENT, changing(0, PORTS[0])[0])
    put(lab, host, DOCUMENT, fails)
    assert not is_dropped(lab, host, PORTS[0]), "the new version runs"
    for _ in range(MOST_FAULTS + 1):
        assert not is_dropped(lab, host, PORTS[1])
    until(lambda: is_dropped(lab, host, PORTS[0]), "the version before again")
    told = until(lambda: failed(lab, host), "the document told as failed")
    assert "rolled back" in told.failures[0].message
    counters = codec.decode(lab.ask(host, "counters"), Counters)
    (shown,) = [one for one in counters.functions if one.function == id_]
    assert shown.rolled_back == told.revision
    assert any(one.kind == "function_rolled_back" for one in lab.status(host).faults)
    lab.restart_agent(host)
    lab.wait_in_sync(host)
    assert is_dropped(lab, host, PORTS[0])
    assert lab.plan(host) == ()
    put(lab, host, DOCUMENT, fails)
    assert not is_dropped(lab, host, PORTS[0]), "a newer revision is tried again"
    put(lab, host, DOCUMENT)


def failed(lab: SystemLab, host: str) -> Acknowledgement | None:
    """Return the document's acknowledgement if it is failed."""
    newest = lab.newest(host, DOCUMENT)
    return newest if newest is not None and newest.state is State.FAILED else None


def test_an_uninstall_removes_the_pins_of_functions(lab):
    """And the next start of the agent brings all of it back."""
    host = "x"
    put(lab, host, DOCUMENT, *changing(0, PORTS[0]))
    assert len(function_pins(lab, host)) == len(POINTS)
    lab.lab.stop_agent(host)
    assert len(function_pins(lab, host)) == len(POINTS), "an agent that stops leaves its functions"
    assert is_dropped(lab, host, PORTS[0])
    command = [agent_program(), "--config", str(lab.lab.paths.settings(host)), "--uninstall"]
    done = run_in(lab.names.droplet(host), command)
    assert done.returncode == 0, done.stderr
    assert not lab.lab.paths.pins(host).exists()
    lab.restart_agent(host)
    until(lambda: is_dropped(lab, host, PORTS[0]), "the function again")
    put(lab, host, DOCUMENT)
