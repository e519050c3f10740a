"""The metadata that Python packs is the one that C reads: sizes, offsets and values of bpf/lib/function_meta.h."""

from __future__ import annotations

import re
import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from droplet_functions import Direction, Meta, Point, VerdictCode, drop, send_to
from droplet_functions.meta import ADDRESS_SIZE, EXTENT, META, META_SIZE, VERSION, answered, read_answer, unpack
from droplet_functions.verdict import GO_ON, KEEP, SEND_BACK, Verdict

HEADER = Path(__file__).resolve().parents[2] / "bpf" / "lib" / "function_meta.h"
FIELDS = (
    *("version", "point", "direction", "verdict", "user_reason", "drop_reason", "vni", "endpoint_slot"),
    *("packet_offset", "packet_length", "label", "token"),
)


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, int]]:
    """Return offset and size of each field as a C compiler lays them out, and the size of all."""
    folder = tmp_path_factory.mktemp("meta")
    rows = "".join(
        f'printf("{name} %zu %zu\\n", offsetof(struct function_meta, {name}), sizeof(one.{name}));' for name in FIELDS
    )
    source = folder / "offsets.c"
    source.write_text(
        "#include <linux/types.h>\n#include <stddef.h>\n#include <stdio.h>\n"
        f'#include "{HEADER}"\n'
        "int main(void) { struct function_meta one; (void)one; " + rows + 'printf("size %zu 0\\n", sizeof(one)); }'
    )
    subprocess.run(["cc", "-o", str(folder / "offsets"), str(source)], check=True)
    printed = subprocess.run([str(folder / "offsets")], check=True, capture_output=True, text=True).stdout
    return {name: (int(offset), int(size)) for name, offset, size in map(str.split, printed.splitlines())}


def test_python_packs_every_field_where_c_reads_it(layout: dict[str, tuple[int, int]]) -> None:
    for position, name in enumerate(FIELDS):
        offset, size = layout[name]
        values = [0] * len(FIELDS)
        values[position] = (1 << 8 * size) - 1
        expected = bytes(offset) + b"\xff" * size + bytes(META_SIZE - offset - size)
        assert META.pack(*values) == expected, name
    assert layout["size"][0] == META_SIZE == 32


def test_the_fields_that_are_checked_of_each_packet_are_where_c_has_them(layout: dict[str, tuple[int, int]]) -> None:
    raw = bytearray(META_SIZE)
    struct.pack_into("=H", raw, layout["packet_offset"][0], 1111)
    struct.pack_into("=H", raw, layout["packet_length"][0], 2222)
    raw[layout["version"][0]] = 33
    assert EXTENT.unpack_from(raw) == (33, 1111, 2222)


@pytest.mark.parametrize("kind", [Point, Direction, VerdictCode])
def test_values_have_the_numbers_of_the_header(kind: type[Point]) -> None:
    text = HEADER.read_text()
    found = {name: int(value) for name, value in re.findall(r"FUNCTION_(?:AT_)?(\w+) = (\d+)", text)}
    named = {one.name: one.value for one in kind if one is not VerdictCode.KEEP}
    assert named.items() <= found.items()
    assert f"FUNCTION_META_VERSION {VERSION}" in text
    assert f"FUNCTION_ADDRESS_SIZE {ADDRESS_SIZE}" in text


METAS = st.builds(
    Meta,
    st.sampled_from(Point),
    st.sampled_from(Direction),
    *(st.integers(0, (1 << bits) - 1) for bits in (32, 32, 16, 64, 32)),
)


@given(METAS, st.sampled_from([GO_ON, SEND_BACK, drop(0), drop(255), send_to("10.0.0.9"), send_to("fd00::9")]))
def test_an_answer_says_what_was_received_and_the_verdict(meta: Meta, verdict: Verdict) -> None:
    packet = bytes(range(60))
    answer = read_answer(answered(meta.pack(len(packet)), verdict, len(packet)) + packet)
    assert answer == (meta, verdict, packet)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda frame: frame[:31], "31 bytes"),
        (lambda frame: b"\x09" + frame[1:], "version 9"),
        (lambda frame: frame[:3] + b"\0" + frame[4:], "verdict 0"),
        (lambda frame: frame[:3] + b"\xff" + frame[4:], "verdict 255"),
        (lambda frame: frame + b"\0", "frame of 93"),
        (lambda frame: frame[:3] + bytes([VerdictCode.SEND_TO]) + frame[4:], "expected at 48"),
    ],
)
def test_a_malformed_answer_is_refused(change, text) -> None:
    with pytest.raises(ValueError, match=text):
        read_answer(change(answered(Meta().pack(60), GO_ON, 60) + bytes(60)))


def test_values_that_are_not_known_stay_numbers() -> None:
    assert unpack(Meta(point=77, direction=9).pack(1))[:2] == (77, 9)


@pytest.mark.parametrize("reason", [-1, 256, "7", None])
def test_a_reason_beyond_a_byte_is_refused(reason) -> None:
    with pytest.raises(ValueError, match="from 0 to 255"):
        drop(reason)


@pytest.mark.parametrize(
    ("code", "more"),
    [
        (VerdictCode.NONE, {}),
        (255, {}),
        (VerdictCode.GO_ON, {"reason": 1}),
        (VerdictCode.DROP, {"reason": 256}),
        (VerdictCode.SEND_TO, {}),
        (VerdictCode.GO_ON, {"address": bytes(16)}),
    ],
)
def test_a_verdict_that_the_data_plane_would_refuse_cannot_be_made(code, more) -> None:
    with pytest.raises(ValueError):
        Verdict(code, **more)


def test_verdicts_print_as_a_person_reads_them() -> None:
    shown = [str(one) for one in (GO_ON, SEND_BACK, KEEP, drop(7), send_to("10.0.0.9"), send_to("fd00::9"))]
    assert shown == ["go on", "send back", "keep", "drop (reason 7)", "send to 10.0.0.9", "send to fd00::9"]
