"""What a document's author reads about a wrong value: no names of msgspec's types."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from protocol.codec import decode_document
from protocol.errors import DocumentError
from protocol.validation_texts import in_words

ENDPOINT = {"id": "a", "network": "n", "droplet": "d", "addresses": ["10.0.0.2"], "mac": "02:00:00:00:00:01"}
VPC = {"id": "v", "vni": 7, "cidrs": ["10.0.0.0/8"]}
FUNCTION = {"id": "f", "point": "passed", "program": {"file": "f.o"}}
THREE = ["10.0.0.2", "10.0.0.3", "10.0.0.4"]


def errors_of(document: dict[str, Any]) -> dict[str, str]:
    with pytest.raises(DocumentError) as raised:
        decode_document(msgspec.msgpack.encode(document))
    return {error.path: error.message for error in raised.value.errors}


@pytest.mark.parametrize(
    ("kind", "item", "change", "text"),
    [
        ("endpoints", ENDPOINT, {"addresses": THREE}, "at most two addresses, one of each family"),
        ("endpoints", ENDPOINT, {"addresses": []}, "must have at least 1 entry"),
        ("endpoints", ENDPOINT, {"network": 7}, "must be text, not a whole number"),
        ("endpoints", ENDPOINT, {"dscp": 64}, "must be at most 63"),
        ("endpoints", ENDPOINT, {"attachment": {"kind": "tap"}}, "must be one of veth, function, not 'tap'"),
        ("functions", FUNCTION, {"on_fault": "ajar"}, "must be one of open, closed, not 'ajar'"),
        ("vpcs", VPC, {"vni": "7"}, "must be a whole number, not text"),
        ("vpcs", VPC, {"cidrs": None}, "must be a list, not nil"),
        ("vpcs", VPC, {"dividers": ["x" * 64]}, "must have at most 63 characters"),
    ],
)
def test_a_wrong_value_is_explained_in_words(kind, item, change, text) -> None:
    assert text in errors_of({kind: [item | change]}).values()


def test_a_text_that_is_not_known_stays() -> None:
    assert in_words("Expected `str` matching regex 'x'", "$") == "Expected `str` matching regex 'x'"
