"""droplet-lab: the lab's command line. Owns arguments, exit codes and what is printed."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.markup import escape

from agent import __version__
from controller_sim.cli import screen
from controller_sim.cli.lifecycle import bring_up, publish, why_not
from controller_sim.cli.parameters import pass_lab, timeout_option, topology_argument
from controller_sim.cli.publish import keys_command, publish_command
from controller_sim.cli.replay import replay_command
from controller_sim.cli.talk import ping_command, transfer_command
from controller_sim.control.bus import BusError
from controller_sim.lab.controller import prepare, read_status, wait_for_answers
from controller_sim.lab.lab import Lab, beside
from controller_sim.lab.namespaces import entered
from controller_sim.lab.naming import namespace_of
from controller_sim.lab.state import DEFAULT_LAB, LabError, existing_labs
from controller_sim.lab.underlay import UnderlayError
from controller_sim.topology.file import TopologyError

EPILOG = """\b
A first round:
  droplet-lab up controller_sim/topologies/four_hosts.yaml
  droplet-lab status
  droplet-lab ping web-1 web-2
  droplet-lab test
  droplet-lab ctl -- get endpoints
  droplet-lab down
"""


INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells use it."""


class Commands(click.Group):
    """Turns what the lab raises into one message and exit code 1."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            sys.exit(INTERRUPTED)
        except TopologyError as error:
            count = len(error.mistakes)
            mistakes = "1 mistake" if count == 1 else f"{count} mistakes"
            raise click.ClickException(f"the topology has {mistakes}:\n{error}") from None
        except (LabError, UnderlayError, BusError, OSError, ValueError) as error:
            raise click.ClickException(str(error)) from None


@click.group(cls=Commands, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="droplet-lab")
@click.option(
    "--name",
    default=DEFAULT_LAB,
    show_default=True,
    envvar="DROPLET_LAB_NAME",
    help="The lab's name; several labs can be up.",
)
@click.pass_context
def main(ctx: click.Context, name: str) -> None:
    """Several droplets on this machine: real agents, a real nats-server, a simulated controller.

    Each host and each endpoint is a network namespace; the underlay's bridge is in another one. The lab creates
    nothing in the root namespace. Its state is under /run/droplet-lab/NAME until `down`.
    """
    # asyncio logs a warning for every TLS connection that the client library closes first; it is harmless.
    logging.getLogger("asyncio").setLevel(logging.ERROR)
    ctx.obj = Lab(name, say=lambda text: Console(stderr=True).print(f"[dim]{escape(text)}[/]", highlight=False))


@main.command()
@topology_argument
@timeout_option
@pass_lab
def up(lab: Lab, topology: Path, timeout: float) -> None:
    """Build a lab from TOPOLOGY, a YAML file.

    Waits until every host has realized its documents.

    If a step fails, or on Ctrl-C, the lab is taken down again and the reason is shown.
    """
    report = bring_up(lab, topology.read_text(encoding="utf-8"), str(topology), timeout, topology.parent)
    screen.console.print(screen.report_table(report))


@main.command()
@topology_argument
@timeout_option
@pass_lab
def apply(lab: Lab, topology: Path, timeout: float) -> None:
    """Change the lab to TOPOLOGY.

    Publishes only the documents that differ, and waits until they are realized.

    Endpoints, networks, VPCs and roles can be added, removed and moved; droplets cannot be changed. An endpoint
    that moves to another host keeps its namespace, name, MAC and addresses, and with them its connections.
    """
    lab.adopt(topology.read_text(encoding="utf-8"), str(topology), topology.parent)
    prepare(lab)
    report, progress = publish(lab, timeout)
    lab.remove_endpoint_namespaces()
    click.echo(screen.published_text(progress, sum(map(len, lab.documents().values()))))
    for moved in report.moves:
        screen.console.print(str(moved), highlight=False, soft_wrap=True)
    screen.console.print(screen.report_table(report))
    if not report.converged:
        raise LabError(why_not(lab, report))


@main.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@pass_lab
def status(lab: Lab, as_json: bool) -> None:
    """Show the state of processes, hosts and documents.

    Exit code 1 if there is a problem; the first lines list the problems, the most important first.
    """
    found = read_status(lab)
    if as_json:
        click.echo(json.dumps(screen.status_data(lab, found), indent=2))
    else:
        screen.print_reasons(found.reasons)
        screen.console.print(screen.status_table(lab, found))
        screen.print_problems(found.report)
    if found.reasons:
        sys.exit(1)


@main.command("exec", context_settings={"ignore_unknown_options": True})
@click.argument("endpoint")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@pass_lab
def exec_(lab: Lab, endpoint: str, command: tuple[str, ...]) -> None:
    """Run COMMAND in the network namespace of ENDPOINT.

    ENDPOINT may also be a host, as droplet:HOST, or the router, as router, where there are several subnets.

    For example: droplet-lab exec web-1 -- ping -c 3 10.0.1.3
    """
    namespace = namespace_of(lab.topology(), lab.names, endpoint)
    argv = entered(namespace, list(command))
    os.execvp(argv[0], argv)  # noqa: S606 - a command line of the user's own


ENDED = {"stop": "stopped", "kill": "killed"}


@main.command("agent")
@click.argument("what", type=click.Choice(["stop", "start", "kill"]))
@click.argument("host")
@pass_lab
def agent_(lab: Lab, what: str, host: str) -> None:
    """Stop, kill or start the agent of HOST.

    Stop sends SIGTERM, kill SIGKILL. Forwarding continues without the agent.
    """
    lab.check_host(host)
    ran = lab.agent_runs(host)
    if what == "start":
        lab.start_agent(host)
        began = "is already running" if ran else "is started"
        if lab.server_runs():
            click.echo(f"the agent of {host} {began}: {wait_for_answers(lab, [host])[host].state}")
        else:
            click.echo(f"the agent of {host} {began}; its state is unknown while nats-server is stopped")
        return
    clean = lab.stop_agent(host, signal.SIGTERM if what == "stop" else signal.SIGKILL)
    if not clean:
        raise LabError(f"the agent of {host} did not exit after SIGTERM and was killed")
    click.echo(f"the agent of {host} is {ENDED[what]}" if ran else f"the agent of {host} was not running")


@main.command("nats")
@click.argument("what", type=click.Choice(["stop", "start", "kill"]))
@pass_lab
def nats_(lab: Lab, what: str) -> None:
    """Stop, kill or start the lab's nats-server."""
    ran = lab.server_runs()
    if what == "start":
        lab.start_server()
        hosts = [host for host in lab.topology().hosts if lab.agent_runs(host)]
        wait_for_answers(lab, hosts)
        click.echo(f"nats-server {'is already running' if ran else 'is started'}; agents that answer: {len(hosts)}")
    else:
        lab.stop_server(signal.SIGTERM if what == "stop" else signal.SIGKILL)
        click.echo(f"nats-server is {ENDED[what]}" if ran else "nats-server was not running")


@main.command()
@click.argument("host")
@click.option("-f", "--follow", is_flag=True, help="Follow the log until Ctrl-C.")
@pass_lab
def logs(lab: Lab, host: str, follow: bool) -> None:
    """Print the log of HOST's agent, or of `nats`."""
    path = lab.paths.log(host)
    lab.paths.load()
    if not path.exists():
        raise LabError(f"there is no log of {host}; there are logs of {', '.join(lab.topology().hosts)} and nats")
    with path.open("rb") as file:
        while True:
            sys.stdout.buffer.write(file.read())
            sys.stdout.flush()
            if not follow:
                return
            time.sleep(0.2)


@main.command(context_settings={"ignore_unknown_options": True})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@pass_lab
def ctl(lab: Lab, arguments: tuple[str, ...]) -> None:
    """Run dropletctl against this lab.

    For example: droplet-lab ctl -- get endpoints -o yaml
    """
    lab.paths.load()
    command = [beside("dropletctl"), "--config", str(lab.paths.control), *arguments]
    argv = entered(lab.names.fabric, command)
    os.execvp(argv[0], argv)  # noqa: S606 - a command line of the user's own


@main.command("test")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@pass_lab
def test_(lab: Lab, as_json: bool) -> None:
    """Check reachability between all endpoints.

    Every endpoint sends to every other by UDP, TCP and ping. Those in the same VPC must answer, the others must not.
    Exit code 1 if a check fails.
    """
    from controller_sim.talk.reachability import check_all

    found = check_all(lab)
    if as_json:
        click.echo(json.dumps(found.as_data(), indent=2))
    else:
        screen.console.print(screen.reachability_table(found))
        for line in found.lines:
            screen.console.print(f"[red]{escape(line)}[/]", highlight=False, soft_wrap=True)
    failed = [f"{name}: {reason}" for name, reason in found.broken.items()]
    if found.failures:
        failed.append(f"{len(found.failures)} of {found.count} checks failed")
    if failed:
        raise LabError("\n".join(failed))


@main.command()
@pass_lab
def down(lab: Lab) -> None:
    """Take the lab down, and remove everything that it created.

    Processes, namespaces, pins and files. It is no error if there is no such lab.
    """
    there = lab.exists
    lab.down()
    click.echo(f"lab {lab.name} is down; everything is removed" if there else f"there is no lab {lab.name}")


@main.command("list")
def list_() -> None:
    """List the labs that are up."""
    for name in existing_labs():
        click.echo(name)


@main.command()
@click.argument("topic", required=False, type=click.Choice(["functions"]), metavar="[functions]")
@click.option("--keep", is_flag=True, envvar="KEEP", help="Leave the lab up, and suggest commands to try (KEEP=1).")
@pass_lab
def demo(lab: Lab, topic: str | None, keep: bool) -> None:
    """Show the main features in under a minute.

    Four droplets, two tenants, first packets, direct paths, isolation, a move; then the lab is taken down.

    With `functions`: a program that filters by port, and processes that mirror drops, answer DNS and rewrite answers.
    """
    from controller_sim.cli.demo import run_demo, run_function_demo

    if not (run_function_demo if topic else run_demo)(lab, keep=keep):
        sys.exit(1)


main.add_command(keys_command)
main.add_command(ping_command)
main.add_command(publish_command)
main.add_command(replay_command)
main.add_command(transfer_command)
