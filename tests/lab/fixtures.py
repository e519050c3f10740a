"""A lab under test: real agents, a real nats-server, the controller's queries, and the state of the kernel."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import threading
from collections.abc import Callable, Coroutine, Iterator
from importlib import resources
from ipaddress import ip_address
from pathlib import Path
from typing import Any, TypeVar

from nats.aio.client import Client
from nats.aio.msg import Msg

from agent.core.model.map_layout import LAYOUT_VERSION, MapName, mapped
from agent.datapath.bpf import syscall as bpf
from agent.datapath.bpf.maps import Map
from controller_sim.control.bus import BusError, ask, connected, read_stream
from controller_sim.control.publisher import Change, publish
from controller_sim.lab.controller import converge, prepare
from controller_sim.lab.lab import Lab
from controller_sim.lab.namespaces import run_coroutine_in, run_in
from controller_sim.lab.underlay import ports_of
from lab.balance import check_balance, check_crossing, taken_unsent
from lab.lab_topology import LabTopology
from lab.waiting import PATIENCE, until
from protocol import codec, streams, subjects
from protocol.acknowledgements import Acknowledgement, State
from protocol.rpc import PathReply, PathRequest, PlanReply
from protocol.status import AgentState, Counters, Event, Probes, Status

INTERVALS = {"heartbeat": 0.5, "observe": 1.0, "telemetry": 2.0, "retry": 0.5}
"""Seconds. A look at the kernel is most of what an idle agent does: 1.7 % of a CPU for each time in a second."""
STARTING = 3 * PATIENCE
"""Seconds until all documents of a new lab count as never realized: its agents may compile programs first."""
T = TypeVar("T")


def topology_text(name: str) -> str:
    """Return one of the topologies that come with the lab."""
    return resources.files("controller_sim").joinpath(f"topologies/{name}.yaml").read_text(encoding="utf-8")


class SystemLab(LabTopology):
    """A lab whose agents send heartbeats and retry twice a second, and look at the kernel once."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(Lab(f"{name}-{os.getpid()}"), text)
        self.handmade = 0
        """Tunnel packets that no program counts as sent: those that a test sent by itself from a host's namespace."""
        self.lossy = ""
        """Why what was sent need not have arrived, such as a wire that was cut; empty where all of it must have."""

    def up(self, wires: Callable[[SystemLab], None] = lambda _: None) -> None:
        """Build it, do something to its `wires`, and wait until all documents are realized and all next hops known."""
        self.build()
        try:
            wires(self)
            prepare(self.lab)
            for host in self.hosts:
                self.lab.start_agent(host)
            report = converge(self.lab, timeout=STARTING)
            assert report.converged, report.problems
            for host in self.hosts:
                self.wait_in_sync(host)
                self.wait_for_next_hops(host)
            self.handmade = taken_unsent(self)  # a probe may have come before the document that names its sender
            assert self.handmade >= 0, self.all_counters()
        except BaseException:
            self.print_logs()
            self.lab.down()
            raise

    @contextlib.contextmanager
    def counting_anew(self) -> Iterator[None]:
        """Hold that nothing is lost before a block in which counters begin anew, and count from its end on.

        The counters of that host until then are lost, and need not have balanced.
        """
        check_crossing(self)
        yield
        for host in self.hosts:
            self.wait_in_sync(host)
        self.handmade += taken_unsent(self)

    def build(self) -> None:
        """Make namespaces and server; no streams, no agents."""
        self.lab.up(self.text)
        for host in self.hosts:
            self.set_intervals(host, INTERVALS)

    def set_intervals(self, host: str, intervals: dict[str, float]) -> None:
        file = self.lab.paths.settings(host)
        head = file.read_text().partition("[interval]")[0]
        lines = "".join(f"{key} = {value}\n" for key, value in intervals.items())
        file.write_text(f"{head}[interval]\n{lines}")

    def down(self) -> None:
        self.lab.down()

    def print_logs(self) -> None:
        for log in sorted((self.lab.paths.directory / "logs").glob("*.log")):
            print(f"--- {log.name}\n{log.read_text(errors='replace')[-3000:]}")

    # The bus, as the controller sees it

    def with_client(self, work: Callable[[Client], Coroutine[Any, Any, T]]) -> T:
        """Do something with a connection of the controller's."""
        access = self.lab.access()

        async def connect_and_work() -> T:
            async with connected(access) as client:
                return await work(client)

        return run_coroutine_in(self.names.fabric, connect_and_work)

    def ask(self, host: str, verb: str, body: bytes = b"") -> bytes:
        return self.with_client(lambda client: ask(client, host, verb, body, patience=10.0))

    def status(self, host: str) -> Status:
        return codec.decode(self.ask(host, "status"), Status)

    def plan(self, host: str) -> tuple[str, ...]:
        """Return what a comparison with the kernel would change now."""
        return codec.decode(self.ask(host, "plan"), PlanReply).actions

    def path(self, source: str, destination: str, family: int | None = None) -> PathReply:
        """Return the path that an endpoint's packet would take now."""
        request = codec.encode(PathRequest(source, self.address(destination, family)))
        return codec.decode(self.ask(self.host_of(source), "path", request), PathReply)

    def counters(self, host: str) -> dict[str, int]:
        """Return packets by outcome."""
        found = codec.decode(self.ask(host, "counters"), Counters)
        return {name: traffic.packets for name, traffic in found.outcomes.items()}

    def lost(self, host: str) -> dict[tuple[str, str], int]:
        """Return the frames that the kernel dropped after a program's verdict, by reason and uplink or endpoint."""
        found = codec.decode(self.ask(host, "counters"), Counters)
        assert found.lost_unknown == "", "this kernel can count them"
        return {(one.reason, one.interface): one.frames for one in found.lost}

    def probes(self, host: str) -> Probes:
        """Return what a host's agent has probed, and which ICMP errors it heard."""
        return codec.decode(self.ask(host, "counters"), Counters).probes

    def all_counters(self) -> dict[str, dict[str, int]]:
        return {host: self.counters(host) for host in self.hosts}

    def publish(self, host: str, document: str, body: bytes | None) -> int:
        """Publish one body (None removes the document) and return its revision."""
        return self.with_client(lambda client: publish(client, [Change(host, document, body)]))[0].revision

    def newest(self, host: str, document: str) -> Acknowledgement | None:
        """Return the newest acknowledgement of a document."""
        subject = subjects.ack(host, document)
        stored = self.with_client(lambda client: read_stream(client, streams.ACK_STREAM, subject))
        return codec.decode(stored[-1].body, Acknowledgement) if stored else None

    def answer(self, host: str, document: str, revision: int, state: State) -> Acknowledgement:
        """Wait until a revision of a document is in a state, and return the acknowledgement."""
        seen: list[Acknowledgement | None] = [None]

        def look() -> Acknowledgement | None:
            seen[0] = self.newest(host, document)
            right = seen[0] and seen[0].revision == revision and seen[0].state is state
            return seen[0] if right else None

        try:
            found = until(look, "the acknowledgement")
        except AssertionError:
            raise AssertionError(f"revision {revision} of {document} is not {state} but {seen[0]}") from None
        assert found is not None
        return found

    def publish_and_wait(self, host: str, document: str, body: bytes | None, state: State) -> Acknowledgement:
        return self.answer(host, document, self.publish(host, document, body), state)

    def body(self, host: str, document: str) -> bytes:
        """Return what the controller publishes for a document by itself."""
        return codec.encode(self.lab.documents()[host][document])

    @contextlib.contextmanager
    def listening(self, subject: str) -> Iterator[list[Msg]]:
        """Gather all messages on a subject during a block."""
        heard: list[Msg] = []
        ready, stop = threading.Event(), threading.Event()

        async def keep(message: Msg) -> None:
            heard.append(message)

        async def work(client: Client) -> None:
            await client.subscribe(subject, cb=keep)
            await client.flush()
            ready.set()
            await asyncio.to_thread(stop.wait)

        thread = threading.Thread(target=lambda: self.with_client(work), name="listener")
        thread.start()
        try:
            assert ready.wait(PATIENCE), "the listener got no connection"
            yield heard
        finally:
            stop.set()
            thread.join()

    @contextlib.contextmanager
    def events(self, host: str, kind: str) -> Iterator[Callable[[], list[Event]]]:
        """Gather a host's events of one kind during a block."""
        with self.listening(subjects.event(host, kind)) as heard:
            yield lambda: [codec.decode(message.data, Event) for message in heard]

    # Agents

    def in_sync(self, host: str) -> Status | None:
        """Return a host's status when it is in sync and knows every next hop, else None."""
        try:
            status = self.status(host)
        except BusError:
            return None
        settled = status.state in (AgentState.IN_SYNC, AgentState.DEGRADED)
        return status if settled and not status.unresolved_next_hops else None

    def wait_in_sync(self, host: str) -> Status:
        found = until(lambda: self.in_sync(host), f"{host} in sync")
        assert found is not None
        return found

    def pid(self, host: str) -> int:
        return self.lab.paths.load().agents[host].pid

    def kill_agent(self, host: str) -> None:
        self.lab.stop_agent(host, signal.SIGKILL)
        assert not self.lab.agent_runs(host)

    def restart_agent(self, host: str) -> Status:
        """Start an agent and wait until it is in sync."""
        self.lab.start_agent(host)
        status = self.wait_in_sync(host)
        self.wait_for_next_hops(host)
        return status

    def wait_for_next_hops(self, host: str) -> None:
        """Wait until the kernel has resolved every droplet's next hop: documents may be realized before that."""
        droplets = self.topology.droplets.values()
        versions = {ip_address(one.address).version for one in droplets if one.host == host}
        others = [ip_address(one.address) for one in droplets if one.host != host]
        wanted = {mapped(address.packed) for address in others if address.version in versions}
        until(lambda: {key[:16] for key in self.entries(host, "next_hops")} >= wanted, f"{host}'s next hops")

    # The kernel

    def ip(self, namespace: str, *arguments: str) -> str:
        """Run ip(8) in a namespace; it must succeed."""
        done = run_in(namespace, ["ip", *arguments])
        assert done.returncode == 0, done.stderr
        return done.stdout

    def links(self, namespace: str) -> dict[str, tuple[int, int, int, int]]:
        """Return ifindex, the other end's ifindex, MTU and the attached program's id by interface."""
        return {
            link["ifname"]: (
                link["ifindex"],
                link.get("link_index", 0),
                link["mtu"],
                link.get("xdp", {}).get("prog", {}).get("id", 0),
            )
            for link in json.loads(self.ip(namespace, "-j", "-d", "link", "show"))
        }

    def host_links(self, host: str) -> dict[str, tuple[int, int, int, int]]:
        return self.links(self.names.droplet(host))

    def ports(self) -> dict[tuple[str, str], str]:
        """Return the fabric's end of every wire by host and interface."""
        return ports_of(self.topology)

    def host_side(self, endpoint: str) -> str:
        """Return the name of the host's side of an endpoint's pair."""
        other = self.links(self.inside(endpoint))["eth0"][1]
        found = [name for name, link in self.host_links(self.host_of(endpoint)).items() if link[0] == other]
        return found[0]

    def pins(self, host: str) -> Path:
        return self.lab.paths.pins(host) / f"v{LAYOUT_VERSION}"

    @contextlib.contextmanager
    def map(self, host: str, name: str) -> Iterator[int]:
        """Open one of an agent's maps by its pin."""
        descriptor = bpf.open_pin(self.pins(host) / "maps" / name)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def entries(self, host: str, name: str) -> dict[bytes, bytes]:
        with self.map(host, name) as descriptor:
            return Map(MapName(name), descriptor).dump()

    def made(self, host: str) -> dict[str, Any]:
        """Return the identity of everything that an agent made: map ids, program ids, interfaces at both ends."""
        maps = {}
        for pin in sorted((self.pins(host) / "maps").iterdir()):
            with self.map(host, pin.name) as descriptor:
                maps[pin.name] = bpf.map_info(descriptor).id
        local = [name for name in self.endpoints if self.host_of(name) == host]
        return {
            "maps": maps,
            "programs": sorted(str(path) for path in (self.pins(host) / "programs").glob("*/*")),
            "links": self.host_links(host),
            "endpoints": {name: self.links(self.inside(name)) for name in local},
        }


def leftovers(name: str) -> list[str]:
    """Return everything that is still there of a lab: namespaces, pins, files, processes."""
    found = [f"namespace {path.name}" for path in Path("/run/netns").glob(f"{name}_*")]
    found += [f"pins {path}" for path in Path("/sys/fs/bpf/droplet").glob(f"{name}-*")]
    found += [f"files {path}" for path in [Path("/run/droplet-lab") / name] if path.exists()]
    mark = re.compile(rf"/run/droplet-lab/{re.escape(name)}/".encode())
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if mark.search((process / "cmdline").read_bytes()):
                found.append(f"process {process.name}")
    return found


@contextlib.contextmanager
def running_lab(
    name: str, text: str, *, lossy: str = "", wires: Callable[[SystemLab], None] = lambda _: None
) -> Iterator[SystemLab]:
    """Have a lab for the time of a block; nothing of it may be left afterwards.

    At the end every host's counters balance, and all that was sent between droplets has also arrived, unless the lab is
    `lossy`, which says why. `wires` is called when the underlay is built and no agent runs yet.
    """
    lab = SystemLab(name, text)
    lab.lossy = lossy
    lab.up(wires)
    try:
        yield lab
        for host in lab.hosts:
            lab.lab.start_agent(host)
            lab.wait_in_sync(host)
        check_balance(lab.lab)
        if not lab.lossy:
            check_crossing(lab)
    finally:
        lab.down()
        assert leftovers(lab.lab.name) == []
