"""Why the bus does not work, in one line that an operator can act on."""

from __future__ import annotations

import ssl

from nats import errors


def describe(error: BaseException) -> str:
    """Return an error in one line, without secrets."""
    text = " ".join(str(error).split()).removeprefix("nats: ").strip("'")
    lowered = text.lower()
    if "authorization violation" in lowered or "user authentication" in lowered:
        return "the server refuses our credentials: check the nkey seed file"
    if "permissions violation" in lowered:
        return "our nkey may not use this host's subjects: check `host` and the nkey seed file"
    if isinstance(error, ConnectionRefusedError) or "connect call failed" in lowered:
        return "connection refused"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the server's certificate is not trusted: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return "the server does not begin with TLS, or breaks it off; nothing was sent in clear text"
    if type(error).__module__.partition(".")[0] == "nkeys":
        return "the nkey seed file holds no valid seed"
    if isinstance(error, FileNotFoundError):
        return f"no such file: {error.filename}" if error.filename else text
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, errors.TimeoutError | TimeoutError):
        return "no answer in time"
    return text or type(error).__name__
