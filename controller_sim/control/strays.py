"""Messages of the configuration stream whose subject names no document of a host. Pure.

Any client that may publish there can store one. Hosts ignore it, and so does the controller, which says so and
replaces it by a removal. The removal stays on the same subject until it expires.
"""

from __future__ import annotations

from collections.abc import Iterable

from controller_sim.control.bus import Stored
from protocol import streams, subjects

REMEDY = "`droplet-lab apply` removes it"


def readable(stored: Iterable[Stored]) -> list[Stored]:
    """Return the messages whose subjects name documents."""
    return [message for message in stored if why_stray(message.subject) is None]


def strays(stored: Iterable[Stored]) -> list[Stored]:
    """Return the other messages, without those that are removals already."""
    return [
        message
        for message in stored
        if why_stray(message.subject) is not None and not streams.is_delete(message.headers, message.body)
    ]


def why_stray(subject: str) -> str | None:
    """Return why a subject names no document, None if it does."""
    host, document = host_and_document(subject)
    if not subjects.is_host(host):
        return f"no host can be named {host!r}"
    if not subjects.is_document(document):
        return f"no document of host {host} can be named {document!r}"
    return None


def host_and_document(subject: str) -> tuple[str, str]:
    """Return the parts of `droplet.v1.<host>.config.<document>` that name host and document, valid or not."""
    _, _, host, _, document = subject.split(".", 4)
    return host, document


def described(message: Stored) -> str:
    """Return one line for people about a stray message."""
    return f"{message.subject}, sequence {message.sequence}: {why_stray(message.subject)}; {REMEDY}"
