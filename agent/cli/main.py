"""dropletctl: its options, and the list of its commands."""

from __future__ import annotations

from pathlib import Path

import click

from agent import __version__
from agent.bus.connection.settings import BusSettings
from agent.cli import function_commands, host_commands, message_commands
from agent.cli.configuration import Configuration, read_configuration
from agent.cli.options import seconds
from agent.cli.session import Access

DEFAULT_SERVER = "nats://127.0.0.1:4222"


@click.group(context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": "DROPLETCTL"})
@click.version_option(__version__, prog_name="dropletctl")
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    help="TOML file with netns and [bus]; the settings of an agent can be used, too.",
)
@click.option(
    "--server",
    multiple=True,
    help=f"URL of a NATS server, tls:// or nats://; may be repeated.  [default: {DEFAULT_SERVER}]",
)
@click.option("--nkey-seed-file", type=click.Path(), help="File with the nkey seed to authenticate with.")
@click.option("--tls-ca-file", type=click.Path(), help="File with the CA certificate that verifies the server.")
@click.option("--netns", help="Connect from this network namespace: a name under /run/netns, or a path.")
@click.option(
    "--wait", callback=seconds, default=1.0, show_default=True, help="Seconds to wait for hosts to answer a ping."
)
@click.option(
    "--timeout",
    callback=seconds,
    default=5.0,
    show_default=True,
    help="Seconds to wait for the reply of a host.",
)
@click.pass_context
def main(
    context: click.Context,
    config: Path | None,
    server: tuple[str, ...],
    nkey_seed_file: str | None,
    tls_ca_file: str | None,
    netns: str | None,
    wait: float,
    timeout: float,
) -> None:
    """Query the hosts of a droplet network over NATS, from any machine.

    \b
    Examples:
      dropletctl --config ctl.toml status    with the server, seed and CA of a file
      dropletctl status                      every host, also those that do not answer
      dropletctl status h1 -o json           one host, as JSON
      dropletctl get endpoints --host h1     the endpoints in force on a host
      dropletctl acks --watch                acknowledgements as they arrive
      dropletctl path h1 web-1 10.0.1.7      the path that a packet would take
      dropletctl function f1 maps            the entries of a function's own maps
      droplet-lab ctl -- status              in a lab, with the lab's own file

    Every option can come from the environment: DROPLETCTL_CONFIG, DROPLETCTL_SERVER, DROPLETCTL_TLS_CA_FILE and so on.

    \b
    Exit codes: 0 success; 1 a host did not answer, or an object does not exist;
    2 wrong usage; 3 the bus cannot be reached, or the server refused the request.
    """
    known = read_configuration(config) if config else Configuration()
    servers = server or known.servers
    try:
        settings = BusSettings(
            servers=servers or (DEFAULT_SERVER,),
            nkey_seed_file=nkey_seed_file or known.nkey_seed_file or None,
            tls_ca_file=tls_ca_file or known.tls_ca_file or None,
        )
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    hint = "" if servers else "; give --server or --config"
    context.obj = Access(settings, netns or known.netns or None, wait, timeout, hint)


for command in (
    host_commands.status,
    host_commands.get,
    host_commands.path,
    host_commands.peers,
    host_commands.counters,
    host_commands.plan,
    host_commands.sweep,
    message_commands.acks,
    message_commands.events,
    function_commands.function,
):
    main.add_command(command)

if __name__ == "__main__":
    main()
