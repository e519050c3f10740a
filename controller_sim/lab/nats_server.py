"""A nats-server as a single-server deployment would have it: TLS first, nkeys, one user per host, synced to disk.

Generates keys, certificates and the server's configuration into one directory; starts nothing by itself.
"""

from __future__ import annotations

import json
import os
import socket
import ssl
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nkeys
import trustme

from controller_sim.lab.namespaces import call_in
from protocol import permissions
from protocol.permissions import Permissions

CONTROLLER = "controller"
OPERATOR = "operator"
MAX_PAYLOAD = 4 << 20
"""Bytes of a message: more than a document may have, so that an agent gets to refuse one that is too large."""


@dataclass(frozen=True, slots=True)
class ServerFiles:
    """Where a server's files are."""

    directory: Path

    @property
    def configuration(self) -> Path:
        """The server's configuration."""
        return self.directory / "nats-server.json"

    @property
    def authority(self) -> Path:
        """The certificate of the authority that clients trust."""
        return self.directory / "ca.pem"

    @property
    def certificate(self) -> Path:
        """The server's key and certificates."""
        return self.directory / "server.pem"

    def seed(self, user: str) -> Path:
        """Return the file of the nkey seed of a host, of the controller or of an operator."""
        return self.directory / "keys" / f"{user}.nk"


def write_private(path: Path, content: bytes) -> None:
    """Write a file that only its owner may read."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)


def make_seed() -> bytes:
    """Return the text of a new user nkey's seed."""
    seed: bytes = nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_USER)
    return seed


def public_key(seed: bytes) -> str:
    """Return the public nkey of a seed."""
    pair = nkeys.from_seed(bytearray(seed))
    public: bytes = pair.public_key
    return public.decode()


def configure(files: ServerFiles, addresses: Sequence[str], port: int, hosts: list[str]) -> None:
    """Write keys, certificates and configuration; keys and certificates that exist are kept."""
    files.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not files.certificate.exists():
        authority = trustme.CA()
        certificate = authority.issue_cert(*addresses)
        files.authority.write_bytes(authority.cert_pem.bytes())
        write_private(files.certificate, certificate.private_key_and_cert_chain_pem.bytes())
    for user in (CONTROLLER, OPERATOR, *hosts):
        if not files.seed(user).exists():
            write_private(files.seed(user), make_seed())
    text = json.dumps(server_configuration(files, addresses, port, hosts), indent=2)
    files.configuration.write_text(text + "\n")


def server_configuration(files: ServerFiles, addresses: Sequence[str], port: int, hosts: list[str]) -> dict[str, Any]:
    """Return the server's configuration; nats-server reads JSON as it is. With several addresses it listens on all."""
    users = [
        _user(files, CONTROLLER, permissions.of_controller()),
        _user(files, OPERATOR, permissions.of_operator()),
        *(_user(files, host, permissions.of_host(host)) for host in hosts),
    ]
    return {
        "server_name": "droplet-lab",
        "listen": f"{in_url(addresses[0] if len(addresses) == 1 else '::')}:{port}",
        "max_payload": MAX_PAYLOAD,
        "jetstream": {"store_dir": str(files.directory / "store"), "sync_interval": "always"},
        "tls": {
            "cert_file": str(files.certificate),
            "key_file": str(files.certificate),
            "handshake_first": True,
        },
        "authorization": {"users": users},
    }


def in_url(address: str) -> str:
    """Return an address as it stands before a port (RFC 3986, section 3.2.2)."""
    return f"[{address}]" if ":" in address else address


def _user(files: ServerFiles, user: str, allowed: Permissions) -> dict[str, Any]:
    rights: dict[str, Any] = {
        "publish": {"allow": list(allowed.publish)},
        "subscribe": {"allow": list(allowed.subscribe)},
    }
    return {"nkey": public_key(files.seed(user).read_bytes()), "permissions": rights}


def server_program() -> str:
    """Return the path of nats-server beside this Python, or the one on PATH."""
    beside = Path(sys.executable).parent / "nats-server"
    return str(beside) if beside.exists() else "nats-server"


def command(files: ServerFiles) -> list[str]:
    """Return the server's command line."""
    return [server_program(), "--config", str(files.configuration)]


def wait_until_listening(namespace: str, address: str, port: int, timeout: float = 10.0) -> bool:
    """Wait until a TLS handshake with the server works inside a namespace; False after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if call_in(namespace, lambda: _handshakes(address, port)):
            return True
        time.sleep(0.02)
    return False


def _handshakes(address: str, port: int) -> bool:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # only asks whether the server is there; clients verify it
    try:
        with socket.create_connection((address, port), timeout=2) as raw, context.wrap_socket(raw):
            return True
    except OSError:
        return False
