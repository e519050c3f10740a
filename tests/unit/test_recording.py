"""Recordings come back as they were written, and what is none is refused in one clear line."""

from __future__ import annotations

from contextlib import suppress
from itertools import pairwise

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.recording import Header, Message, Recording, RecordingError, pack_header, pack_message, unpack

HEADER = Header("h1", "0.1.0", 1764355000.0)
MESSAGES = (
    Message("droplet.v1.h1.config.web", 7, 1764355001.5, {}, b"\x80"),
    Message("droplet.v1.h1.config.web", 9, 1764355002.5, {"KV-Operation": "PURGE"}, b""),
)
WHOLE = pack_header(HEADER) + b"".join(map(pack_message, MESSAGES))
FIRST = len(pack_header(HEADER))


@given(st.lists(st.integers(1, len(WHOLE)), max_size=5))
def test_a_recording_comes_back_however_it_is_cut_into_chunks(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(WHOLE)]
    assert unpack(WHOLE[a:b] for a, b in pairwise(edges) if a < b) == Recording(HEADER, MESSAGES)


@pytest.mark.parametrize("length", range(FIRST, len(WHOLE)))
def test_the_complete_objects_of_a_truncated_recording_are_read(length: int) -> None:
    found = unpack([WHOLE[:length]])
    assert found.messages == MESSAGES[: len(found.messages)]
    ends = FIRST + sum(len(pack_message(one)) for one in found.messages)
    assert found.cut_at == (ends if length > ends else None)


@pytest.mark.parametrize("length", range(FIRST))
def test_a_recording_that_is_cut_in_its_first_object_is_refused(length: int) -> None:
    with pytest.raises(RecordingError, match="empty or cut short"):
        unpack([WHOLE[:length]])


def packed(**fields: object) -> bytes:
    return bytes(msgpack.packb(fields))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"host = 'h1'\n", "first object does not say so"),
        (b"\xc1\xc1", "no MessagePack"),
        (msgpack.packb([1, 2]), "first object does not say so"),
        (packed(format="droplet-recording", version=2), "of version 2"),
        (packed(format="droplet-recording", version=1, agent="1", at=1), "object 0: host"),
        (pack_header(HEADER) + msgpack.packb(5), "object 1 is no message"),
        (pack_header(HEADER) + packed(subject="s", sequence="x", at=1, headers={}, body=b""), "object 1: sequence"),
        (pack_header(HEADER) + packed(subject="s", sequence=1, at="x", headers={}, body=b""), "object 1: at"),
        (pack_header(HEADER) + packed(subject="s", sequence=1, at=1, headers={"a": 1}, body=b""), "headers"),
        (pack_header(HEADER) + packed(subject="s", sequence=1, at=1, headers={}, body="text"), "object 1: body"),
        (pack_header(HEADER) + b"\xc6\x00\xff\xff\xff" + bytes(5 << 20), "longer than"),
    ],
)
def test_a_file_that_is_no_recording_is_refused_with_a_reason(data: bytes, words: str) -> None:
    with pytest.raises(RecordingError, match=words):
        unpack([data])


@given(st.binary(max_size=200))
def test_any_bytes_are_a_recording_or_a_recording_error(data: bytes) -> None:
    with suppress(RecordingError):
        assert unpack([pack_header(HEADER), data]).header == HEADER
