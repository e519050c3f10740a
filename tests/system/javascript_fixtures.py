"""One host for a controller in JavaScript: a namespace with a droplet's interface, nats-server, and an agent."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from controller_sim.control.bus import Access
from controller_sim.lab import nats_server, processes
from controller_sim.lab.lab import agent_program
from controller_sim.lab.namespaces import entered, run_in
from controller_sim.lab.nats_server import CONTROLLER, ServerFiles
from controller_sim.lab.state import BPFFS

HOST = "h1"
ADDRESS, PORT = "192.0.2.1", 4222
JAVASCRIPT = Path(__file__).parents[1] / "javascript"
NODE = Path(sys.executable).parent / "node"


class ControllerError(Exception):
    """What the controller's command ended with; the text is that of the JavaScript error."""


class JavaScriptController:
    """The controller as a process of its own, which reads one command per line."""

    def __init__(self, namespace: str, access: Access, trace: Path) -> None:
        options = {
            "server": access.server,
            "authority": str(access.authority),
            "seed": str(access.seed),
            "host": HOST,
        }
        with trace.open("wb") as errors:
            self._process = subprocess.Popen(
                entered(namespace, [str(NODE), str(JAVASCRIPT / "main.mjs"), json.dumps(options)]),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        self._trace = trace

    def do(self, method: str, *arguments: Any) -> Any:
        """Have a method of the controller called; return its value, or raise ControllerError."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([method, *arguments]) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, f"the controller ended: {self._trace.read_text()}"
        answer = json.loads(line)
        if "error" in answer:
            raise ControllerError(answer["error"])
        return answer["value"]

    def settle(self, document: str, objects: dict[str, Any], *states: str) -> dict[str, Any]:
        """Publish a document and wait until its revision is realized, or in one of other states."""
        revision = self.do("publish", document, objects)
        answer = self.do("answer", document, revision, list(states or ("realized",)))
        assert answer["revision"] == revision
        return dict(answer)

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(20)
        if self._process.stdout is not None:
            self._process.stdout.close()
        said = self._trace.read_text()
        assert (self._process.returncode, said) == (0, ""), said


class OneHost:
    """The namespaces, and what runs in the host's."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.instance = f"js-{os.getpid()}"
        self.namespace = f"{self.instance}-host"
        self.files = ServerFiles(folder / "nats")
        self.controller: JavaScriptController

    def access(self, user: str = CONTROLLER) -> Access:
        return Access(f"tls://127.0.0.1:{PORT}", self.files.seed(user), self.files.authority)

    def inside(self, endpoint: str) -> str:
        """Return the name of an endpoint's namespace."""
        return f"{self.instance}-{endpoint}"

    def settings(self) -> Path:
        file = self.folder / "agent.toml"
        cache = os.environ.get("DROPLET_LAB_CACHE", f"{self.folder}/cache")
        reach = self.access(HOST)
        publisher = nats_server.public_key(self.files.seed(CONTROLLER).read_bytes())
        file.write_text(
            f'host = "{HOST}"\ninstance = "{self.instance}"\ninterfaces = ["eth0"]\n'
            f'state = "{self.folder}/state"\ncache = "{cache}"\n'
            f'[bus]\nservers = ["{reach.server}"]\nnkey_seed_file = "{reach.seed}"\ntls_ca_file = "{reach.authority}"\n'
            f'trusted_publishers = ["{publisher}"]\n'
            f"[interval]\nheartbeat = 0.5\ntelemetry = 0.5\nobserve = 5.0\n"
        )
        return file

    def start(self, name: str, command: list[str], stack: ExitStack) -> None:
        process = processes.start(self.namespace, command, self.folder / f"{name}.log")
        stack.callback(processes.stop, process)

    def log(self) -> str:
        return processes.tail(self.folder / "agent.log", 60)


@contextmanager
def namespace(name: str, *commands: str) -> Iterator[None]:
    """Make a network namespace with a loopback interface that is up, and remove it afterwards."""
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        for command in ("link set lo up", *commands):
            subprocess.run(["ip", "-n", name, *command.split()], check=True)
        yield
    finally:
        subprocess.run(["ip", "netns", "delete", name], check=True)


@contextmanager
def one_host(folder: Path, *endpoints: str) -> Iterator[OneHost]:
    """Bring up server, controller and agent; the controller prepares the bus, the agent finds it prepared."""
    host = OneHost(folder)
    wires = (
        "link add name eth0 type veth peer name wire",
        f"address add {ADDRESS}/24 dev eth0",
        "address add 2001:db8::1/64 dev eth0 nodad",
        "link set eth0 up",
        "link set wire up",
    )
    with ExitStack() as stack:
        stack.enter_context(namespace(host.namespace, *wires))
        for endpoint in endpoints:
            stack.enter_context(namespace(host.inside(endpoint)))
        stack.callback(shutil.rmtree, BPFFS / "droplet" / host.instance, ignore_errors=True)
        nats_server.configure(host.files, ("127.0.0.1",), PORT, [HOST])
        host.start("nats", nats_server.command(host.files), stack)
        assert nats_server.wait_until_listening(host.namespace, "127.0.0.1", PORT)
        host.controller = JavaScriptController(host.namespace, host.access(), folder / "controller.log")
        stack.callback(host.controller.close)
        host.controller.do("prepare")
        host.start("agent", [agent_program(), "--config", str(host.settings())], stack)
        try:
            yield host
        except BaseException:
            print(host.log())
            raise


def answers_pings(source: str, address: str) -> bool:
    """Say whether an address answers from inside a namespace."""
    with contextlib.suppress(ValueError):
        return run_in(source, ["ping", "-n", "-q", "-c", "1", "-W", "1", address]).returncode == 0
    return False
