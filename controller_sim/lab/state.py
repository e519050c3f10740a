"""What a lab remembers between commands: its files under /run/droplet-lab/<name>, and one JSON file of state."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import msgspec

from controller_sim.control.bus import Access
from controller_sim.lab.nats_server import CONTROLLER, OPERATOR, ServerFiles, in_url, public_key
from controller_sim.lab.processes import Process
from controller_sim.lab.underlay import Names
from controller_sim.topology.file import parse_topology
from controller_sim.topology.ipam import Assignment
from controller_sim.topology.model import Topology

ROOT = Path("/run/droplet-lab")
BPFFS = Path("/sys/fs/bpf")
NATS_PORT = 4222
DEFAULT_LAB = "lab"
_NAME = re.compile(r"^(?=.{1,20}$)[a-z0-9]+(-[a-z0-9]+)*$")


class LabError(RuntimeError):
    """A lab cannot do what a command asked for; the text is for its user."""


def command_of(lab: str) -> str:
    """Return how to call `droplet-lab` for a lab, as messages show it."""
    return "droplet-lab" if lab == DEFAULT_LAB else f"droplet-lab --name {lab}"


class State(msgspec.Struct):
    """What is written down. `agents` and `server` hold what was started last, whether it still runs or not.

    `files` are those that the topology names, as they were when it was read.
    `namespaces` holds those that the lab has created or is about to create: `down` removes them and no others.
    """

    topology: str
    assignments: dict[str, Assignment] = {}
    agents: dict[str, Process] = {}
    server: Process | None = None
    namespaces: list[str] = []
    files: dict[str, bytes] = {}

    def parsed(self, source: str) -> Topology:
        """Return the topology with the files that it names; TopologyError when it is none."""
        return parse_topology(self.topology, source, self.files.__getitem__)


@dataclass(frozen=True, slots=True)
class Paths:
    """Where a lab's files are."""

    lab: str

    def __post_init__(self) -> None:
        if not _NAME.match(self.lab):
            raise LabError(
                f"{self.lab!r} is not a valid name of a lab: use letters, digits and single dashes, at most 20"
            )

    @property
    def directory(self) -> Path:
        """The lab's own directory."""
        return ROOT / self.lab

    @property
    def state(self) -> Path:
        """The state's file; it exists from the first step of `up` to the last of `down`."""
        return self.directory / "state.json"

    @property
    def server(self) -> ServerFiles:
        """The NATS server's files."""
        return ServerFiles(self.directory / "nats")

    @property
    def control(self) -> Path:
        """The settings of dropletctl for this lab."""
        return self.directory / "dropletctl.toml"

    @property
    def names(self) -> Names:
        """The names of the lab's namespaces."""
        return Names(self.lab)

    def settings(self, host: str) -> Path:
        """Return the settings file of a host's agent."""
        return self.directory / "agents" / f"{host}.toml"

    def log(self, who: str) -> Path:
        """Return the log of a host's agent, or of `nats`."""
        return self.directory / "logs" / f"{who}.log"

    def functions(self, host: str) -> Path:
        """Return the folder of a host's sockets for functions in processes."""
        return self.directory / "functions" / host

    def instance(self, host: str) -> str:
        """Return the agent's instance name, which keeps its pins apart from those of others.

        A lab's name has no two dashes in a row, so that no two labs can make the same name.
        """
        return f"{self.lab}--{host}"

    def pins(self, host: str) -> Path:
        """Return the directory of a host's pins in bpffs."""
        return BPFFS / "droplet" / self.instance(host)

    def load(self) -> State:
        """Return the state; LabError when there is no such lab."""
        command = command_of(self.lab)
        try:
            return msgspec.json.decode(self.state.read_bytes(), type=State)
        except FileNotFoundError:
            raise LabError(f"there is no lab {self.lab}: start one with `{command} up TOPOLOGY.yaml`") from None
        except msgspec.DecodeError as error:
            raise LabError(f"{self.state} is damaged ({error}): remove the lab with `{command} down`") from None

    def save(self, state: State) -> None:
        """Write the state, whole or not at all."""
        new = self.state.with_suffix(".new")
        new.touch(mode=0o600)
        new.write_bytes(msgspec.json.format(msgspec.json.encode(state)))
        new.replace(self.state)


def access(paths: Paths, topology: Topology, user: str = CONTROLLER) -> Access:
    """Return how to reach the lab's server as one of its users."""
    address = topology.server_for(user) if user in topology.hosts else topology.underlay.server
    server = f"tls://{in_url(address)}:{NATS_PORT}"
    return Access(server, paths.server.seed(user), paths.server.authority)


def agent_settings(paths: Paths, topology: Topology, host: str) -> str:
    """Return the TOML of a host's agent."""
    reach = access(paths, topology, host)
    own = paths.directory / "hosts" / host
    cache = os.environ.get("DROPLET_LAB_CACHE", str(paths.directory / "cache"))
    return f"""host = "{host}"
instance = "{paths.instance(host)}"
{interface_settings(topology.interfaces_of(host))}
attach_mode = "{topology.agents.attach_mode}"
endpoint_hook = "{topology.endpoint_hook_of(host)}"
uplink_hook = "{topology.uplink_hook_of(host)}"
state = "{own}"
cache = "{cache}"
bpffs = "{BPFFS}"

{data_plane_settings(topology)}
{function_settings(topology, paths.functions(host))}
{bus_settings(reach)}trusted_publishers = ["{public_key(paths.server.seed(CONTROLLER).read_bytes())}"]

[log]
format = "human"
level = "info"

[interval]
heartbeat = 1.0
observe = 5.0
telemetry = 5.0
"""


def interface_settings(interfaces: list[str]) -> str:
    """Return the line of an agent's settings that names the interfaces on which it works."""
    return f"interfaces = {_toml(interfaces)}"


def data_plane_settings(topology: Topology) -> str:
    """Return the [data_plane] table of an agent's settings, nothing where the topology says nothing of it."""
    lines = [f"{key} = {_toml(value)}" for key, value in topology.agents.data_plane]
    return "\n".join(["[data_plane]", *lines, ""]) if lines else ""


def function_settings(topology: Topology, sockets: Path) -> str:
    """Return the [functions] table of an agent's settings, nothing where the topology says nothing of it."""
    settings = topology.agents.functions
    lines = [f"{key} = {_toml(value)}" for key, value in asdict(settings).items() if value]
    return "\n".join(["[functions]", f'sockets = "{sockets}"', *lines, ""]) if lines else ""


def _toml(value: int | str | Sequence[str]) -> str:
    return json.dumps(value if isinstance(value, int | str) else list(value))


def bus_settings(reach: Access) -> str:
    """Return the [bus] table of an agent's or dropletctl's settings."""
    return f"""[bus]
servers = ["{reach.server}"]
nkey_seed_file = "{reach.seed}"
tls_ca_file = "{reach.authority}"
"""


def control_settings(paths: Paths, topology: Topology) -> str:
    """Return the TOML of dropletctl."""
    return f"""# dropletctl --config {paths.control} status
netns = "{paths.names.fabric}"

{bus_settings(access(paths, topology, OPERATOR))}"""


def existing_labs() -> list[str]:
    """Return the names of the labs that are up, or half down."""
    if not ROOT.is_dir():
        return []
    return sorted(entry.name for entry in ROOT.iterdir() if entry.is_dir())
