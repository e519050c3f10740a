"""droplet-lab ping and transfer: one endpoint sends to another, and the result is printed, also after Ctrl-C.

Pairs of endpoints that cannot communicate are rejected before anything is sent.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address

import click

from controller_sim.cli.parameters import Seconds, family_option, pass_lab
from controller_sim.lab.lab import Lab
from controller_sim.lab.naming import no_interface, why_apart
from controller_sim.lab.state import LabError
from controller_sim.talk import datagrams
from controller_sim.talk.ping import MAX_COUNT, SIZES, Pinged, PingInterrupted, ping
from controller_sim.talk.transfer import TransferInterrupted, reason_of, transfer


@dataclass(frozen=True, slots=True)
class _Talk:
    """Two endpoints of one VPC: their namespaces, and their addresses of one family."""

    source: str
    destination: str
    own: str
    address: str


def _talk(lab: Lab, source: str, destination: str, family: int | None, *, to_function: bool = False) -> _Talk:
    """Return what is needed for a conversation; LabError where the two cannot have one.

    Only with `to_function` the destination may be a function endpoint.
    """
    topology = lab.topology()
    for name in (source,) if to_function else (source, destination):
        if name in topology.endpoints and name not in topology.attached:
            raise LabError(no_interface(name))
    lab.addresses(source)
    lab.addresses(destination)
    apart = why_apart(lab.topology(), lab.paths.load().assignments, source, destination, family)
    if apart is not None:
        raise LabError(apart)
    address = lab.address(destination, family)
    own = lab.address(source, ip_address(address).version)
    return _Talk(lab.names.endpoint(source), lab.names.endpoint(destination), own, address)


@click.command("ping")
@click.argument("source")
@click.argument("destination")
@click.option(
    "-c", "--count", type=click.IntRange(1, MAX_COUNT), default=3, show_default=True, help="Number of requests."
)
@click.option("-s", "--size", type=click.IntRange(*SIZES), default=56, show_default=True, help="Bytes of payload.")
@family_option
@pass_lab
def ping_command(lab: Lab, source: str, destination: str, count: int, size: int, family: int | None) -> None:
    """Ping endpoint DESTINATION from endpoint SOURCE.

    Both must be in one VPC. Exit code 1 if a reply is missing. Ctrl-C ends it and prints the replies so far.
    """
    talk = _talk(lab, source, destination, family, to_function=True)
    try:
        done = ping(talk.source, talk.address, count, size=size)
    except PingInterrupted as interrupted:
        _print_ping(f"{source} to {destination} ({talk.address})", interrupted.so_far)
        raise
    _print_ping(f"{source} to {destination} ({talk.address})", done)
    if done.answered < done.sent:
        sys.exit(1)


def _print_ping(pair: str, done: Pinged) -> None:
    for number, time_ in sorted(done.times.items()):
        click.echo(f"{number}: {time_:.0f} us")
    click.echo(f"{pair}: {done.answered} of {done.sent} answered")


@click.command("transfer")
@click.argument("source")
@click.argument("destination")
@click.option("-t", "--seconds", type=Seconds(), default=2.0, show_default=True, help="Duration of the TCP stream.")
@family_option
@pass_lab
def transfer_command(lab: Lab, source: str, destination: str, seconds: float, family: int | None) -> None:
    """Send data from SOURCE to DESTINATION, and verify it.

    Both must be endpoints of one VPC. Sends a TCP stream for some seconds, then UDP datagrams of many sizes there and
    back. Exit code 1 if data is missing or wrong. Ctrl-C ends it and prints the results so far.
    """
    talk = _talk(lab, source, destination, family)
    try:
        done = transfer(talk.source, talk.destination, talk.address, seconds)
    except TransferInterrupted as interrupted:
        click.echo(f"TCP to {talk.address}: {interrupted.so_far}")
        raise
    click.echo(f"TCP to {talk.address}: {done}")
    if not _exchange_datagrams(talk) or not done.well:
        sys.exit(1)


def _exchange_datagrams(talk: _Talk) -> bool:
    """Print which datagrams came back, and say whether all did."""
    back: dict[int, bool] = {}
    try:
        for size, came in datagrams.rounds(talk.source, talk.destination, talk.own, talk.address):
            back[size] = came  # noqa: PERF403 - what came before a Ctrl-C is kept
    except KeyboardInterrupt:
        click.echo(f"{datagrams_text(back)}; interrupted" if back else "UDP: interrupted before it began")
        raise
    except OSError as error:
        click.echo(f"UDP to {talk.address}: not attempted: {reason_of(error)}")
        return False
    click.echo(datagrams_text(back))
    return all(back.values())


def datagrams_text(back: dict[int, bool]) -> str:
    """Return in one line which sizes came back."""
    lost = [size for size, came in back.items() if not came]
    head = f"UDP of {_listed(list(back))} bytes"
    if not lost:
        return f"{head}: all returned intact"
    which = f", not {_listed(lost)}" if len(lost) < len(back) else ""
    return f"{head}: {len(back) - len(lost)} of {len(back)} returned intact{which}"


def _listed(sizes: Sequence[int]) -> str:
    return ", ".join(map(str, sizes))
