"""The lab: several hosts on one machine, from a topology to running agents and back to nothing.

Defines the order of the steps. Each method can be called from a new process: its data is in the lab's state file.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterable
from ipaddress import ip_address
from pathlib import Path

from controller_sim.control.bus import Access
from controller_sim.control.compiler import Documents, compile_documents
from controller_sim.lab import nats_server, processes, underlay, vxlan_peers
from controller_sim.lab.interrupts import uninterrupted
from controller_sim.lab.naming import unknown_endpoint, unknown_host
from controller_sim.lab.state import (
    DEFAULT_LAB,
    NATS_PORT,
    LabError,
    Paths,
    State,
    access,
    agent_settings,
    command_of,
    control_settings,
)
from controller_sim.topology.file import TopologyError, files_in, parse_topology
from controller_sim.topology.ipam import allocate
from controller_sim.topology.model import Topology
from controller_sim.topology.placement import Placement, place

Say = Callable[[str], None]
PASSABLE = 0o711
"""The mode of folders on the way to the sockets of functions in processes, which other users reach by their path."""
INTERRUPTED = "interrupted: taking the lab down"


class Lab:
    """One lab by its name. `say` is called with a line for every step."""

    def __init__(self, name: str = DEFAULT_LAB, say: Say = lambda _: None) -> None:
        self.name = name
        self.paths = Paths(name)
        self.names = self.paths.names
        self.say = say

    # What it is made of

    def topology(self) -> Topology:
        """Return the topology that is in force."""
        return self.paths.load().parsed(f"lab {self.name}")

    def placement(self) -> Placement:
        """Return the bouncers and dividers."""
        return place(self.topology())

    def addresses(self, endpoint: str) -> tuple[str, ...]:
        """Return an endpoint's overlay addresses, one of each family; LabError when there is no such endpoint."""
        assignments = self.paths.load().assignments
        if endpoint not in assignments:
            raise LabError(unknown_endpoint(self.topology(), endpoint))
        return assignments[endpoint].addresses

    def address(self, endpoint: str, family: int | None = None) -> str:
        """Return an endpoint's overlay address of a family (4 or 6), the first where none is wanted."""
        addresses = self.addresses(endpoint)
        found = [one for one in addresses if family in (None, ip_address(one).version)]
        if not found:
            raise LabError(f"{endpoint} has no IPv{family} address, only {', '.join(addresses)}")
        return found[0]

    def access(self) -> Access:
        """Return how the controller reaches the bus (from inside the fabric's namespace)."""
        return access(self.paths, self.topology())

    def documents(self) -> Documents:
        """Return the documents of every host."""
        topology = self.topology()
        return compile_documents(topology, self.paths.load().assignments, place(topology), self.names.endpoint)

    # Up

    def up(self, text: str, source: str = "topology", folder: Path | None = None) -> None:
        """Build everything but the documents: namespaces, server, agents; on failure take it down again.

        `folder` has the files that the topology names. Raises TopologyError, LabError or UnderlayError.
        """
        topology = _parsed(text, source, folder)
        if os.geteuid() != 0:
            raise LabError("droplet-lab needs root: it makes network namespaces and loads BPF programs")
        if self.exists:
            raise LabError(f"lab {self.name} exists already: take it down, or choose another --name")
        self._check_unused(self.names.of(topology))
        try:
            self._build(topology, text)
        except BaseException as error:
            self.abandon(error)
            raise

    def _build(self, topology: Topology, text: str) -> None:
        assignments = allocate(topology)
        self._make_directories()
        self.paths.save(State(text, assignments, namespaces=self.names.of(topology), files=topology.files))
        self.say(f"underlay {', '.join(topology.underlay.cidrs)}, {len(topology.droplets)} droplets")
        underlay.build(self.names, topology)
        self.add_endpoint_namespaces(topology)
        vxlan_peers.build(self.names, topology, assignments)
        nats_server.configure(self.paths.server, topology.underlay.servers, NATS_PORT, topology.hosts)
        nats_server.write_private(self.paths.control, control_settings(self.paths, topology).encode())
        for host in topology.hosts:
            nats_server.write_private(self.paths.settings(host), agent_settings(self.paths, topology, host).encode())
        self.start_server()

    def _check_unused(self, namespaces: Iterable[str]) -> None:
        """Raise LabError if one of the namespaces that are to be created exists: `down` would remove it."""
        taken = sorted(underlay.existing_namespaces().intersection(namespaces))
        if taken:
            raise LabError(
                f"this lab did not create the network namespace {taken[0]}, whose name it needs: remove it with "
                f"`ip netns delete {taken[0]}`, or choose another --name"
            )

    def _make_directories(self) -> None:
        """Make the lab's directories, also while another lab that goes down removes the empty one for all labs."""
        while not self.paths.directory.exists():
            with contextlib.suppress(FileNotFoundError):
                self.paths.directory.mkdir(parents=True, mode=PASSABLE)
        (self.paths.directory / "functions").mkdir(mode=PASSABLE)
        for directory in ("logs", "agents", "hosts", "cache"):
            (self.paths.directory / directory).mkdir(mode=0o700)

    def add_endpoint_namespaces(self, topology: Topology) -> None:
        """Make the namespaces of all endpoints that have none yet."""
        for endpoint in topology.attached:
            underlay.add_endpoint(self.names, endpoint)

    def adopt(self, text: str, source: str = "topology", folder: Path | None = None) -> Topology:
        """Take another topology as the one in force; its endpoints get namespaces. Nothing is published yet.

        TopologyError when it is none, LabError when it changes droplets or the underlay, which are wires.
        """
        topology = _parsed(text, source, folder)
        state = self.paths.load()
        before = self.topology()
        if _wires(topology) != _wires(before):
            command = command_of(self.name)
            raise LabError(
                "a running lab cannot change its droplets, underlay or agents: take it down and build it again "
                f"(`{command} down`, `{command} up TOPOLOGY.yaml`)"
            )
        assignments = allocate(topology, state.assignments)
        if vxlan_peers.plan(topology, assignments) != vxlan_peers.plan(before, state.assignments):
            raise LabError(
                "a running lab cannot change endpoints on VXLAN peers, or their networks: take it down first"
            )
        own = self._namespaces()
        new = [name for name in self.names.of(topology) if name not in own]
        self._check_unused(new)
        state.namespaces = [*own, *new]
        self.paths.save(state)  # before they are created: an `apply` that is killed leaves nothing that `down` misses
        self.add_endpoint_namespaces(topology)
        state.assignments = assignments
        state.topology, state.files = text, topology.files
        self.paths.save(state)
        return topology

    def remove_endpoint_namespaces(self) -> list[str]:
        """Remove the namespaces of endpoints that are no more; return the endpoints' names."""
        start = self.names.endpoint("")
        state, wanted = self.paths.load(), self.names.of(self.topology())
        gone = [name for name in state.namespaces if name not in wanted]
        for namespace in gone:
            self._end_processes_in(namespace)
            underlay.remove(namespace)
        state.namespaces = [name for name in state.namespaces if name in wanted]
        self.paths.save(state)
        return [namespace.removeprefix(start) for namespace in gone]

    # The server

    def start_server(self) -> None:
        """Start the NATS server and wait until it answers; no error when it runs."""
        state, topology = self.paths.load(), self.topology()
        if self.server_runs():
            return
        command = nats_server.command(self.paths.server)
        state.server = processes.start(self.names.fabric, command, self.paths.log("nats"))
        self.paths.save(state)
        if not nats_server.wait_until_listening(self.names.fabric, topology.underlay.server, NATS_PORT):
            raise LabError(
                f"nats-server does not answer; the end of its log:\n{processes.tail(self.paths.log('nats'))}"
            )
        self.say(f"nats-server {nats_server.in_url(topology.underlay.server)}:{NATS_PORT}")

    def stop_server(self, number: int = signal.SIGTERM) -> None:
        """End the server; SIGKILL as `number` is a crash."""
        server = self.paths.load().server
        if server is not None:
            processes.stop(server, number)

    def server_runs(self) -> bool:
        """Say whether the server runs."""
        server = self.paths.load().server
        return server is not None and processes.is_alive(server)

    # The agents

    def start_agent(self, host: str) -> None:
        """Start a host's agent; no error when it runs."""
        self.check_host(host)
        state = self.paths.load()
        if host in state.agents and processes.is_alive(state.agents[host]):
            return
        command = [agent_program(), "--config", str(self.paths.settings(host))]
        state.agents[host] = processes.start(self.names.droplet(host), command, self.paths.log(host))
        self.paths.save(state)

    def stop_agent(self, host: str, number: int = signal.SIGTERM) -> bool:
        """End a host's agent; return whether it ended by that signal, not by a second one."""
        self.check_host(host)
        process = self.paths.load().agents.get(host)
        return process is None or processes.stop(process, number)

    def agent_runs(self, host: str) -> bool:
        """Say whether a host's agent runs."""
        process = self.paths.load().agents.get(host)
        return process is not None and processes.is_alive(process)

    def ended_agents(self) -> dict[str, str]:
        """Return the agents that were started and run no more, each with the end of its log."""
        state = self.paths.load()
        return {
            host: processes.tail(self.paths.log(host))
            for host, process in state.agents.items()
            if not processes.is_alive(process)
        }

    def check_host(self, host: str) -> None:
        """Raise LabError if there is no host with an agent of this name."""
        topology = self.topology()
        if host not in topology.hosts:
            raise LabError(unknown_host(topology, host))

    # Down

    @property
    def exists(self) -> bool:
        """Whether there is a lab of this name: it has a directory from the first step of `up` to the last of `down`."""
        return self.paths.directory.exists()

    def abandon(self, reason: BaseException) -> None:
        """Take the lab down because of what was raised; a second Ctrl-C does not end this."""
        with uninterrupted():
            self.say("taking the lab down again" if isinstance(reason, Exception) else INTERRUPTED)
            self.down()

    def down(self) -> None:
        """Remove everything that the lab created, as far as it is there: processes, namespaces, pins, files."""
        if not self.exists:
            return
        with contextlib.suppress(LabError):
            state = self.paths.load()
            for process in state.agents.values():
                self._signal(process)
            for process in (*state.agents.values(), *([state.server] if state.server else [])):
                processes.stop(process, signal.SIGTERM, 5)
        namespaces = self._namespaces()
        for namespace in namespaces:
            self._end_processes_in(namespace)
        for namespace in namespaces:
            underlay.remove(namespace)
        self._remove_pins()
        shutil.rmtree(self.paths.directory, ignore_errors=True)
        with contextlib.suppress(OSError):
            self.paths.directory.parent.rmdir()

    def _namespaces(self) -> list[str]:
        """Return the namespaces that the lab created: the recorded ones, and those of its topology.

        Without a readable state, those that have the names of a lab's namespaces.
        """
        try:
            recorded = self.paths.load().namespaces
            return list(dict.fromkeys([*recorded, *self.names.of(self.topology())]))
        except TopologyError:  # the file was read by an earlier version, which accepted it
            return recorded or self.names.existing()
        except LabError:
            return self.names.existing()

    def _signal(self, process: processes.Process) -> None:
        """Tell all agents at once, so that they end at the same time."""
        if processes.is_alive(process):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGTERM)

    def _end_processes_in(self, namespace: str) -> None:
        for pid in underlay.pids_in(namespace):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _remove_pins(self) -> None:
        """Remove this lab's pins by the names of its hosts, known by the settings that were written for them."""
        for settings in (self.paths.directory / "agents").glob("*.toml"):
            shutil.rmtree(self.paths.pins(settings.stem), ignore_errors=True)
        with contextlib.suppress(OSError):
            self.paths.pins("any").parent.rmdir()


def _parsed(text: str, source: str, folder: Path | None) -> Topology:
    return parse_topology(text, source) if folder is None else parse_topology(text, source, files_in(folder))


def _wires(topology: Topology) -> tuple[object, ...]:
    return topology.droplets, topology.underlay, topology.agents


def agent_program() -> str:
    """Return the path of droplet-agent: that of `DROPLET_LAB_AGENT`, beside this Python, or the one on PATH."""
    return os.environ.get("DROPLET_LAB_AGENT") or beside("droplet-agent")


def beside(program: str) -> str:
    """Return a program of this project's, installed beside this Python, or the one on PATH."""
    path = Path(sys.executable).parent / program
    return str(path) if path.exists() else program
