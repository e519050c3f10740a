"""The demo: the whole thing on this machine in under a minute, with every claim checked as it is shown.

What should work and does not makes it fail; what it shows is asked of the agents and measured in the endpoints'
namespaces, not remembered.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import TypeAlias

from nats.aio.client import Client
from rich.markup import escape
from rich.table import Table

from controller_sim.cli import function_demo, screen
from controller_sim.cli.lifecycle import bring_up
from controller_sim.control.bus import BusError, ask, connected
from controller_sim.lab.controller import converge
from controller_sim.lab.interrupts import uninterrupted
from controller_sim.lab.lab import Lab
from controller_sim.lab.namespaces import run_coroutine_in
from controller_sim.lab.packet_balance import settled_balances
from controller_sim.lab.state import LabError, command_of
from controller_sim.talk.ping import Pinged, ping
from controller_sim.talk.reachability import check_all
from controller_sim.talk.transfer import transfer
from protocol import codec
from protocol.errors import DocumentError
from protocol.rpc import PathReply, PathRequest
from protocol.status import Counters

TOPOLOGY = "four_hosts.yaml"
CONVERSATIONS = (
    ("web-1", "web-2", 4),
    ("web-1", "web-2", 6),
    ("web-1", "web-3", 6),
    ("web-3", "data-2", 4),
    ("data-1", "web-2", 6),
    ("shop-1", "shop-2", 4),
    ("shop-2", "shop-3", 6),
)
"""Another host; the same host; another network, both ways; the other tenant; with the family."""
STEADY = CONVERSATIONS[3]
STREAMS = (("web-1", "web-2", 4), ("web-1", "web-2", 6), ("web-1", "web-3", 4))
MOVE = ("web-2", "droplets: [h1, h2, h1]", "droplets: [h1, h4, h1]")
"""An endpoint, and how the topology's text changes when it goes to another host."""
MOVE_SECONDS = 4.0
STRANGERS = (("shop-1", "data-1"), ("shop-2", "data-2"))
"""A source, and an endpoint of the other tenant whose address no one has in the source's own VPC."""
DETOURS = ("bounced", "handed_to_bouncer", "handed_to_divider")
"""Outcomes of packets that a bouncer or a divider passed on."""
STEADY_PACKETS = 200
BRING_UP_SECONDS = 240.0
"""Seconds to wait for the lab with functions: its agents may compile their programs first."""
Suggestions: TypeAlias = Iterable[tuple[str, str]]
"""Commands of the lab, and what they show."""
KNOWN_BEFORE = (
    "Direct before the first packet: the sender's host is a bouncer of that network, and knows its endpoints."
)


@dataclass(frozen=True, slots=True)
class Conversation:
    """One conversation: the route before its first packet and after, and its round trips."""

    source: str
    destination: str
    family: int
    before: PathReply | None
    after: PathReply | None
    pinged: Pinged

    @property
    def worked(self) -> bool:
        """Whether all packets came back, and the route is now direct."""
        direct = self.after is not None and self.after.route in ("direct", "same_host")
        return direct and self.pinged.answered == self.pinged.sent


class Demo:
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
        screen.heading("Conversations: the first packets go by bouncers and dividers, the others directly")
        talks = [self.converse(*conversation) for conversation in CONVERSATIONS]
        screen.console.print(self.conversation_table(talks))
        if any(talk.before is not None and talk.before.route == "direct" for talk in talks):
            screen.console.print(KNOWN_BEFORE, highlight=False)
        self.steady()
        screen.heading("TCP, one stream, two seconds each, the data compared")
        screen.console.print(self.stream_table())
        screen.heading("An endpoint moves to another host under a TCP transfer")
        self.move()
        screen.heading(
            "All pairs of endpoints by UDP, TCP and ping, IPv4 and IPv6: two tenants with the same addresses"
        )
        self.isolation()
        screen.heading("Every packet that came in ended in exactly one counter")
        self.balance()

    def ask_paths(self, source: str, destination: str, family: int) -> PathReply | None:
        """Ask the source's agent which route a packet would take now."""
        host = self.lab.topology().host_of(source)
        request = codec.encode(PathRequest(source, self.lab.address(destination, family)))
        access = self.lab.access()

        async def work() -> PathReply | None:
            async with connected(access) as client:
                try:
                    return codec.decode(await ask(client, host, "path", request), PathReply)
                except (BusError, DocumentError) as error:
                    self.failures.append(str(error))
                    return None

        return run_coroutine_in(self.lab.names.fabric, work)

    def converse(self, source: str, destination: str, family: int) -> Conversation:
        """Ask for the route, ping, and ask again."""
        before = self.ask_paths(source, destination, family)
        pinged = ping(self.lab.names.endpoint(source), self.lab.address(destination, family), count=10)
        after = self.ask_paths(source, destination, family)
        talk = Conversation(source, destination, family, before, after, pinged)
        self.check(talk.worked, f"{source} to {destination}: {pinged.answered} of {pinged.sent} answered, then {after}")
        return talk

    def conversation_table(self, talks: list[Conversation]) -> Table:
        """Return the conversations, one a row."""
        times = ("first RTT", "later RTT")
        table = screen.new_table(
            "from", "to", "IP", "first path", "later path", *times, right=times, fold=("first path",)
        )
        for talk in talks:
            table.add_row(
                self._place(talk.source),
                self._place(talk.destination),
                str(talk.family),
                self._route(talk.before, talk),
                self._route(talk.after, talk),
                _microseconds(talk.pinged.first),
                _microseconds(talk.pinged.later),
            )
        return table

    def _place(self, endpoint: str) -> str:
        return f"{endpoint} on {self.lab.topology().endpoints[endpoint].droplet}"

    def _route(self, path: PathReply | None, talk: Conversation) -> str:
        """Describe a route; what follows after the first bouncer is known from the placement."""
        if path is None or path.route == "none":
            return f"[red]none: {path.reason if path is not None else 'no answer'}[/]"
        if path.route == "same_host":
            return "[green]same host[/]"
        topology, placement = self.lab.topology(), self.lab.placement()
        names = {droplet.address: name for name, droplet in topology.droplets.items()}
        hosts = "/".join(names.get(host, host) for host in path.hosts)
        if path.route == "direct":
            return f"[green]direct to {hosts}[/]"
        source, destination = topology.endpoints[talk.source].network, topology.endpoints[talk.destination].network
        if source == destination or path.route == "divider":
            return f"{path.route} {hosts}"
        divider = "/".join(placement.dividers[topology.networks[source].vpc])
        return f"bouncer {hosts}, divider {divider}, bouncer {'/'.join(placement.bouncers[destination])}"

    def detours(self) -> int:
        """Return how many packets bouncers and dividers have passed on so far."""
        access, hosts = self.lab.access(), list(self.lab.topology().droplets)

        async def one(client: Client, host: str) -> int:
            counters = codec.decode(await ask(client, host, "counters"), Counters)
            return sum(counters.outcomes[name].packets for name in DETOURS if name in counters.outcomes)

        async def work() -> int:
            async with connected(access) as client:
                return sum(await asyncio.gather(*(one(client, host) for host in hosts)))

        return run_coroutine_in(self.lab.names.fabric, work)

    def steady(self) -> None:
        """Show that bouncers and dividers are out of a conversation that goes on."""
        source, destination, family = STEADY
        namespace, address = self.lab.names.endpoint(source), self.lab.address(destination, family)
        before = self.detours()
        pinged = ping(namespace, address, count=STEADY_PACKETS, interval=0.002)
        by_detour = self.detours() - before
        self.check(
            pinged.answered == STEADY_PACKETS,
            f"{source} to {destination}: {pinged.answered} of {STEADY_PACKETS} answered",
        )
        self.check(by_detour == 0, f"bouncers and dividers passed on {by_detour} packets of a direct conversation")
        screen.console.print(
            f"{STEADY_PACKETS} more round trips from {source} to {destination}: "
            f"bouncers and dividers passed on {by_detour} packets"
        )

    def stream_table(self) -> Table:
        """Return the throughput of some streams."""
        table = screen.new_table("from", "to", "IP", "path", "received", "throughput", "data")
        for source, destination, family in STREAMS:
            names = self.lab.names
            done = transfer(names.endpoint(source), names.endpoint(destination), self.lab.address(destination, family))
            self.check(done.right and done.size > 0, f"TCP from {source} to {destination}: {done}")
            endpoints = self.lab.topology().endpoints
            route = "same host" if endpoints[source].droplet == endpoints[destination].droplet else "two hosts"
            data = "[green]intact[/]" if done.right else "[red]damaged[/]"
            row = (f"{done.size / 1e6:.0f} MB", f"{done.gigabits:.2f} Gbit/s", data)
            table.add_row(source, destination, str(family), route, *row)
        return table

    def move(self) -> None:
        """Show that connections outlive a move: publish the topology with one endpoint elsewhere while data flows."""
        endpoint, old, new = MOVE
        names, text = self.lab.names, self.lab.paths.load().topology
        ends = names.endpoint("web-1"), names.endpoint(endpoint), self.lab.address(endpoint, 6)
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            sending = pool.submit(transfer, *ends, MOVE_SECONDS)
            time.sleep(MOVE_SECONDS / 4)
            self.lab.adopt(text.replace(old, new))
            report = converge(self.lab)
            done = sending.result()
        self.check(report.converged, "; ".join(report.problems))
        for moved in report.moves:
            screen.console.print(str(moved), highlight=False)
        self.check(len(report.moves) == 1, f"{len(report.moves)} endpoints moved")
        self.check(done.right and done.size > 0, f"TCP from web-1 to {endpoint}, which moved: {done}")
        screen.console.print(
            f"TCP over IPv6 from web-1 to {endpoint}: {done.size / 1e6:.0f} MB, data {done.words}; "
            f"nothing arrived for {done.silence * 1e3:.0f} ms",
            highlight=False,
        )

    def isolation(self) -> None:
        """Show the whole matrix, and that a tenant's addresses lead nowhere from another tenant."""
        found = check_all(self.lab)
        screen.console.print(screen.reachability_table(found))
        for line in found.lines:
            self.check(False, line)
        twins = f"{self.lab.address('web-1')} is web-1 for the red tenant and shop-1 for the blue one"
        screen.console.print(f"{twins}: each was answered by its own, and reached no other endpoint.")
        strangers = [(a, b, address) for a, b in STRANGERS for address in self.lab.addresses(b)]
        for source, destination, address in strangers:
            answered = ping(self.lab.names.endpoint(source), address, count=2, wait=0.5).answered
            self.check(answered == 0, f"{source} reaches {destination} of another tenant")
            result = "[green]no answer, as it should be[/]" if answered == 0 else "[red]answered[/]"
            screen.console.print(f"ping from {source} to {destination}'s {address}: {result}", highlight=False)

    def balance(self) -> None:
        """Show that on every host in equals out plus drops."""
        try:
            found = settled_balances(self.lab)
        except (BusError, DocumentError) as error:
            self.failures.append(str(error))
            return
        for host, one in found.items():
            self.check(one.even, f"{host}: {one.came} packets came in, and {one.ended} ended")
        lines = (
            f"{host} {one.came:,}{'' if one.even else f' ([red]{one.ended:,} ended[/])'}" for host, one in found.items()
        )
        screen.console.print(f"In equals out plus drops: {', '.join(lines)} packets", highlight=False)


def _microseconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f} us"


def run_demo(lab: Lab, *, keep: bool) -> bool:
    """Run the demo and return whether everything held; the lab is taken down at the end unless `keep`."""
    text = resources.files("controller_sim").joinpath("topologies", TOPOLOGY).read_text(encoding="utf-8")
    screen.heading("Four droplets, two tenants: real agents, a real nats-server, a simulated controller")
    report = bring_up(lab, text, TOPOLOGY)
    demo = Demo(lab)

    def show() -> None:
        screen.console.print(screen.report_table(report))
        demo.run()

    return conclude(lab, show, demo.failures, _suggestions if keep else None)


def run_function_demo(lab: Lab, *, keep: bool) -> bool:
    """Run the demo of functions and return whether everything held, as `run_demo` does."""
    reason = function_demo.unreadable()
    if reason:
        raise LabError(reason)
    screen.heading("A tenant's functions on two droplets: examples/functions/lab.yaml")
    text = function_demo.TOPOLOGY.read_text(encoding="utf-8")
    bring_up(lab, text, str(function_demo.TOPOLOGY), BRING_UP_SECONDS, function_demo.FOLDER)
    demo = function_demo.FunctionDemo(lab)
    return conclude(lab, demo.run, demo.failures, _function_suggestions if keep else None)


def conclude(
    lab: Lab, show: Callable[[], None], failures: Sequence[str], suggestions: Callable[[Lab], Suggestions] | None
) -> bool:
    """Show something, take the lab down unless there are suggestions what to try in it, and say what failed."""
    try:
        show()
    except BaseException as error:
        lab.abandon(error)
        raise
    if suggestions is not None:
        _print_suggestions(lab, suggestions(lab))
    else:
        with uninterrupted():
            lab.down()
    for failure in failures:
        screen.console.print(f"[red]failed: {escape(failure)}[/]", highlight=False)
    if not failures:
        down = "" if suggestions is not None else " The lab is down; nothing is left."
        screen.console.print(f"\n[green]All checks passed.[/]{down}")
    return not failures


def _suggestions(lab: Lab) -> Suggestions:
    return (
        ("status", "the agents, and what became of their documents"),
        (f"exec web-1 -- ping {lab.address('web-2')}", "leave it running, and meanwhile:"),
        ("agent kill h1", "traffic goes on; `agent start h1` comes back in sync"),
        ("nats kill", "traffic goes on; `nats start`"),
        ("ctl -- get endpoints", "what the hosts have in force"),
        ("logs h1 -f", ""),
        ("test", "everyone to everyone again"),
        ("down", "removes all of it"),
    )


def _function_suggestions(_: Lab) -> Suggestions:
    return (
        ("ctl -- get functions", "all functions, with packets by verdict"),
        ("ctl -- function dns log", "what is installed"),
        ("logs mirror -f", "what the process prints"),
        ("agent kill h2", "programs and processes go on; `agent start h2`"),
        ("down", "removes all of it"),
    )


def _print_suggestions(lab: Lab, suggestions: Suggestions) -> None:
    command = command_of(lab.name)
    screen.console.print("\n[bold]The lab is up. Try (in .venv/bin):[/]", highlight=False)
    for line, what in suggestions:
        screen.console.print(f"  {command} {line:<36} [dim]{what}[/]", highlight=False)
