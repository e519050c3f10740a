"""The demo of functions: users' programs and processes in the path of packets, with their counters while they run.

It runs the examples of docs/function-examples.md as they are, from the folder `examples/functions`.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import itertools
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from nats.aio.client import Client
from rich.console import Console
from rich.live import Live
from rich.table import Table

from controller_sim.cli import screen
from controller_sim.control.bus import ask as ask_host
from controller_sim.control.bus import connected
from controller_sim.lab import processes
from controller_sim.lab.lab import Lab, beside
from controller_sim.lab.namespaces import run_coroutine_in, run_in
from controller_sim.lab.nats_server import CONTROLLER
from controller_sim.talk.questions import Burst, ask, send_broken_question, send_spoofed
from protocol import codec
from protocol.status import Counters, FunctionTraffic, Status

FOLDER = Path(__file__).parents[2] / "examples" / "functions"
TOPOLOGY = FOLDER / "lab.yaml"
USER = "nobody"
FAMILIES = (4, 6)
TELNET, WEB, REMOTE_DESKTOP = 23, 80, 3389
BURST, SPOOFED = 40, 5
STRANGER = {4: "10.0.1.99", 6: "fd10:0:0:1::99"}
"""Addresses that no endpoint has."""
NAME, UNKNOWN = "db.shop", "nothing.shop"
RECORDS = {4: "10.0.1.20", 6: "fd10:0:0:1::20"}
REWRITTEN = {4: "10.0.1.30", 6: "fd10:0:0:1::30"}
KINDS = {4: "A", 6: "AAAA"}
PATIENCE = 20.0
"""Seconds after which what should have happened counts as failed."""
LOOK = 0.2
"""Seconds between two looks at the counters."""
Found = Mapping[tuple[str, str], FunctionTraffic]
"""The counters by host and function."""


class FunctionDemo:
    """Runs the steps and gathers what failed."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.failures: list[str] = []

    def check(self, right: bool, what: str) -> None:
        """Remember a claim that did not hold."""
        if not right:
            self.failures.append(what)

    def run(self) -> None:
        """Show everything."""
        screen.heading("1. port_filter.c: a program filters and counts by port what web-2 receives")
        self.filter_ports({TELNET: 0, WEB: BURST, REMOTE_DESKTOP: BURST}, f"Port {TELNET} is blocked.")
        self.configure()
        self.filter_ports(
            {TELNET: BURST, WEB: BURST, REMOTE_DESKTOP: 0},
            f"The running program follows its new configuration: port {REMOTE_DESKTOP} is blocked instead.",
        )
        self.show_maps()
        screen.heading("2. mirror.py: a process sees what is dropped for one reason, a spoofed source")
        self.mirror()
        screen.heading("3. dns.py: a process answers DNS as an endpoint that has no interface")
        self.answer()
        screen.heading("4. rewrite.py: a process rewrites the DNS answers that web-1 receives")
        self.rewrite()

    # What is asked and watched

    def counters(self) -> Found:
        """Return the counters of all functions, as the hosts say now."""
        access, hosts = self.lab.access(), self.lab.topology().hosts

        async def one(client: Client, host: str) -> list[tuple[tuple[str, str], FunctionTraffic]]:
            found = codec.decode(await ask_host(client, host, "counters"), Counters)
            return [((host, traffic.function), traffic) for traffic in found.functions]

        async def work() -> Found:
            async with connected(access) as client:
                answers = await asyncio.gather(*(one(client, host) for host in hosts))
                return dict(itertools.chain(*answers))

        return run_coroutine_in(self.lab.names.fabric, work)

    def watch(self, key: tuple[str, str], act: Callable[[], None], done: Callable[[FunctionTraffic], bool]) -> None:
        """Show a function's counters while something is sent, until they are `done`; a failed claim if they never are.

        `done` gets by how much they have grown.
        """
        before = self.counters()[key]
        with concurrent.futures.ThreadPoolExecutor(1) as pool, _live() as live:
            acting = pool.submit(act)
            deadline = time.monotonic() + PATIENCE
            while True:
                finished = acting.done()
                now = self.counters()[key]
                live.update(_counter_table(key[0], now), refresh=True)
                ended = finished and done(_grown(before, now))
                if ended or time.monotonic() > deadline:
                    break
                time.sleep(LOOK)
            self.check(ended, f"{key[1]} on {key[0]} counted {_grown(before, now)}")
            acting.result()
        screen.console.print(_counter_table(key[0], now))

    def dropletctl(self, *words: str, seed: bool = False) -> str:
        """Run dropletctl, with the controller's nkey if it is to publish, and return what it prints."""
        key = ["--nkey-seed-file", str(self.lab.paths.server.seed(CONTROLLER))] if seed else []
        command = [beside("dropletctl"), "--config", str(self.lab.paths.control), *key, *words]
        screen.console.print(f"[dim]$ dropletctl {' '.join(words)}[/]", highlight=False)
        done = run_in(self.lab.names.fabric, ["env", f"COLUMNS={screen.console.width}", *command])
        self.check(done.returncode == 0, f"dropletctl {' '.join(words)}: {done.stderr.strip()}")
        return done.stdout

    def start(self, host: str, example: str, *arguments: str) -> None:
        """Start an example as a process without privileges, and wait until packets reach it."""
        socket = self.lab.paths.functions(host) / f"{example}.sock"
        command = [sys.executable, str(FOLDER / f"{example}.py"), *arguments]
        line = f"{example}.py {' '.join(arguments)}".strip()
        screen.console.print(f"On {host}, as user {USER} and without any privilege:")
        screen.console.print(f"[dim]$ python {line}[/]", highlight=False)
        self._wait(socket.exists, f"the socket {socket}")
        command = ["env", f"DROPLET_FUNCTION_SOCKET={socket}", *_unprivileged(), *command]
        log = self.lab.paths.log(example)
        processes.start(self.lab.names.droplet(host), command, log)
        self._wait(lambda: example in served(self.lab, host), f"a process for {example}", log)

    def _wait(self, condition: Callable[[], bool], what: str, log: Path | None = None) -> None:
        """Wait for a condition; what does not come is a failed claim, with the end of a log."""
        deadline = time.monotonic() + PATIENCE
        while not condition():
            if time.monotonic() > deadline:
                self.check(False, f"{what} did not come. {processes.tail(log, 5) if log else ''}".strip())
                return
            time.sleep(LOOK / 2)

    # The steps

    def filter_ports(self, wanted: Mapping[int, int], line: str) -> None:
        """Send datagrams to some ports and show which arrive."""
        screen.console.print(f"{line} web-1 sends {BURST} datagrams to each port, in both families.", highlight=False)
        ends = self.lab.names.endpoint("web-1"), self.lab.names.endpoint("web-2")
        bursts = {
            family: Burst(self.lab.address("web-1", family), self.lab.address("web-2", family), tuple(wanted), BURST)
            for family in FAMILIES
        }
        blocked = sum(not arrives for arrives in wanted.values()) * BURST * len(FAMILIES)

        def send() -> None:
            for burst in bursts.values():
                burst.send(*ends)

        self.watch(("h2", "port-filter"), send, lambda grown: grown.dropped == blocked)
        table = screen.new_table("port", "sent", "arrived, IPv4", "arrived, IPv6", right=("port", "sent"))
        for port, arrives in wanted.items():
            found = [bursts[family].arrived.get(port, 0) for family in FAMILIES]
            table.add_row(str(port), str(BURST), *(str(one) for one in found))
            self.check(found == [arrives] * len(FAMILIES), f"port {port}: {found} arrived, and not {arrives} each")
        screen.console.print(table)

    def configure(self) -> None:
        """Replace the configuration of the running program."""
        said = self.dropletctl(
            *("function", "port-filter", "replace", "--host", "h2", "--hex", f"{REMOTE_DESKTOP:04x}"), seed=True
        )
        self.check(said.endswith(": realized\n"), f"the new configuration: {said}")
        screen.console.print(said.strip(), highlight=False)

    def show_maps(self) -> None:
        """Show what the program counted in its own map."""
        said = self.dropletctl("function", "port-filter", "maps", "packets", "--host", "h2")
        counted = {tuple(line.split()) for line in said.splitlines()}
        for port in (TELNET, WEB, REMOTE_DESKTOP):
            row = (str(port), str(2 * BURST * len(FAMILIES)))
            self.check(row in counted, f"the program counted something else than {row[1]} packets to port {port}")
        screen.console.print(said.strip(), highlight=False)

    def mirror(self) -> None:
        """Send spoofed datagrams and show what the process prints of them."""
        self.start("h1", "mirror")
        screen.console.print(f"web-1 sends {SPOOFED} datagrams from each of two addresses that it does not have.")
        namespace = self.lab.names.endpoint("web-1")

        def send() -> None:
            for family in FAMILIES:
                send_spoofed(namespace, STRANGER[family], self.lab.address("web-2", family), WEB, SPOOFED)

        self.watch(("h1", "mirror"), send, lambda grown: grown.received.packets >= SPOOFED * len(FAMILIES))
        log = self.lab.paths.log("mirror")
        self._wait(lambda: len(_lines(log)) >= SPOOFED * len(FAMILIES), "a line for each dropped packet", log)
        for family in FAMILIES:
            lines = [line for line in _lines(log) if f" {STRANGER[family]} " in line]
            right = [line for line in lines if " source_address VNI 1001: UDP " in line]
            self.check(len(right) == SPOOFED, f"{len(right)} right lines of {SPOOFED} for {STRANGER[family]}")
            screen.console.print(*lines[:1], f"... {len(lines)} lines like this", sep="\n", highlight=False)

    def answer(self) -> None:
        """Ask the function endpoint questions, and show its answers."""
        self.start("h2", "dns", *(f"{NAME}={address}" for address in RECORDS.values()))
        self.ask("web-2", RECORDS)
        namespace, family = self.lab.names.endpoint("web-2"), FAMILIES[0]
        own, server = self.lab.address("web-2", family), self.lab.address("dns", family)
        screen.console.print("What is no question is dropped, and counted under the function's reason 1.")
        self.watch(
            ("h2", "dns"), lambda: send_broken_question(namespace, own, server), lambda grown: grown.dropped == 1
        )

    def rewrite(self) -> None:
        """Ask the same questions from an endpoint whose answers are rewritten."""
        pairs = (f"{RECORDS[family]}={REWRITTEN[family]}" for family in FAMILIES)
        self.start("h1", "rewrite", *pairs)
        self.watch(("h1", "rewrite"), lambda: self.ask("web-1", REWRITTEN), lambda grown: grown.went_on > 0)

    def ask(self, client: str, wanted: Mapping[int, str]) -> None:
        """Ask for a name's addresses and for a name that does not exist, in both families, and show the answers."""
        table = screen.new_table("client", "server", "question", "answer")
        namespace = self.lab.names.endpoint(client)
        for family in FAMILIES:
            server, own = self.lab.address("dns", family), self.lab.address(client, family)
            questions = [(NAME, KINDS[one], address) for one, address in wanted.items()]
            for name, kind, right in (*questions, (UNKNOWN, "A", "no such name")):
                said = ask(namespace, own, server, name, kind)
                self.check(said == right, f"{client} asked {server} for {name} {kind}: {said}, and not {right}")
                table.add_row(client, server, f"{name} {kind}", said)
        screen.console.print(table)


def served(lab: Lab, host: str) -> set[str]:
    """Return the functions of a host whose packets reach a process."""
    access = lab.access()

    async def work() -> Status:
        async with connected(access) as client:
            return codec.decode(await ask_host(client, host, "status"), Status)

    return {one.function for one in run_coroutine_in(lab.names.fabric, work).processes}


def _grown(before: FunctionTraffic, now: FunctionTraffic) -> FunctionTraffic:
    """Return counters less what they were before; other fields are as they are now."""
    names = ("went_on", "dropped", "sent_back", "sent_to", "handed_over", "faults")
    less = {name: getattr(now, name) - getattr(before, name) for name in names}
    packets = now.received.packets - before.received.packets
    length = now.received.bytes - before.received.bytes
    received = type(now.received)(packets, length)
    return type(now)(now.function, now.point, received, **less)


def _counter_table(host: str, now: FunctionTraffic) -> Table:
    numbers = ("received", "went on", "dropped", "sent", "faults")
    table = screen.new_table("function", "host", "point", *numbers, right=numbers)
    counts = (now.received.packets, now.went_on, now.dropped, now.sent_back + now.sent_to, now.faults)
    table.add_row(now.function, host, now.point, *(f"{count:,}" for count in counts))
    return table


def _live() -> Live:
    """Return what shows a table while its numbers change, on a terminal only; it is gone at the end."""
    shown = screen.console if screen.console.is_terminal else Console(quiet=True)
    return Live(console=shown, auto_refresh=False, transient=True)


def _lines(log: Path) -> list[str]:
    return log.read_text(errors="replace").splitlines() if log.exists() else []


def _unprivileged() -> Iterable[str]:
    """Return what runs a command as nobody, without any capability."""
    keep = ("--bounding-set=-all", "--inh-caps=-all", "--no-new-privs")
    return ["setpriv", f"--reuid={USER}", "--clear-groups", *keep]


def unreadable() -> str:
    """Return why nobody cannot run the examples from here, empty if it can."""
    check = [*_unprivileged(), sys.executable, "-c", "import droplet_functions"]
    done = subprocess.run(check, capture_output=True, text=True, check=False, cwd=FOLDER)
    if done.returncode == 0:
        return ""
    return (
        f"user {USER} cannot run {sys.executable} with droplet_functions: make the folder readable for all, or "
        f"use a copy that is ({done.stderr.strip().splitlines()[-1]})"
    )
