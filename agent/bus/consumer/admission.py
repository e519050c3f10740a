"""Decides which messages of the configuration stream a host accepts as its documents. Pure.

Every message names the subject that it was published for; with trusted publishers it is signed by one of them, and may
follow what was taken of its document before (`protocol.signed_versions`, docs/adr/0026).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from nacl.exceptions import BadSignatureError
from nacl.signing import VerifyKey

from agent.bus.connection.jetstream import parse_headers
from protocol import binding, streams
from protocol.errors import ErrorCode, FieldError
from protocol.signed_versions import UNSIGNED, SignedVersion, objection, version_of

MOST_REMOVED = 100_000
"""The number of removed documents whose versions are remembered, the most recently removed ones."""
LONGEST_SHOWN = 200
"""The most characters of a header's value that an error quotes; a document's subject has fewer."""


class Admitted(NamedTuple):
    """A message as the headers say it is.

    `removes` says that it removes its document. `refusal` says why it is not taken, None when it is; `version` is its
    version where it was checked, else `UNSIGNED`.
    """

    removes: bool
    refusal: FieldError | None = None
    version: SignedVersion = UNSIGNED


class Admission:
    """One host's admission rules, and the greatest version that was accepted for each document."""

    def __init__(
        self, trusted_publishers: Sequence[str] = (), versions: Mapping[str, SignedVersion] | None = None
    ) -> None:
        """Trust the given public nkeys; if there are none, signatures and versions are not checked.

        `versions` are those that an agent before this one took. ValueError when an nkey is no user's public nkey.
        """
        self._keys = {nkey: VerifyKey(binding.public_key(nkey)) for nkey in trusted_publishers}
        self._versions = dict(versions or {})
        self._removed: dict[str, None] = {}

    def admit(self, document: str, subject: str, headers: bytes | None, body: bytes) -> Admitted:
        """Check a message that is stored under a document's subject.

        Its version is remembered when it is trusted. The same message may come again.
        """
        if not self._keys and body and _names(headers, subject):
            return Admitted(removes=False)
        fields = parse_headers(headers).fields
        removes = streams.is_delete(fields, body)
        wrong = _wrong_subject(fields, subject)
        if wrong:
            return Admitted(removes, FieldError("$", ErrorCode.WRONG_SUBJECT, wrong))
        if not self._keys:
            return Admitted(removes)
        number = binding.version_of(fields)
        missing = _missing(fields, number)
        if number is None or missing:
            untrusted = (
                f"it is not signed (no valid header {missing}), and bus.trusted_publishers of this host asks for it; "
                f"have the controller sign what it publishes"
            )
            return Admitted(removes, FieldError("$", ErrorCode.UNTRUSTED, untrusted))
        signed = binding.signed_bytes(subject, number, body, removes=removes)
        version = version_of(signed, number)
        untrusted = self._wrong_signature(fields, signed, number) or objection(
            version, self._versions.get(document, UNSIGNED)
        )
        if untrusted:
            return Admitted(removes, FieldError("$", ErrorCode.UNTRUSTED, untrusted))
        self._remember(document, version, removes)
        return Admitted(removes, version=version)

    def _remember(self, document: str, version: SignedVersion, removes: bool) -> None:
        self._versions[document] = version
        self._removed.pop(document, None)
        if removes:
            self._removed[document] = None
            if len(self._removed) > MOST_REMOVED:
                oldest = next(iter(self._removed))
                del self._removed[oldest], self._versions[oldest]

    def _wrong_signature(self, fields: Mapping[str, str], signed: bytes, number: int) -> str:
        """Return what is wrong with a complete signature over some bytes; empty if a trusted publisher made it."""
        publisher, signature = fields[binding.PUBLISHER], binding.signature_of(fields) or b""
        key = self._keys.get(publisher)
        if key is None:
            return (
                f"it is signed by {publisher[:LONGEST_SHOWN]}, which is not in bus.trusted_publishers of this host: "
                f"add it there and restart the agent if it is your controller's public nkey"
            )
        try:
            key.verify(signed, signature)
        except BadSignatureError:
            return (
                f"its signature is not that of {publisher} over this subject, version {number} and body: "
                f"publish the document again, and find out who changed it"
            )
        return ""


def _missing(fields: Mapping[str, str], number: int | None) -> str:
    """Return the first header that a signed message needs and this one lacks; empty if all are present."""
    if not fields.get(binding.PUBLISHER):
        return binding.PUBLISHER
    if binding.signature_of(fields) is None:
        return binding.SIGNATURE
    return "" if number is not None else binding.VERSION


def _names(headers: bytes | None, subject: str) -> bool:
    """Return whether the headers name the subject in the usual spelling: a fast path for most messages."""
    usual = f"\r\n{binding.SUBJECT}: {subject}\r\n".encode()
    return headers is not None and usual in headers and b"nats-stream:" not in headers.lower()


def _wrong_subject(fields: Mapping[str, str], subject: str) -> str:
    """Return what is wrong with the subject that a message's headers name; empty if it is right."""
    stream = next((value for name, value in fields.items() if name.lower() == "nats-stream"), None)
    if stream is not None:
        return (
            f"the server copied it here from stream {stream[:LONGEST_SHOWN]}: a client that may read that stream gave "
            f"this subject as its reply subject; find that client and publish the document again"
        )
    named = fields.get(binding.SUBJECT)
    if named is None:
        return (
            f"it has no header {binding.SUBJECT}: have the controller name the subject that each message is published "
            f"for ({binding.SUBJECT}: {subject})"
        )
    if named != subject:
        return (
            f"it was published for {named[:LONGEST_SHOWN]} and stored under {subject}: a client that may read it gave "
            f"this subject as its reply subject; find that client and publish the document again"
        )
    return ""
