"""Subjects carry a host and a document's name, and nothing else passes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol import streams, subjects

hosts = st.from_regex(r"[a-z0-9][a-z0-9-]{0,62}", fullmatch=True)
documents = st.lists(st.from_regex(r"[a-z0-9][a-z0-9_-]{0,9}", fullmatch=True), min_size=1, max_size=8).map(".".join)


@given(hosts, documents)
def test_a_subject_gives_back_host_and_document(host: str, document: str) -> None:
    assert subjects.parse_config(subjects.config(host, document)) == (host, document)
    assert subjects.parse_ack(subjects.ack(host, document)) == (host, document)


@pytest.mark.parametrize(
    "subject",
    [
        "",
        "droplet.v1.h1.config.",
        "droplet.v1.h1.config",
        "droplet.v2.h1.config.a",
        "droplet.v1.h1.ack.a",
        "droplet.v1..config.a",
        "droplet.v1.h1.x.config.a",
        "droplet.v1.h1.config.a.*",
        "droplet.v1.h1.config.>",
        "droplet.v1.h1.config.a..b",
        "droplet.v1.h1.config.a\n",
        "droplet.v1.h1.config." + ".".join("abcdefghi"),
        "x.droplet.v1.h1.config.a",
    ],
)
def test_a_subject_of_another_form_is_refused(subject: str) -> None:
    with pytest.raises(ValueError):
        subjects.parse_config(subject)


def test_a_document_named_config_does_not_confuse_the_parser() -> None:
    assert subjects.parse_config("droplet.v1.config.config.config.config") == ("config", "config.config")


@pytest.mark.parametrize("name", ["h1\n", "H1", "-h", "h.1", "h*", "", "h" * 64])
def test_an_invalid_token_is_no_host_name(name: str) -> None:
    assert not subjects.is_host(name)


@pytest.mark.parametrize(
    ("headers", "body", "expected"),
    [
        (streams.DELETE_HEADERS, b"", True),
        ({"KV-Operation": "DEL"}, b"", True),
        (streams.DELETE_HEADERS, b"x", False),
        (None, b"", False),
        ({}, b"", False),
        ({"KV-Operation": "PUT"}, b"", False),
    ],
)
def test_only_an_empty_body_with_a_marker_removes(headers, body: bytes, expected: bool) -> None:
    assert streams.is_delete(headers, body) is expected
