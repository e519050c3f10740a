"""The JetStream streams and consumers that carry documents and acknowledgements: what the controller creates.

A host's consumer is made by the controller and only pulled by the agent, so that a host needs no right to create one.
"""

from __future__ import annotations

CONFIG_STREAM = "DROPLET_CONFIG"
CONFIG_SUBJECTS = "droplet.v1.*.config.>"
ACK_STREAM = "DROPLET_ACK"
ACK_SUBJECTS = "droplet.v1.*.ack.>"

MESSAGES_PER_SUBJECT = 1
"""The newest message of a subject is the whole document; its stream sequence is the document's revision."""

DELETE_HEADERS = {"KV-Operation": "PURGE", "Nats-Rollup": "sub"}
"""The headers of an empty body that removes a document."""


def is_delete(headers: dict[str, str] | None, body: bytes) -> bool:
    """Return whether a message removes its document."""
    return not body and bool(headers) and (headers or {}).get("KV-Operation") in ("PURGE", "DEL")


def next_subject(host: str) -> str:
    """Return the API subject to which a host sends its pull requests."""
    return f"$JS.API.CONSUMER.MSG.NEXT.{CONFIG_STREAM}.{host}"


def reset_subject(host: str) -> str:
    """Return the API subject to which a host sends a reset, which replays its snapshot (nats-server 2.14 or newer)."""
    return f"$JS.API.CONSUMER.RESET.{CONFIG_STREAM}.{host}"


def info_subject(host: str) -> str:
    """Return the API subject to which a host sends a request for its consumer's configuration and state."""
    return f"$JS.API.CONSUMER.INFO.{CONFIG_STREAM}.{host}"


def pause_subject(host: str) -> str:
    """Return the subject of the server's advisories that a host's consumer was paused or resumed."""
    return f"$JS.EVENT.ADVISORY.CONSUMER.PAUSE.{CONFIG_STREAM}.{host}"
