"""The bytes that a publisher signs, its headers, and what a host makes of them. The vectors are for other languages."""

from __future__ import annotations

import nkeys
import pytest

from agent.bus.consumer.admission import MOST_REMOVED, Admission
from agent.core.config.refused_messages import RefusedMessages
from controller_sim.control.signing import Signer
from protocol import binding, streams
from protocol.errors import ErrorCode, FieldError
from protocol.signed_versions import UNSIGNED, SignedVersion

RAW_SEED = bytes(range(32))
SEED = nkeys.encode_seed(RAW_SEED, nkeys.PREFIX_BYTE_USER)
SUBJECT = "droplet.v1.h1.config.endpoints"
VERSION = 1_795_905_600_000_000
BODY = bytes.fromhex("81a9656e64706f696e747390")
"""MessagePack of {"endpoints": []}."""

PUBLISHER = "UAB2CB576PHBBPQ5ODORRZ2LYCMWPZGWGCN2KDK7DXOIMZASKUY3RLKK"
PUT = (
    b"droplet.signature.v1\n"
    b"droplet.v1.h1.config.endpoints\n"
    b"put\n"
    b"1795905600000000\n"
    b"8cfefb5ba424fb5a5d37328292927c7a92e21a3859baab913c6309ef94ee7097\n"
)
PUT_SIGNATURE = "f9qaS7pEmnbCQxMiId9yy2JNlSoER3i633yhlDp0MA-wJD3i6OzNSbz9GXDM7_3Io5wF-6siSt0GCcBNx0i7DQ"
REMOVE = (
    b"droplet.signature.v1\n"
    b"droplet.v1.h1.config.endpoints\n"
    b"remove\n"
    b"1795905600000000\n"
    b"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\n"
)
REMOVE_SIGNATURE = "PNPA86Dig_s4ZdAWmT75WDsVaDPexBEm-HkX8tJ9V4VJktBsluXs9-KL4mkXTRYGcXdCgHkT257UR1kR3YRRDA"


def raw(fields: dict[str, str]) -> bytes:
    """Return a header block as a server delivers it."""
    return b"NATS/1.0\r\n" + b"".join(f"{name}: {value}\r\n".encode() for name, value in fields.items()) + b"\r\n"


def signer(at: int = VERSION) -> Signer:
    return Signer(SEED, lambda: at * 1000)


def message(body: bytes | None = BODY, subject: str = SUBJECT, at: int = VERSION) -> tuple[bytes, bytes]:
    """Return raw headers and body of a signed document, or of a removal."""
    fields = signer(at).headers(subject, body or b"", removes=body is None)
    return raw({**(streams.DELETE_HEADERS if body is None else {}), **fields}), body or b""


@pytest.mark.parametrize(
    ("body", "removes", "text", "signature"),
    [(BODY, False, PUT, PUT_SIGNATURE), (b"", True, REMOVE, REMOVE_SIGNATURE)],
)
def test_the_signed_bytes_and_the_headers_are_those_of_the_vectors(body, removes, text, signature) -> None:
    """The seed of the vectors is the 32 bytes 00 01 ... 1f."""
    assert binding.signed_bytes(SUBJECT, VERSION, body, removes=removes) == text
    assert signer().headers(SUBJECT, body, removes=removes) == {
        "Droplet-Subject": SUBJECT,
        "Droplet-Version": "1795905600000000",
        "Droplet-Publisher": PUBLISHER,
        "Droplet-Signature": signature,
    }


def test_a_public_nkey_holds_its_ed25519_key_and_a_checksum() -> None:
    key = binding.public_key(PUBLISHER)
    assert key.hex() == "03a107bff3ce10be1d70dd18e74bc09967e4d6309ba50d5f1ddc8664125531b8"
    seed = SEED.decode()
    for wrong in ("", "U", PUBLISHER[:-1], PUBLISHER.lower(), f"{PUBLISHER[:20]}A{PUBLISHER[21:]}", seed, "é" * 56):
        with pytest.raises(ValueError, match="not the public nkey of a user") as caught:
            binding.public_key(wrong)
        assert seed not in str(caught.value)


@pytest.mark.parametrize("text", ["", "0", "01", "-1", "+1", "1.0", "9007199254740992", "99999999999999999", "٣", "1 "])
def test_other_versions_than_whole_numbers_are_none(text: str) -> None:
    assert binding.version_of({binding.VERSION: text}) is None
    assert binding.version_of({binding.VERSION: str(binding.MOST_VERSION)}) == binding.MOST_VERSION


def test_the_publishers_versions_grow_when_its_clock_stands_still_or_goes_back() -> None:
    times = iter([5_000, 5_000, 1_000, 9_000])
    one = Signer(SEED, lambda: next(times))
    versions = [binding.version_of(one.headers(SUBJECT, b"", removes=False)) for _ in range(4)]
    assert versions == [5, 6, 7, 9]


@pytest.mark.parametrize(
    ("headers", "words"),
    [
        (None, "no header Droplet-Subject"),
        (raw({}), "no header Droplet-Subject"),
        (raw({binding.SUBJECT: "droplet.v1.h2.config.endpoints"}), "published for droplet.v1.h2.config.endpoints"),
        (raw({binding.SUBJECT: SUBJECT + ".more"}), "published for"),
        (raw({binding.SUBJECT: SUBJECT, "Nats-Stream": "DROPLET_ACK"}), "from stream DROPLET_ACK"),
    ],
)
@pytest.mark.parametrize("trusted", [(), (PUBLISHER,)])
def test_a_message_of_another_subject_or_of_none_is_refused(headers, words: str, trusted) -> None:
    for block, body in ((headers, BODY), (headers, b"")):
        refusal = Admission(trusted).admit("endpoints", SUBJECT, block, body).refusal
        assert refusal is not None
        assert refusal.code is ErrorCode.WRONG_SUBJECT
        assert words in refusal.message


@pytest.mark.parametrize("spelling", ["Droplet-Subject: {}", "Droplet-Subject:{}", "Droplet-Subject:  {} "])
def test_without_trusted_publishers_the_subject_is_enough(spelling: str) -> None:
    headers = f"NATS/1.0\r\n{spelling.format(SUBJECT)}\r\n\r\n".encode()
    assert Admission().admit("endpoints", SUBJECT, headers, BODY) == (False, None, UNSIGNED)
    removal = raw({**streams.DELETE_HEADERS, **binding.bound(SUBJECT)})
    assert Admission().admit("endpoints", SUBJECT, removal, b"") == (True, None, UNSIGNED)


@pytest.mark.parametrize("body", [BODY, b"", None])
def test_a_trusted_publishers_signature_is_taken(body: bytes | None) -> None:
    admitted = Admission([PUBLISHER]).admit("endpoints", SUBJECT, *message(body))
    assert (admitted.removes, admitted.refusal, admitted.version.number) == (body is None, None, VERSION)


def refused(headers: bytes, body: bytes, trusted: str = PUBLISHER) -> str:
    refusal = Admission([trusted]).admit("endpoints", SUBJECT, headers, body).refusal
    assert refusal is not None
    assert refusal.code is ErrorCode.UNTRUSTED
    return refusal.message


@pytest.mark.parametrize("left_out", [binding.PUBLISHER, binding.SIGNATURE, binding.VERSION])
def test_a_partly_signed_message_is_refused(left_out: str) -> None:
    fields = signer().headers(SUBJECT, BODY, removes=False)
    del fields[left_out]
    assert left_out in refused(raw(fields), BODY)


def test_another_publishers_signature_is_refused_by_name() -> None:
    other = Signer(nkeys.encode_seed(bytes(32), nkeys.PREFIX_BYTE_USER))
    assert other.publisher in refused(raw(other.headers(SUBJECT, BODY, removes=False)), BODY)
    borrowed = {**other.headers(SUBJECT, BODY, removes=False), binding.PUBLISHER: PUBLISHER}
    assert "signature is not that of" in refused(raw(borrowed), BODY)


def test_a_signature_covers_body_version_and_removal() -> None:
    fields = signer().headers(SUBJECT, BODY, removes=False)
    assert "signature" in refused(raw(fields), BODY + b"x")
    assert "signature" in refused(raw({**fields, binding.VERSION: str(VERSION + 1)}), BODY)
    empty = signer().headers(SUBJECT, b"", removes=False)
    assert "signature" in refused(raw({**streams.DELETE_HEADERS, **empty}), b"")
    elsewhere = signer().headers("droplet.v1.h2.config.endpoints", BODY, removes=False)
    assert "signature" in refused(raw({**elsewhere, binding.SUBJECT: SUBJECT}), BODY)


def test_an_older_document_that_comes_again_is_refused_and_the_same_one_is_not() -> None:
    admission = Admission([PUBLISHER])
    old, new, gone = message(at=10), message(at=20), message(None, at=30)
    for one in (old, new, new):
        assert admission.admit("endpoints", SUBJECT, *one).refusal is None
    replayed = admission.admit("endpoints", SUBJECT, *old).refusal
    assert replayed is not None
    assert "10 is older than 20" in replayed.message
    assert admission.admit("endpoints", SUBJECT, *gone).refusal is None
    assert admission.admit("endpoints", SUBJECT, *new).refusal is not None, "a removed document stays removed"
    assert (
        Admission([PUBLISHER], {"endpoints": SignedVersion(20)}).admit("endpoints", SUBJECT, *old).refusal is not None
    )
    assert Admission([PUBLISHER], {"other": SignedVersion(20)}).admit("endpoints", SUBJECT, *old).refusal is None


@pytest.mark.parametrize(
    ("first", "second"), [(BODY, BODY + b"x"), (BODY, None), (None, BODY)], ids=["changed", "removed", "published"]
)
def test_a_version_that_is_used_twice_is_refused_with_a_remedy_and_the_first_message_stays(
    first: bytes | None, second: bytes | None
) -> None:
    admission = Admission([PUBLISHER])
    kept = admission.admit("endpoints", SUBJECT, *message(first, at=20)).version
    for reader in (admission, Admission([PUBLISHER], {"endpoints": kept})):
        refusal = reader.admit("endpoints", SUBJECT, *message(second, at=20)).refusal
        assert refusal is not None
        assert refusal.code is ErrorCode.UNTRUSTED
        assert "another message with its Droplet-Version 20" in refusal.message
        assert "publish the document again with a version greater than 20" in refusal.message
        assert reader.admit("endpoints", SUBJECT, *message(first, at=20)).refusal is None
        assert reader.admit("endpoints", SUBJECT, *message(second, at=21)).refusal is None


def test_a_version_of_unknown_content_is_no_reason_to_refuse_another_message() -> None:
    """An agent from before contents were kept left the number alone."""
    admission = Admission([PUBLISHER], {"endpoints": SignedVersion(20)})
    assert admission.admit("endpoints", SUBJECT, *message(at=20)).refusal is None
    assert admission.admit("endpoints", SUBJECT, *message(None, at=20)).refusal is not None


def test_the_memory_of_removed_documents_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    assert MOST_REMOVED >= 10_000
    monkeypatch.setattr("agent.bus.consumer.admission.MOST_REMOVED", 3)
    admission = Admission([PUBLISHER])
    for number in range(9):
        subject = f"droplet.v1.h1.config.d{number}"
        admission.admit(f"d{number}", subject, *message(None, subject))
    assert list(admission._versions) == ["d6", "d7", "d8"]


def test_refused_documents_are_one_fault_of_each_kind_until_they_are_replaced() -> None:
    refusals = RefusedMessages()
    for number in range(5):
        refusals.take(f"d{number}", FieldError("$", ErrorCode.UNTRUSTED, "it is not signed"))
    refusals.take("e", FieldError("$", ErrorCode.WRONG_SUBJECT, "it was published elsewhere"))
    kinds = {fault.kind: fault for fault in refusals.faults("droplet.v1.h1.config.>")}
    assert kinds.keys() == {"untrusted_document", "wrong_subject"}
    assert "5 documents" in kinds["untrusted_document"].detail
    assert "d0, d1, d2 and 2 more: it is not signed" in kinds["untrusted_document"].detail
    for number in range(5):
        refusals.take(f"d{number}", None)
    assert [fault.kind for fault in refusals.faults("droplet.v1.h1.config.>")] == ["wrong_subject"]
    refusals.clear()
    assert not list(refusals.faults("droplet.v1.h1.config.>"))
