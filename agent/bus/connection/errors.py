"""Describes why the bus does not work, in one line that an operator can act on."""

from __future__ import annotations

import os
import socket
import ssl

from nats import errors

_CREDENTIALS = "the server refuses our credentials: check bus.nkey_seed_file"
_REASONS = {
    "authorization violation": _CREDENTIALS,
    "user authentication": _CREDENTIALS,
    "permissions violation": "our nkey may not use this host's subjects: check `host` and bus.nkey_seed_file",
    "expecting info": "the server ends the connection without a greeting: if it expects TLS, write tls://",
}
"""The meaning of phrases that a server or the client library uses, in lower case."""


def describe(error: BaseException) -> str:
    """Describe an error in one line, without secrets."""
    text = " ".join(str(error).split()).removeprefix("nats: ").strip("'")
    for phrase, reason in _REASONS.items():
        if phrase in text.lower():
            return reason
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the server's certificate is not trusted: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return "the server does not begin with TLS, or breaks it off; nothing was sent in clear text"
    if type(error).__module__.partition(".")[0] == "nkeys":
        return "the nkey seed file holds no valid seed"
    if isinstance(error, errors.TimeoutError | TimeoutError):
        return "no answer in time"
    if isinstance(error, OSError):
        return _of_the_system(error, text)
    return text or type(error).__name__


def _of_the_system(error: OSError, text: str) -> str:
    """Describe an operating system error in one line; asyncio puts its own text before that of connect(2)."""
    if isinstance(error, socket.gaierror):
        return f"the server's name has no address: {error.strerror}"
    if isinstance(error, FileNotFoundError):
        return f"no such file: {error.filename}" if error.filename else text
    if error.filename:
        return f"{error.filename}: {error.strerror}"
    if error.errno is not None and "connect call failed" in text.lower():
        return os.strerror(error.errno).lower()
    return text or type(error).__name__
