"""Settings of the bus. Seeds and passwords are read when they are needed, and never logged."""

from __future__ import annotations

import errno
import ssl
import stat
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from protocol import binding


@dataclass(frozen=True, slots=True)
class BusSettings:
    """Servers as URLs (`tls://host:4222` or `nats://host:4222`), and the files with the nkey seed and the CA.

    A `tls://` server has to speak TLS from the first byte: one that begins in clear text is refused. With
    `trusted_publishers`, public nkeys, messages of the configuration stream that none of these signed are refused.
    """

    servers: tuple[str, ...]
    nkey_seed_file: str | None = None
    tls_ca_file: str | None = None
    trusted_publishers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.servers:
            raise ValueError("the bus needs at least one server")
        for server in self.servers:
            check_server(server)
        for publisher in self.trusted_publishers:
            binding.public_key(publisher)


def is_open_to_others(path: str) -> bool:
    """Return whether users other than its owner can read a file with a secret; False for a missing file."""
    try:
        return bool(Path(path).stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO))
    except OSError:
        return False


def check_server(url: str) -> None:
    """Raise ValueError when a server's URL cannot be used."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("nats", "tls") and bool(parts.hostname)
        parts.port  # noqa: B018  a port that is no number raises here
    except ValueError:
        usable = False
    if not usable:
        raise ValueError(f"{shown(url)!r} is not a server: write tls://HOST:4222 or nats://HOST:4222")


def shown(url: str) -> str:
    """Return a server's URL as it may be logged: without user and password."""
    scheme, slashes, rest = url.partition("://")
    return f"{scheme}{slashes}{rest.rpartition('@')[2]}"


def is_tls(url: str) -> bool:
    """Return whether the server must speak TLS."""
    return url.startswith("tls://")


def tls_context(settings: BusSettings) -> ssl.SSLContext:
    """Return a context that checks the server's certificate and name.

    Raises OSError with the CA's file name when it cannot be read, EINVAL when no certificate is in it.
    """
    try:
        return ssl.create_default_context(cafile=settings.tls_ca_file)
    except ssl.SSLError:
        raise OSError(errno.EINVAL, "no certificate in PEM is in it", settings.tls_ca_file) from None
    except OSError as error:
        raise OSError(error.errno, error.strerror, settings.tls_ca_file) from None
