"""Headers that bind a message of the configuration stream to its subject and, where hosts ask for it, to its publisher.

NATS does not check reply subjects: a client that may pull from a stream can make the server store a delivered message
under any subject of that stream. So every message that a controller publishes, a document or the removal of one, names
the subject that it is published for:

    Droplet-Subject: droplet.v1.h1.config.endpoints

An agent rejects a message without this header, or with a subject other than the one under which it is stored.

Three more headers sign the message. They are required by hosts whose `bus.trusted_publishers` is set:

    Droplet-Version: 1795905600000000
    Droplet-Publisher: UAB2CB576PHBBPQ5ODORRZ2LYCMWPZGWGCN2KDK7DXOIMZASKUY3RLKK
    Droplet-Signature: <86 characters>

- `Droplet-Version` is a whole number from 1 to 2**53 - 1 in decimal digits without leading zeros. Each new message for
  a subject has a greater one than all before it; microseconds since the epoch will do.
- `Droplet-Publisher` is the public nkey of a user: base32 without padding of the byte 0xA0, the 32 bytes of an Ed25519
  public key, and the CRC-16/XMODEM of these 33 bytes, least significant byte first.
- `Droplet-Signature` is the Ed25519 signature (RFC 8032) in base64url without padding (RFC 4648, section 5). It is made
  over the UTF-8 bytes of five lines, each of which ends in a line feed, the last one too:

      droplet.signature.v1
      <the subject>
      put, or remove for a message that removes its document
      <the version as in its header>
      <SHA-256 of the body in lower-case hexadecimal digits; for remove, of the empty body>

The signature covers subject, body, version, and whether the document is removed. It covers no other header, in
particular not Nats-TTL, and not the revision, which the server gives out. `tests/unit/test_binding.py` holds vectors.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from hashlib import sha256

SUBJECT = "Droplet-Subject"
VERSION = "Droplet-Version"
PUBLISHER = "Droplet-Publisher"
SIGNATURE = "Droplet-Signature"

MOST_VERSION = (1 << 53) - 1
"""The greatest version: a number that every language holds exactly."""

_CONTEXT = "droplet.signature.v1"
_VERSION = re.compile(r"[1-9][0-9]{0,15}")
_SIGNATURE = re.compile(r"[A-Za-z0-9_-]{86}")
_USER = 20 << 3
"""The first byte of a user's public nkey, which makes its text begin with U (ADR-14 of NATS)."""


def bound(subject: str) -> dict[str, str]:
    """Return the headers of an unsigned message for a subject."""
    return {SUBJECT: subject}


def signed(subject: str, version: int, publisher: str, signature: bytes) -> dict[str, str]:
    """Return the headers of a signed message; `signature` is that of `signed_bytes`, 64 bytes."""
    text = base64.urlsafe_b64encode(signature).decode().rstrip("=")
    return {SUBJECT: subject, VERSION: str(version), PUBLISHER: publisher, SIGNATURE: text}


def signed_bytes(subject: str, version: int, body: bytes, *, removes: bool) -> bytes:
    """Return the bytes that are signed."""
    kind = "remove" if removes else "put"
    return f"{_CONTEXT}\n{subject}\n{kind}\n{version}\n{sha256(body).hexdigest()}\n".encode()


def version_of(fields: Mapping[str, str]) -> int | None:
    """Return the version that a message's headers name, None when it is missing or no such number."""
    text = fields.get(VERSION, "")
    version = int(text) if _VERSION.fullmatch(text) else 0
    return version if 0 < version <= MOST_VERSION else None


def signature_of(fields: Mapping[str, str]) -> bytes | None:
    """Return the 64 bytes of the signature in a message's headers, None when it is missing or no signature's text."""
    text = fields.get(SIGNATURE, "")
    return base64.urlsafe_b64decode(f"{text}==") if _SIGNATURE.fullmatch(text) else None


def public_key(nkey: str) -> bytes:
    """Return the 32 bytes of the Ed25519 key behind a user's public nkey, or raise ValueError."""
    try:
        raw = base64.b32decode(nkey + "=" * (-len(nkey) % 8))
    except (binascii.Error, ValueError):
        raw = b""
    if len(raw) != 35 or raw[0] != _USER or binascii.crc_hqx(raw[:33], 0) != int.from_bytes(raw[33:], "little"):
        raise ValueError("not the public nkey of a user: 56 letters and digits that begin with U")
    return raw[1:33]
