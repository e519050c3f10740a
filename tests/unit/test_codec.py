"""Documents in and out: every mistake is named by its path and a code, and nothing but DocumentError escapes."""

from __future__ import annotations

from typing import Any

import msgpack
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol import codec
from protocol.acknowledgements import Acknowledgement, State
from protocol.documents import Document, Droplet
from protocol.errors import DocumentError, ErrorCode
from protocol.rpc import GetRequest

DROPLET = {"id": "d1", "host": "h1", "address": "10.0.0.1"}
VPC = {"id": "red", "vni": 7, "cidrs": ["10.1.0.0/16"], "dividers": ["d1"]}
NETWORK = {"id": "front", "vpc": "red", "cidrs": ["10.1.1.0/24"], "bouncers": ["d1"]}
ENDPOINT = {
    "id": "a",
    "network": "front",
    "droplet": "d1",
    "addresses": ["10.1.1.5"],
    "mac": "02:00:00:00:00:05",
    "attachment": {"namespace": "a"},
}
WHOLE = {"droplets": [DROPLET], "vpcs": [VPC], "networks": [NETWORK], "endpoints": [ENDPOINT]}


def mistakes(body: Any) -> list[tuple[str, ErrorCode]]:
    raw = body if isinstance(body, bytes) else msgpack.packb(body)
    with pytest.raises(DocumentError) as caught:
        codec.decode_document(raw)
    return [(error.path, error.code) for error in caught.value.errors]


def without(item: dict[str, Any], *fields: str) -> dict[str, Any]:
    return {key: value for key, value in item.items() if key not in fields}


def test_a_document_of_another_encoder_is_read_and_written_back_the_same() -> None:
    document = codec.decode_document(msgpack.packb(WHOLE))
    assert msgpack.unpackb(codec.encode(document))["droplets"] == [{**DROPLET, "udp_checksum": "full"}]
    assert codec.decode_document(codec.encode(document)) == document


def test_an_empty_map_is_a_document_that_owns_nothing() -> None:
    assert codec.decode_document(msgpack.packb({})) == Document()


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"", [("$", ErrorCode.NOT_MESSAGEPACK)]),
        (b"\xc1", [("$", ErrorCode.NOT_MESSAGEPACK)]),
        (msgpack.packb(WHOLE)[:-1], [("$", ErrorCode.NOT_MESSAGEPACK)]),
        (msgpack.packb(WHOLE) + b"\0", [("$", ErrorCode.NOT_MESSAGEPACK)]),
        (b"\xff" * (1 << 20), [("$", ErrorCode.NOT_MESSAGEPACK)]),
        (b"\x91" * (1 << 20), [("$", ErrorCode.NOT_MESSAGEPACK)]),
        (b"\x00" * ((1 << 20) + 1), [("$", ErrorCode.TOO_LARGE)]),
        (b"\xa2\xff\xfe", [("$", ErrorCode.NOT_MESSAGEPACK)]),
        ([], [("$", ErrorCode.WRONG_TYPE)]),
        (None, [("$", ErrorCode.WRONG_TYPE)]),
        ("text", [("$", ErrorCode.WRONG_TYPE)]),
        ({"stages": []}, [("stages", ErrorCode.UNKNOWN_KIND)]),
        ({"endpoints": {}}, [("endpoints", ErrorCode.WRONG_TYPE)]),
        ({"endpoints": [7]}, [("endpoints[0]", ErrorCode.WRONG_TYPE)]),
    ],
    ids=lambda value: repr(value)[:24],
)
def test_a_body_that_is_no_document_is_refused_as_a_whole(body: Any, expected: list[tuple[str, ErrorCode]]) -> None:
    assert mistakes(body) == expected


@pytest.mark.parametrize(
    ("kind", "item", "expected"),
    [
        ("droplets", without(DROPLET, "host"), [(".host", ErrorCode.MISSING_FIELD)]),
        ("droplets", {**DROPLET, "speed": 1}, [(".speed", ErrorCode.UNKNOWN_FIELD)]),
        ("droplets", {**DROPLET, "host": "H.1"}, [(".host", ErrorCode.INVALID)]),
        ("droplets", {**DROPLET, "address": "10.0.0.300"}, [(".address", ErrorCode.INVALID)]),
        ("droplets", {**DROPLET, "address": "224.0.0.1"}, [(".address", ErrorCode.INVALID)]),
        ("droplets", {**DROPLET, "address": "::0:1"}, [(".address", ErrorCode.INVALID)]),
        ("droplets", {**DROPLET, "id": "d1\n"}, [(".id", ErrorCode.INVALID)]),
        ("droplets", {**DROPLET, "host": "h1\n"}, [(".host", ErrorCode.INVALID)]),
        ("endpoints", {**ENDPOINT, "mac": "02:00:00:00:00:05\n"}, [(".mac", ErrorCode.INVALID)]),
        ("droplets", {**DROPLET, "id": 3}, [(".id", ErrorCode.WRONG_TYPE)]),
        ("vpcs", {**VPC, "vni": 0}, [(".vni", ErrorCode.INVALID)]),
        ("vpcs", {**VPC, "vni": 1 << 24}, [(".vni", ErrorCode.INVALID)]),
        ("vpcs", {**VPC, "vni": "7"}, [(".vni", ErrorCode.WRONG_TYPE)]),
        ("vpcs", {**VPC, "cidrs": []}, [(".cidrs", ErrorCode.INVALID)]),
        ("vpcs", {**VPC, "cidrs": ["10.1.0.1/16"]}, [(".cidrs[0]", ErrorCode.INVALID)]),
        ("vpcs", {**VPC, "cidrs": ["10.1.0.0/16", "10.2.0.0/16"]}, [(".cidrs", ErrorCode.INVALID)]),
        ("vpcs", {**VPC, "dividers": ["d1", "d1"]}, [(".dividers[1]", ErrorCode.DUPLICATE)]),
        ("networks", {**NETWORK, "bouncers": [f"d{n}" for n in range(17)]}, [(".bouncers", ErrorCode.INVALID)]),
        ("networks", {**NETWORK, "bouncers": ["d1", 5]}, [(".bouncers[1]", ErrorCode.WRONG_TYPE)]),
        ("networks", {**NETWORK, "gateways": ["10.9.9.9"]}, [(".gateways[0]", ErrorCode.OUT_OF_RANGE)]),
        ("networks", {**NETWORK, "gateways": ["10.1.1.1", "fd00::1"]}, [(".gateways", ErrorCode.INVALID)]),
        ("endpoints", {**ENDPOINT, "mac": "03:00:00:00:00:05"}, [(".mac", ErrorCode.INVALID)]),
        ("endpoints", {**ENDPOINT, "mac": "02:00:00:00:00:0A"}, [(".mac", ErrorCode.INVALID)]),
        ("endpoints", {**ENDPOINT, "addresses": ["10.1.1.5/24"]}, [(".addresses[0]", ErrorCode.INVALID)]),
        ("endpoints", {**ENDPOINT, "addresses": []}, [(".addresses", ErrorCode.INVALID)]),
        ("endpoints", {**ENDPOINT, "attachment": {}}, [(".attachment", ErrorCode.MISSING_FIELD)]),
        (
            "endpoints",
            {**ENDPOINT, "attachment": {"namespace": "a", "x": 1}},
            [(".attachment", ErrorCode.UNKNOWN_FIELD)],
        ),
        (
            "endpoints",
            {**ENDPOINT, "attachment": {"namespace": "a", "interface": "a" * 16}},
            [(".attachment.interface", ErrorCode.INVALID)],
        ),
        (
            "endpoints",
            {**without(ENDPOINT, "network"), "mac": None, "droplet": 1.5},
            [(".network", ErrorCode.MISSING_FIELD), (".droplet", ErrorCode.WRONG_TYPE), (".mac", ErrorCode.WRONG_TYPE)],
        ),
    ],
)
def test_each_wrong_field_is_named(kind: str, item: Any, expected: list[tuple[str, ErrorCode]]) -> None:
    assert mistakes({kind: [item]}) == [(f"{kind}[0]{path}", code) for path, code in expected]


def test_all_wrong_fields_of_a_document_are_named_at_once() -> None:
    body = {"vpcs": [VPC, {**VPC, "vni": -1}], "networks": [{"id": "x"}], "surprise": 1}
    assert mistakes(body) == [
        ("vpcs[1].vni", ErrorCode.INVALID),
        ("networks[0].vpc", ErrorCode.MISSING_FIELD),
        ("networks[0].cidrs", ErrorCode.MISSING_FIELD),
        ("surprise", ErrorCode.UNKNOWN_KIND),
    ]


def test_a_forged_name_cannot_confuse_the_path() -> None:
    found = mistakes({"droplets": [{**DROPLET, "a.b\n": 1, 5: 2}], b"x": []})
    assert [code for _, code in found] == [ErrorCode.UNKNOWN_FIELD, ErrorCode.UNKNOWN_FIELD, ErrorCode.UNKNOWN_KIND]
    assert all("\n" not in path for path, _ in found)


def test_a_key_that_stands_twice_counts_once_and_its_last_value_counts() -> None:
    twice = b"\x82\xa8droplets\x90\xa8droplets" + msgpack.packb([DROPLET])
    assert codec.decode_document(twice).droplets == (Droplet("d1", "h1", "10.0.0.1"),)


def test_at_most_a_hundred_invalid_fields_are_listed_and_the_rest_counted() -> None:
    different = [{**ENDPOINT, "id": f"e{n}", "addresses": [f"10.0.0.{n + 1}"], "mac": "?"} for n in range(250)]
    with pytest.raises(DocumentError) as caught:
        codec.decode_document(msgpack.packb({"endpoints": different}))
    assert len(caught.value.errors) == codec.MAX_ERRORS + 1
    assert caught.value.errors[-1].message == "and 150 more wrong fields"


def test_nesting_of_any_depth_is_a_document_error() -> None:
    assert mistakes(b"\x81\xa1a" * 100_000 + b"\xc0")[0][0] == "$"
    assert mistakes(b"\x81\xa9endpoints" + b"\x91" * 100_000 + b"\xc0")


@given(st.binary(max_size=300))
def test_random_bytes_raise_nothing_but_document_errors(body: bytes) -> None:
    decodes_or_is_refused(body)


@given(st.binary(max_size=60), st.integers(0, 200), st.integers(0, 200))
def test_a_damaged_document_raises_nothing_but_document_errors(noise: bytes, start: int, length: int) -> None:
    body = msgpack.packb(WHOLE)
    decodes_or_is_refused(body[:start] + noise + body[start + length :])


scalars = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text() | st.binary(max_size=9)
words = st.sampled_from([*WHOLE, *DROPLET, *VPC, *NETWORK, *ENDPOINT]) | st.text(max_size=5)
keys = words | st.integers(0, 9) | st.binary(max_size=3) | st.none() | st.booleans()
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=6))
objects = st.dictionaries(
    words, values | st.sampled_from(["a", "10.0.0.1", "10.0.0.0/8", "02:00:00:00:00:01"]), max_size=7
)


@given(
    values | st.dictionaries(st.sampled_from(list(WHOLE)) | keys, st.lists(objects, max_size=3) | values, max_size=4)
)
def test_messagepack_of_any_shape_raises_nothing_but_document_errors(value: Any) -> None:
    decodes_or_is_refused(msgpack.packb(value))


@given(st.binary(max_size=40))
def test_extension_types_and_timestamps_are_refused_as_values(data: bytes) -> None:
    decodes_or_is_refused(msgpack.packb({"droplets": [{**DROPLET, "id": msgpack.ExtType(5, data)}]}))
    decodes_or_is_refused(msgpack.packb({"droplets": msgpack.Timestamp(1, 2)}))


def decodes_or_is_refused(body: bytes) -> None:
    wrong = None
    try:
        assert isinstance(codec.decode_document(body), Document)
    except DocumentError as error:
        wrong = error.errors
    assert wrong is None or (wrong and all(one.path and one.message for one in wrong))


def test_readers_of_acknowledgements_ignore_fields_that_they_do_not_know() -> None:
    ack = Acknowledgement("a", 5, State.REALIZED, 1.0, in_force=5)
    body = msgpack.packb({**msgpack.unpackb(codec.encode(ack)), "later": 1})
    assert codec.decode(body, Acknowledgement) == ack


@pytest.mark.parametrize("body", [b"", b"\xc1", msgpack.packb({"kind": "x", "limit": 0}), msgpack.packb({"kinds": 1})])
def test_an_invalid_request_is_a_document_error(body: bytes) -> None:
    with pytest.raises(DocumentError):
        codec.decode(body, GetRequest)


def test_every_code_but_those_of_the_host_is_reached_by_decoding() -> None:
    """`claimed` needs other documents, `disabled` a host; all else is found in the document by itself."""
    twice = {"droplets": [DROPLET, DROPLET]}
    bodies = [
        b"\xc1",
        {"x": 1},
        {"vpcs": [{**VPC, "x": 1}]},
        {"vpcs": [{}]},
        {"vpcs": 1},
        {"vpcs": [{**VPC, "vni": 0}]},
        twice,
        {"networks": [{**NETWORK, "gateways": ["10.9.9.9"]}]},
        bytes(codec.MAX_BODY + 1),
    ]
    of_headers = {ErrorCode.WRONG_SUBJECT, ErrorCode.UNTRUSTED}
    of_the_host = {ErrorCode.CLAIMED, ErrorCode.DISABLED, ErrorCode.UNCHECKED}
    assert {mistakes(body)[0][1] for body in bodies} == set(ErrorCode) - of_the_host - of_headers


def test_defaults_are_left_out_of_acknowledgements() -> None:
    assert set(msgspec.msgpack.decode(codec.encode(Acknowledgement("a", 5, State.PENDING, 1.0)))) == {
        "document",
        "revision",
        "state",
        "at",
    }


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("networks[0].encapsulation", "gre"),
        ("networks[0].routing", "anycast"),
        ("droplets[0].udp_checksum", "none"),
        ("endpoints[0].dscp", 64),
        ("endpoints[0].dscp", -1),
        ("endpoints[0].label", -1),
        ("endpoints[0].label", 1 << 32),
        ("endpoints[0].addresses[0]", "fe80::5"),
    ],
)
def test_an_invalid_choice_names_its_field(field: str, value: Any) -> None:
    kind, name = field.partition("[")[0], field.partition(".")[2]
    wrong = {name: value} if name != "addresses[0]" else {"addresses": [value]}
    body = {**WHOLE, kind: [{**WHOLE[kind][0], **wrong}]}
    assert mistakes(body) == [(field, ErrorCode.INVALID)]
