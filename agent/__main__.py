"""`droplet-agent`: the agent's command line."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any, NoReturn

import click

from agent import __version__
from agent.bus.check import BusCheck, check_files, check_servers
from agent.core.plan.observed import ObservationError
from agent.daemon import bus_settings, kernel_config, serve
from agent.datapath.bpf.compiler import CompileError
from agent.datapath.check.host import check_host
from agent.datapath.check.result import CheckResult
from agent.datapath.instance_lock import hold_instance
from agent.datapath.uninstall import remove
from agent.dry_run import print_plan
from agent.logs import configure_logs
from agent.reconcile.underlay import InterfaceReplacedError
from agent.recording.recorder import Recorder
from agent.settings import Settings, SettingsError, load_settings
from agent.store.store import FILE, Store, StoreError
from protocol.recording import Recording, RecordingError, unpack

FAILURE, USAGE, REFUSED = 1, 2, 3
WARNING = "warning", "yellow"
UNTRIED = BusCheck("bus", False, "no server was tried", "correct the files above first")


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The settings, a TOML file. Environment variables (DROPLET_HOST, DROPLET_BUS_SERVERS, ...) override it.",
)
@click.option("--check", is_flag=True, help="Test whether this host can run the agent. Changes nothing.")
@click.option("--dry-run", is_flag=True, help="Print what a start would change in the kernel, and exit.")
@click.option(
    "--uninstall",
    is_flag=True,
    help="Remove everything that the agent created on this host. Other owners' programs are named; they stay, except "
    "on endpoints' interfaces, which are removed.",
)
@click.option(
    "--record",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Run, and write all messages from the bus to a new FILE (FILE.1 if that is already a recording, and so on). "
    "It grows with every message and is never truncated or removed: watch the disk space.",
)
@click.option(
    "--replay",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="With --dry-run: plan from the recording FILE, for its host, with this machine's interfaces and kernel.",
)
@click.version_option(__version__, prog_name="droplet-agent")
def main(
    config: Path | None, check: bool, dry_run: bool, uninstall: bool, record: Path | None, replay: Path | None
) -> None:
    """Run the network agent of this host.

    It receives its configuration from NATS, forwards tenants' packets with XDP, and acknowledges every document.
    SIGTERM stops it and leaves traffic flowing; a new start takes over the existing kernel objects.

    \b
    Examples:
      droplet-agent --config /etc/droplet/agent.toml --check
      droplet-agent --config /etc/droplet/agent.toml
      DROPLET_LOG_FORMAT=human droplet-agent --config agent.toml
      droplet-agent --config agent.toml --record /var/tmp/h1.recording
      droplet-agent --config agent.toml --replay h1.recording --dry-run

    \b
    Exit status: 0 success, 1 failure, 2 wrong usage or settings, 3 the host
    cannot run it (privileges, kernel, bcc, interface). --check exits with the
    status that a start would; an unreachable bus is only a warning.
    """
    if check + dry_run + uninstall > 1:
        _end(USAGE, "--check, --dry-run and --uninstall cannot be combined: give one of them")
    if record is not None and (check or dry_run or uninstall):
        _end(USAGE, "--record needs a running agent: leave out --check, --dry-run, --uninstall and --replay")
    if replay is not None and not dry_run:
        _end(USAGE, "--replay needs --dry-run: it only prints a plan")
    recording = _read_recording(replay) if replay is not None else None
    try:
        settings = load_settings(config)
    except SettingsError as error:
        _end(USAGE, str(error))
    if not check and not uninstall:
        _end_unless_readable(settings)
    if check:
        sys.exit(_check(settings))
    if uninstall:
        _run(_uninstall(settings))
    elif dry_run:
        _refuse_unless_fit(settings)
        configure_logs("human", "warning")
        _run(print_plan(settings, recording))
    else:
        _refuse_unless_fit(settings)
        with contextlib.ExitStack() as held:
            recorder = held.enter_context(contextlib.closing(_recorder(record, settings))) if record else None
            configure_logs(settings.log.format, settings.log.level)
            _run(serve(settings, recorder))


def _read_recording(path: Path) -> Recording:
    """Return a recording. Warn if its last object is truncated; exit if the file is not a recording."""
    try:
        with path.open("rb") as file:
            found = unpack(iter(lambda: file.read(1 << 16), b""))
    except OSError as error:
        _end(USAGE, f"{path}: {error.strerror}")
    except RecordingError as error:
        _end(USAGE, f"{path}: {error}")
    if found.cut_at is not None:
        click.echo(
            f"droplet-agent: {path}: the last object, at byte {found.cut_at:,}, is truncated and is ignored", err=True
        )
    return found


def _recorder(path: Path, settings: Settings) -> Recorder:
    try:
        return Recorder(path, settings.host)
    except OSError as error:
        _end(USAGE, f"--record {error.filename or path}: {error.strerror}")


async def _uninstall(settings: Settings) -> None:
    """Remove everything, unless a running agent would create it again; name other owners' programs that it affects."""
    folder = Path(settings.state)
    with contextlib.ExitStack() as held:
        if (folder / FILE).exists():
            held.enter_context(contextlib.closing(Store(folder, settings.host)))
        held.enter_context(hold_instance(settings.instance))
        removed = await remove(kernel_config(settings), click.echo)
    transit = "transit XDP, " if removed.transit else ""
    gro = f"{removed.gro_devices} devices for GRO, " if removed.gro_devices else ""
    words = f"removed {transit}{gro}{removed.interfaces} interfaces and {removed.pins} pins"
    click.echo(words if any(removed) else "nothing to remove: this host has no objects of this agent")


def _run(job: Coroutine[Any, Any, None]) -> None:
    """Run a job to its end; report an error that an operator can fix as one line."""
    try:
        asyncio.run(job)
    except (StoreError, ObservationError, CompileError, InterfaceReplacedError) as error:
        _end(FAILURE, str(error))
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        _end(FAILURE, f"{where}{error.strerror or error}")


def _check(settings: Settings) -> int:
    """Print a line for each requirement of the agent; return the status with which a start would fail, 0 for none.

    Problems of the bus are warnings: an agent starts without it and keeps trying to connect.
    """
    bus = bus_settings(settings)
    host = asyncio.run(check_host(kernel_config(settings)))
    files = check_files(bus)
    readable = all(found.ok for found in files)
    servers = asyncio.run(check_servers(settings.host, bus)) if readable else [UNTRIED]
    _print([*host, *files], "missing", "red")
    _print(servers, *WARNING)
    if not readable:
        return USAGE
    return 0 if all(found.ok for found in host) else REFUSED


def _print(results: Sequence[CheckResult | BusCheck], otherwise: str, colour: str) -> None:
    """Print each result as `ok`, or as `otherwise` in a colour, with its remedy."""
    for result in results:
        text, shown = ("ok     ", "green") if result.ok else (otherwise, colour)
        if isinstance(result, CheckResult) and result.warning:
            text, shown = WARNING
        click.echo(f"{click.style(text, fg=shown)} {result.name}: {result.detail}")
        if result.remedy:
            click.echo(f"        {result.remedy}")


def _refuse_unless_fit(settings: Settings) -> None:
    lacking = [result for result in asyncio.run(check_host(kernel_config(settings))) if not result.ok]
    if lacking:
        words = "; ".join(f"{result.name}: {result.detail} ({result.remedy})" for result in lacking)
        _end(REFUSED, f"this host cannot run the agent: {words}")


def _end_unless_readable(settings: Settings) -> None:
    """Exit if a file that the settings name cannot be used: waiting would not help."""
    for found in check_files(bus_settings(settings)):
        if not found.ok:
            _end(USAGE, f"{found.name}: {found.detail} ({found.remedy})")


def _end(status: int, message: str) -> NoReturn:
    click.echo(f"droplet-agent: {message}", err=True)
    sys.exit(status)


if __name__ == "__main__":
    main()
