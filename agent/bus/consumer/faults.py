"""Checks a consumer's configuration, and words the faults of a consumer and its messages. No I/O."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from agent.bus.connection.jetstream import ConsumerInfo
from protocol import streams, subjects
from protocol.status import Fault

MOST_SUBJECTS = 10
"""The most refused subjects that get a fault each; the others share one fault."""


def name(host: str) -> str:
    """Return `stream/consumer` of a host, the subject of faults about it."""
    return f"{streams.CONFIG_STREAM}/{host}"


def unusable_settings(info: ConsumerInfo, host: str) -> tuple[str, ...]:
    """Return a phrase for each setting of a consumer that keeps documents from this host; none if it is usable."""
    config, wanted = info.config, subjects.config_of(host)
    filters = config.filter_subjects or (config.filter_subject,)
    found = []
    if config.deliver_policy != "all":
        found.append(f"deliver_policy is {config.deliver_policy!r} and has to be 'all'")
    if tuple(filters) != (wanted,):
        found.append(f"its filter is {', '.join(map(repr, filters))} and has to be {wanted!r}")
    if config.headers_only:
        found.append("headers_only is set and must not be: documents have no body then")
    if config.deliver_subject:
        found.append("deliver_subject is set and must not be: it has to be a pull consumer")
    if config.replay_policy != "instant":
        found.append(f"replay_policy is {config.replay_policy!r} and has to be 'instant'")
    return tuple(found)


def consumer_unusable(host: str, reasons: Sequence[str]) -> Fault:
    """Return the fault of a consumer that does not deliver this host's documents."""
    return Fault(
        "consumer_unusable",
        name(host),
        "; ".join(reasons),
        f"have the controller delete consumer {host} of stream {streams.CONFIG_STREAM} and make it anew",
    )


def consumer_missing(host: str, reason: str) -> Fault:
    """Return the fault of a consumer that does not exist, or does not answer."""
    return Fault("consumer_missing", name(host), reason, "start the controller: it creates the stream and the consumer")


def consumer_shared(host: str, detail: str) -> Fault:
    """Return the fault of a consumer that another client reads too."""
    remedy = f"find the other agent that has the name {host} or its credentials, and stop it; one host, one name"
    return Fault("consumer_shared", name(host), detail, remedy)


def documents_waiting(host: str, waiting: int, paused_until: str, *, in_snapshot: bool) -> Fault:
    """Return the fault of documents that the server counted but does not deliver."""
    count = f"{waiting} {'document is' if waiting == 1 else 'documents are'} pending and not delivered"
    if paused_until:
        detail = f"{count}: the consumer is paused until {paused_until}"
        remedy = f"resume it: `nats consumer resume {streams.CONFIG_STREAM} {host}`"
    else:
        detail = f"{count}: is the consumer paused?"
        remedy = f"see what `nats consumer info {streams.CONFIG_STREAM} {host}` says"
    return Fault("snapshot_incomplete" if in_snapshot else "documents_waiting", name(host), detail, remedy)


def consumer_paused(host: str, paused_until: str) -> Fault:
    """Return the fault of a paused consumer that has delivered everything so far."""
    return Fault(
        "consumer_paused",
        name(host),
        f"paused until {paused_until}: new documents are not delivered",
        f"resume it: `nats consumer resume {streams.CONFIG_STREAM} {host}`",
    )


class ConsumerFaults:
    """What keeps a consumer from delivering, until it delivers again."""

    def __init__(self, host: str) -> None:
        self._host = host
        self.unusable: Fault | None = None
        """Why the consumer cannot be read."""
        self.refused: Fault | None = None
        """Why it refused requests, until it accepts one."""
        self.withheld: Fault | None = None
        """Why it delivers nothing, or is going to deliver nothing."""

    def standing(self) -> list[Fault]:
        """Return the faults that stand."""
        return [fault for fault in (self.unusable or self.refused, self.withheld) if fault is not None]

    def note_pause(self, info: ConsumerInfo, waiting: int, *, in_snapshot: bool, silent: bool = False) -> None:
        """Record why documents are waiting. Unless the consumer is paused, they first have to be overdue (`silent`)."""
        until = info.config.pause_until if info.paused else ""
        self.withheld = None
        if waiting and (until or silent):
            self.withheld = documents_waiting(self._host, waiting, until, in_snapshot=in_snapshot)
        elif until:
            self.withheld = consumer_paused(self._host, until)


def refused_subjects(subjects_: Iterable[str]) -> list[Fault]:
    """Return the faults of messages under this host's subjects that name no document."""
    found = sorted(subjects_)
    remedy = "publish it under a name of one to eight lower-case tokens, and remove the message from this subject"
    faults = [Fault("refused_subject", one, "no document can have this name", remedy) for one in found[:MOST_SUBJECTS]]
    if len(found) > MOST_SUBJECTS:
        left = len(found) - MOST_SUBJECTS
        faults.append(Fault("refused_subject", f"{left} more", "no document can have these names", remedy))
    return faults
