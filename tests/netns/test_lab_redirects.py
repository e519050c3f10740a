"""Uplinks that take no redirected frames: what programs forward must leave all the same, and nothing be lost silently.

h1's uplink is a macvlan and h2's a bridge, whose drivers have no ndo_xdp_xmit. h3's is a veth whose other end has
neither GRO nor XDP, so that native redirects into it are dropped. Endpoints run XDP: what tc sends arrives there.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from lab.fixtures import SystemLab, running_lab
from lab.traffic import exchange_all, ping, unbroken_flow
from lab.underlays import over
from lab.waiting import until

from controller_sim.control.bus import BusError
from controller_sim.lab.controller import converge, prepare
from controller_sim.lab.namespaces import run_in
from controller_sim.lab.processes import tail
from controller_sim.lab.underlay import _address_lines, _server_routes, batch
from protocol.status import Fault

FAMILIES = (4, 6)
TEXT = """\
agents: {endpoint_hook: xdp}
droplets:
  h1: {address: 172.18.0.11/24}
  h2: {address: 172.18.0.12/24}
  h3: {address: 172.18.0.13/24}
vpcs:
  - {name: red, vni: 1001, cidr: [10.0.0.0/16, "fd10::/48"], dividers: [h3]}
networks:
  - {name: web, vpc: red, cidr: [10.0.1.0/24, "fd10:0:0:1::/64"], bouncers: [h3]}
endpoints:
  - {name: web-1, network: web, droplet: h1}
  - {name: web-2, network: web, droplet: h2}
  - {name: web-3, network: web, droplet: h3}
"""
MACVLAN = "link add link wire0 name eth0 type macvlan mode bridge"
BRIDGE = "link add name eth0 type bridge stp_state 0 forward_delay 0 mcast_snooping 0"


def put_upon(lab: SystemLab, host: str, line: str, *more: str) -> None:
    """Make a host's eth0 the wire below a new eth0, which has the addresses and routes from then on."""
    namespace, underlay = lab.names.droplet(host), lab.topology.underlay
    own = lab.topology.droplets_of(host)
    lab.ip(namespace, "link", "set", "eth0", "down")
    lab.ip(namespace, "link", "set", "eth0", "name", "wire0")
    lab.ip(namespace, "address", "flush", "dev", "wire0")
    addresses = (f"{one.address}/{underlay.prefix_of(one.address)}" for one in own)
    lines = [line, *more, "link set wire0 up", *_address_lines(addresses, "eth0"), "link set eth0 up"]
    batch(namespace, *lines, *_server_routes(underlay, own))


def receive_by_napi(lab: SystemLab, host: str, wanted: str) -> None:
    """Turn GRO on or off at the other end of a host's wire: without it a veth takes no redirected frames."""
    port = lab.ports()[host, "eth0"]
    done = run_in(lab.names.fabric, ["ethtool", "-K", port, "gro", wanted])
    assert done.returncode == 0, done.stderr


def rewire(lab: SystemLab) -> None:
    put_upon(lab, "h1", MACVLAN)
    put_upon(lab, "h2", BRIDGE, "link set wire0 master eth0")
    receive_by_napi(lab, "h3", "off")


def modes(lab: SystemLab, host: str) -> set[str]:
    """Return how programs run on a host's interfaces: `xdp` in the driver, `xdpgeneric` in the stack."""
    links = json.loads(lab.ip(lab.names.droplet(host), "-j", "-d", "link", "show"))
    found = [link["xdp"]["mode"] for link in links if "xdp" in link]
    return {{1: "native", 2: "generic"}[mode] for mode in found}


@pytest.fixture(scope="module", params=["ipv4", "ipv6"])
def unable(request: pytest.FixtureRequest, lab_cache: None) -> Iterator[SystemLab]:
    """Over an underlay of either family."""
    with running_lab("unable", over(request.param, TEXT), wires=rewire) as lab:
        yield lab


def test_programs_run_in_the_stack_where_the_uplink_takes_no_redirects_and_nothing_is_lost(unable):
    """Between all of them in both families, by the bouncer first and directly then."""
    reasons = {
        "h1": "eth0: driver macvlan takes no redirected frames",
        "h2": "eth0: driver bridge takes no redirected frames",
        "h3": "eth0: the other end of this veth has neither GRO nor XDP",
    }
    for host, reason in reasons.items():
        status = unable.status(host)
        assert status.attach_mode == "generic"
        assert status.attach_reason.startswith(reason)
        assert {one.attach_mode for one in status.uplinks} == {"generic"}
        assert modes(unable, host) == {"generic"}, "endpoints' programs too"
    for one, other in unable.pairs():
        with ExitStack() as stack:
            for family in FAMILIES:
                stack.enter_context(unbroken_flow(unable, one, other, family))
            for family in FAMILIES:
                exchange_all(unable, one, other, family, 200_000)
    assert {host: unable.lost(host) for host in unable.hosts} == {host: {} for host in unable.hosts}


@pytest.fixture
def able(lab_cache: None) -> Iterator[SystemLab]:
    """Uplinks that take redirected frames."""
    with running_lab("able", TEXT, lossy="an uplink takes no redirected frames for a moment") as lab:
        yield lab


def test_a_running_host_follows_an_uplink_that_takes_no_redirects_any_more_and_then_does_again(able):
    for wanted, mode in (("off", "generic"), ("on", "native"), ("off", "generic")):
        receive_by_napi(able, "h3", wanted)
        until(lambda mode=mode: modes(able, "h3") == {mode}, f"{mode} mode")
        status = able.status("h3")
        assert (status.attach_mode, bool(status.attach_reason)) == (mode, mode == "generic")
        with ExitStack() as stack:
            for family in FAMILIES:
                stack.enter_context(unbroken_flow(able, "web-3", "web-1", family))
            for family in FAMILIES:
                exchange_all(able, "web-3", "web-1", family, 200_000)


NATIVE = TEXT.replace("endpoint_hook: xdp", "endpoint_hook: xdp, attach_mode: native")


@pytest.fixture
def forced(lab_cache: None) -> Iterator[SystemLab]:
    """A host whose operator wants native mode, whatever it costs; the others are as they should be."""
    with running_lab("forced", NATIVE, lossy="an uplink takes no redirected frames for a while") as lab:
        yield lab


def test_a_mode_that_was_asked_for_and_cannot_work_is_refused_and_never_loses_silently(forced):
    """At a start before anything is attached, and as a fault on a host where it worked until now."""
    receive_by_napi(forced, "h1", "off")
    fault = until(lambda: fault_of(forced, "h1", "redirects_refused"), "the fault")
    assert fault.subject == "eth0"
    assert "the other end of this veth has neither GRO nor XDP" in fault.detail
    assert "ethtool -K <peer> gro on" in fault.remedy
    assert forced.status("h1").state == "degraded"
    send_into_the_void(forced, "web-1", "web-3")
    until(lambda: forced.lost("h1").get(("no_redirects", "eth0")), "the frames that are counted as lost")
    until(lambda: fault_of(forced, "h1", "frames_lost_after_verdict"), "the fault")
    forced.lab.stop_agent("h1")
    forced.lab.start_agent("h1")
    until(lambda: not forced.lab.agent_runs("h1"), "the agent to end")
    refused = tail(forced.lab.paths.log("h1"), 5)
    assert "redirects: eth0: the other end of this veth has neither GRO nor XDP" in refused
    receive_by_napi(forced, "h1", "on")
    forced.restart_agent("h1")
    until(lambda: forced.status("h1").faults == (), "no fault")
    exchange_all(forced, "web-1", "web-3", 4, 100_000)


def fault_of(lab: SystemLab, host: str, kind: str) -> Fault | None:
    """Return the fault of a kind that stands on a host."""
    return next((one for one in lab.status(host).faults if one.kind == kind), None)


def send_into_the_void(lab: SystemLab, source: str, destination: str) -> None:
    """Have an endpoint ask for another one for a while; no answer can come."""
    assert ping(lab, source, lab.address(destination), count=50, wait=1) == 0


def test_a_host_whose_probes_were_never_answered_reports_a_fault_until_one_is(lab_cache):
    """The other hosts are there, and resolve, and no agent runs on them."""
    lab = SystemLab("unanswered", TEXT)
    lab.build()
    try:
        prepare(lab.lab)
        lab.lab.start_agent("h1")
        unanswering(lab)
        (fault,) = until(lambda: faults_of(lab, "h1"), "the fault")
        address = lab.topology.droplets["h1"].address
        assert (fault.kind, fault.subject) == ("no_probe_answered", f"eth0 {address}")
        assert fault.detail.startswith(f"no droplet has ever answered a probe from {address}")
        assert "UDP port 6081" in fault.remedy
        assert lab.status("h1").state in ("starting", "degraded")
        until(lambda: unanswering(lab) == {"h2", "h3"}, "all of h1's acknowledgements")
        lab.lab.start_agent("h3")
        until(lambda: not faults_of(lab, "h1"), "its end")
    finally:
        lab.down()


def unanswering(lab: SystemLab) -> set[str]:
    """Publish what is not published yet, and return the hosts that have not acknowledged every document."""
    return {name for name, host in converge(lab.lab, timeout=0).hosts.items() if host.unacknowledged}


def faults_of(lab: SystemLab, host: str) -> tuple[Fault, ...]:
    """Return a host's faults, none while it does not answer yet."""
    try:
        return lab.status(host).faults
    except BusError:
        return ()
