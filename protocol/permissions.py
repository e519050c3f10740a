"""What each kind of client may publish and subscribe to, for the NATS server's configuration.

Pure data, to be copied unchanged into the server's configuration. A wildcard stands for whole tokens
only. Hosts may reply only to the inboxes of permitted requesters: with `allow_responses`, a requester could name a
subject of `$JS.API` as its reply subject, and the host would publish its reply there. No host may create a
consumer: a consumer may deliver to any subject, which would circumvent all other restrictions.
"""

from __future__ import annotations

from dataclasses import dataclass

from protocol import streams, subjects

OPERATOR_INBOX = "_INBOX_operator"
"""The inbox prefix of operators."""
CONTROLLER_INBOX = "_INBOX_controller"

_DISCOVERY = tuple(
    f"$SRV.{verb}{rest}" for verb in ("PING", "INFO", "STATS") for rest in ("", ".droplet", ".droplet.*")
)


@dataclass(frozen=True, slots=True)
class Permissions:
    """Subjects that a client may publish and subscribe to; anything else is refused."""

    publish: tuple[str, ...]
    subscribe: tuple[str, ...]


def inbox(host: str) -> str:
    """Return the inbox prefix of a host, which no other host can subscribe to."""
    return f"_INBOX_host_{host}"


def of_host(host: str) -> Permissions:
    """Return the permissions of a host's agent: its own subjects, its own consumer, its own inbox.

    It receives its own status too, to detect another agent with its name. The advisories about its own consumer, by
    which it notices a pause at once, are optional.
    """
    own = f"{subjects.PREFIX}.{host}"
    return Permissions(
        publish=(
            streams.next_subject(host),
            streams.reset_subject(host),
            streams.info_subject(host),
            f"$JS.ACK.{streams.CONFIG_STREAM}.{host}.>",
            f"$JS.ACK.*.*.{streams.CONFIG_STREAM}.{host}.>",
            f"{own}.ack.>",
            f"{own}.status",
            f"{own}.telemetry.>",
            f"{own}.event.>",
            f"{OPERATOR_INBOX}.>",
            f"{CONTROLLER_INBOX}.>",
        ),
        subscribe=(f"{inbox(host)}.>", f"{own}.rpc.*", f"{own}.status", streams.pause_subject(host), *_DISCOVERY),
    )


def of_operator() -> Permissions:
    """Return the permissions of `dropletctl`: query hosts, read acknowledgements, and subscribe to what hosts publish.

    Acknowledgements are read by direct get, so the stream of acknowledgements has to allow it (`allow_direct`).
    """
    return Permissions(
        publish=(
            f"{subjects.PREFIX}.*.rpc.*",
            *_DISCOVERY,
            f"$JS.API.DIRECT.GET.{streams.ACK_STREAM}",
        ),
        subscribe=(
            f"{OPERATOR_INBOX}.>",
            streams.ACK_SUBJECTS,
            f"{subjects.PREFIX}.*.status",
            f"{subjects.PREFIX}.*.event.>",
            f"{subjects.PREFIX}.*.telemetry.>",
        ),
    )


def of_monitor() -> Permissions:
    """Return the permissions of a monitoring system: subscribe to what hosts publish. It can send nothing.

    It may not read streams, because a client that may can have the server deliver messages to any subject.
    """
    return Permissions(
        publish=(),
        subscribe=(
            streams.ACK_SUBJECTS,
            f"{subjects.PREFIX}.*.status",
            f"{subjects.PREFIX}.*.event.>",
            f"{subjects.PREFIX}.*.telemetry.>",
        ),
    )


def of_controller() -> Permissions:
    """Return the permissions of the management plane: publish documents, and create the streams and consumers."""
    return Permissions(
        publish=(
            streams.CONFIG_SUBJECTS,
            f"{subjects.PREFIX}.*.rpc.*",
            *_DISCOVERY,
            "$JS.API.>",
            "$JS.ACK.>",
        ),
        subscribe=(
            f"{CONTROLLER_INBOX}.>",
            streams.ACK_SUBJECTS,
            f"{subjects.PREFIX}.*.status",
            f"{subjects.PREFIX}.*.event.>",
            f"{subjects.PREFIX}.*.telemetry.>",
        ),
    )
