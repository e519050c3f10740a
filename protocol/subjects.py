"""The subjects of the bus, version 1: `droplet.v1.<host>.<what>...`."""

from __future__ import annotations

import re
from typing import NamedTuple

PREFIX = "droplet.v1"

_HOST = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_DOCUMENT = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}(\.[a-z0-9][a-z0-9_-]{0,62}){0,7}")

RPC_VERBS = (
    *("status", "get", "documents", "counters", "path", "peers", "plan", "sweep"),
    *("function_maps", "function_log"),
)
"""The methods that a host serves, each on `droplet.v1.<host>.rpc.<verb>`."""


class Target(NamedTuple):
    """A host and a document's name, as a configuration or acknowledgement subject names them."""

    host: str
    document: str


def is_host(name: str) -> bool:
    """Return whether a name can be a host's."""
    return _HOST.fullmatch(name) is not None


def is_document(name: str) -> bool:
    """Return whether a name can be a document's: one to eight tokens with dots between."""
    return _DOCUMENT.fullmatch(name) is not None


def config(host: str, document: str) -> str:
    """Return the subject on which a document is published for a host."""
    return f"{PREFIX}.{host}.config.{document}"


def config_of(host: str) -> str:
    """Return the filter for all documents of a host."""
    return f"{PREFIX}.{host}.config.>"


def ack(host: str, document: str) -> str:
    """Return the subject of a document's acknowledgements."""
    return f"{PREFIX}.{host}.ack.{document}"


def status(host: str) -> str:
    """Return the subject of a host's heartbeat."""
    return f"{PREFIX}.{host}.status"


def telemetry(host: str, kind: str) -> str:
    """Return the subject of a host's measurements of one kind."""
    return f"{PREFIX}.{host}.telemetry.{kind}"


def event(host: str, kind: str) -> str:
    """Return the subject of a host's events of one kind."""
    return f"{PREFIX}.{host}.event.{kind}"


def rpc(host: str, verb: str) -> str:
    """Return the subject of requests to a host."""
    return f"{PREFIX}.{host}.rpc.{verb}"


def parse_config(subject: str) -> Target:
    """Return host and document of a configuration subject, or raise ValueError."""
    return _parse(subject, "config")


def parse_ack(subject: str) -> Target:
    """Return host and document of an acknowledgement's subject, or raise ValueError."""
    return _parse(subject, "ack")


def _parse(subject: str, what: str) -> Target:
    start = f"{PREFIX}."
    host, middle, document = subject.removeprefix(start).partition(f".{what}.")
    if not (subject.startswith(start) and middle and is_host(host) and is_document(document)):
        raise ValueError(f"{subject!r} is not a subject like {start}<host>.{what}.<document>")
    return Target(host, document)
