"""Captures of every kind are read alike, damaged ones give one clear error, and handlers run on them."""

from __future__ import annotations

import logging
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.l2 import Ether
from scapy.utils import PcapNgWriter, rdpcap, wrpcap

from droplet_functions import (
    GO_ON,
    KEEP,
    SEND_BACK,
    CaptureError,
    Function,
    Meta,
    Packet,
    PacketGoneError,
    Point,
    Verdict,
    drop,
    pcap,
    send_to,
)

FRAMES = [bytes(12) + b"\x08\0" + bytes([number]) * (46 + number) for number in range(3)]
TIMES = [1_700_000_000_123_456_000 + number * 1_000_000 for number in range(3)]


def classic(order: str, nano: bool, frames: list[bytes] = FRAMES, link: int = 1) -> bytes:
    raw = struct.pack(f"{order}IHHiIII", 0xA1B23C4D if nano else 0xA1B2C3D4, 2, 4, 0, 0, 65535, link)
    for time, frame in zip(TIMES, frames, strict=True):
        seconds, fraction = divmod(time, 10**9)
        raw += struct.pack(f"{order}IIII", seconds, fraction // (1 if nano else 1000), len(frame), len(frame) + 4)
        raw += frame
    return raw


def block(order: str, kind: int, body: bytes) -> bytes:
    body += bytes(-len(body) % 4)
    length = struct.pack(f"{order}I", len(body) + 12)
    return struct.pack(f"{order}I", kind) + length + body + length


def section(order: str, nano: bool, link: int = 1) -> bytes:
    options = struct.pack(f"{order}HHB3xHH", 9, 1, 9, 0, 0) if nano else b""
    header = block(order, 0x0A0D0D0A, struct.pack(f"{order}IHHq", 0x1A2B3C4D, 1, 0, -1))
    return header + block(order, 1, struct.pack(f"{order}HHI", link, 0, 0) + options)


def enhanced(order: str, nano: bool, time: int, frame: bytes) -> bytes:
    stamp = time // (1 if nano else 1000)
    head = struct.pack(f"{order}IIIII", 0, stamp >> 32, stamp & 0xFFFFFFFF, len(frame), len(frame) + 4)
    return block(order, 6, head + frame)


def next_generation(order: str, nano: bool) -> bytes:
    unknown = block(order, 5, bytes(12))  # interface statistics
    raw = section(order, nano) + unknown
    for time, frame in zip(TIMES, FRAMES, strict=True):
        raw += enhanced(order, nano, time, frame)
    return raw


@pytest.mark.parametrize("nano", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("make", [classic, next_generation])
def test_every_kind_of_capture_is_read_alike(tmp_path: Path, make, order: str, nano: bool) -> None:
    path = tmp_path / "one.pcap"
    path.write_bytes(make(order, nano))
    expected = [pcap.Captured(time, data, len(data) + 4) for time, data in zip(TIMES, FRAMES, strict=True)]
    assert list(pcap.read(path)) == expected


def test_sections_of_both_byte_orders_and_simple_packets_in_one_file(tmp_path: Path) -> None:
    path = tmp_path / "one.pcapng"
    simple = block("<", 3, struct.pack("<I", len(FRAMES[0])) + FRAMES[0])
    path.write_bytes(next_generation(">", nano=True) + section("<", nano=False) + simple)
    assert [one.data for one in pcap.read(path)] == [*FRAMES, FRAMES[0]]


@pytest.mark.parametrize("kind", ["pcap", "pcapng"])
def test_what_scapy_writes_is_read(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"one.{kind}"
    if kind == "pcap":
        wrpcap(str(path), [Ether(frame) for frame in FRAMES])
    else:
        with PcapNgWriter(str(path)) as writer:
            writer.write([Ether(frame) for frame in FRAMES])
    assert [one.data for one in pcap.read(path)] == FRAMES


@pytest.mark.parametrize("raw", [classic("<", nano=False), next_generation(">", nano=False)])
def test_a_truncated_file_is_one_clear_error_after_what_is_whole(tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / "cut.pcap"
    whole = 0
    for length in range(len(raw)):
        path.write_bytes(raw[:length])
        found, error = frames_of(path)
        assert found == FRAMES[: len(found)]
        if error:
            assert f"{path}: byte " in error
            assert "the file ends within" in error
        else:
            whole += 1
    assert whole >= len(FRAMES)


def frames_of(path: Path) -> tuple[list[bytes], str]:
    """Return the frames of a file up to an error, and that error's text."""
    found: list[bytes] = []
    try:
        found.extend(one.data for one in pcap.read(path))
    except CaptureError as error:
        return found, str(error)
    return found, ""


@given(data=st.binary(max_size=60), at=st.integers(0, 200), kind=st.integers(0, 3))
def test_no_bytes_make_the_reader_fail_otherwise(tmp_path_factory, data: bytes, at: int, kind: int) -> None:
    path = tmp_path_factory.getbasetemp() / "bytes.pcap"
    raw = [classic("<", nano=True), next_generation("<", nano=True), classic(">", nano=False), b""][kind]
    path.write_bytes(raw[:at] + data + raw[at + len(data) :])
    try:
        list(pcap.read(path))
    except CaptureError:
        return


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"hello there", "neither pcap nor pcapng"),
        (classic("<", nano=False, link=113), "link type 113"),
        (section("<", nano=False, link=113) + enhanced("<", False, 0, b"x"), "link type 113"),
        (struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 9, 1) + struct.pack("<IIII", 0, 0, 1 << 30, 1), "longest"),
        (section("<", nano=False)[:28] + enhanced("<", False, 0, b"x"), "interface 0"),
        (section("<", nano=False)[:-4] + b"\0\0\0\0", "at its end"),
    ],
)
def test_a_file_that_cannot_be_replayed_says_why(tmp_path: Path, raw: bytes, text: str) -> None:
    path = tmp_path / "bad.pcap"
    path.write_bytes(raw)
    with pytest.raises(CaptureError, match=text):
        list(pcap.read(path))


@pytest.fixture
def capture(tmp_path: Path) -> Path:
    path = tmp_path / "in.pcap"
    path.write_bytes(classic("<", nano=True))
    return path


def test_a_handler_runs_on_a_capture_and_what_goes_on_is_written(capture: Path, tmp_path: Path) -> None:
    function, seen = Function("one"), list[Meta]()
    verdicts = iter([GO_ON, drop(9), send_to("10.0.0.3")])

    @function.on_packet
    def handle(packet: Packet) -> Verdict:
        seen.append(packet.meta)
        packet.data[0] = 0xAA
        packet.grow_head(4)[:4] = b"head"
        packet.shrink_tail(10)
        return next(verdicts)

    out, meta = tmp_path / "out.pcap", Meta(Point.TO_ENDPOINT, vni=77)
    found = list(function.replay(capture, write=out, meta=meta))
    changed = [b"head\xaa" + frame[1:-10] for frame in FRAMES]
    assert [(one.verdict, one.packet, one.before) for one in found] == [
        (GO_ON, changed[0], FRAMES[0]),
        (drop(9), changed[1], FRAMES[1]),
        (send_to("10.0.0.3"), changed[2], FRAMES[2]),
    ]
    assert seen == [meta] * 3
    assert [(one.time_ns, one.data) for one in pcap.read(out)] == [(TIMES[0], changed[0]), (TIMES[2], changed[2])]
    assert [bytes(one) for one in rdpcap(str(out))] == [changed[0], changed[2]]


def test_a_packet_longer_than_any_of_the_wire_is_replayed(tmp_path: Path) -> None:
    path = tmp_path / "long.pcap"
    wrpcap(str(path), [Ether(FRAMES[0] + bytes(100_000))])
    function = Function("one")
    function.on_packet(lambda packet: drop(len(packet) > 65535))
    assert [one.verdict for one in function.replay(path)] == [drop(1)]


def test_kept_packets_are_not_written(capture: Path, tmp_path: Path) -> None:
    function = Function("one")
    function.on_batch(lambda batch: [setattr(packet, "verdict", KEEP) for packet in batch] and None)
    out = tmp_path / "out.pcap"
    assert [one.verdict for one in function.replay(capture, write=out)] == [KEEP] * 3
    assert list(pcap.read(out)) == []


def test_a_handler_that_fails_is_counted_logged_once_and_its_packets_get_on_error(
    capture: Path, caplog: pytest.LogCaptureFixture
) -> None:
    function = Function("one", on_error=drop(255))

    @function.on_packet
    def handle(packet: Packet) -> Verdict:
        if packet.data[14] == 2:
            return "go on"  # type: ignore[return-value]
        raise KeyError(packet.data[14])

    with caplog.at_level(logging.ERROR):
        found = list(function.replay(capture))
    assert [one.verdict for one in found] == [drop(255)] * 3
    assert function.counters.handler_errors == 3
    texts = [record.getMessage() for record in caplog.records]
    assert {record.exc_info[0] for record in caplog.records if record.exc_info} == {KeyError}
    assert any("'go on' is no verdict: return one" in text for text in texts)


def test_packets_of_a_batch_without_a_verdict_get_on_error(capture: Path) -> None:
    function = Function("one", on_error=SEND_BACK)

    @function.on_batch
    def handle(batch) -> None:
        for packet in batch:
            if packet.data[14] == 1:
                packet.verdict = drop(1)

    assert [one.verdict for one in function.replay(capture)] == [SEND_BACK, drop(1), SEND_BACK]
    assert function.counters.handler_errors == 2


def test_a_batch_handler_that_raises_keeps_the_verdicts_that_it_gave(capture: Path) -> None:
    function = Function("one", on_error=SEND_BACK)

    @function.on_batch
    def handle(batch) -> None:
        for packet in batch:
            packet.verdict = drop(1)
        raise RuntimeError

    assert [one.verdict for one in function.replay(capture)] == [drop(1)] * 3
    assert function.counters.handler_errors == 0


def test_a_packet_that_is_kept_beyond_its_verdict_says_so(capture: Path) -> None:
    function, kept = Function("one"), list[Packet]()

    @function.on_packet
    def handle(packet: Packet) -> Verdict:
        kept.append(packet)
        return GO_ON

    list(function.replay(capture))
    for use in (lambda: kept[0].data, lambda: kept[0].meta, lambda: len(kept[0]), lambda: kept[0].grow_head(1)):
        with pytest.raises(PacketGoneError, match="copy what you need"):
            use()


def test_a_function_has_one_handler() -> None:
    function = Function("one")
    with pytest.raises(ValueError, match="has no handler"):
        function.run()
    with pytest.raises(ValueError, match="has no handler"):
        function.replay("x.pcap")
    function.on_packet(lambda _: GO_ON)
    with pytest.raises(ValueError, match="a handler already"):
        function.on_batch(lambda _: None)


def test_wrong_arguments_are_refused_at_once() -> None:
    with pytest.raises(ValueError, match="at least one packet"):
        Function("one", batch=0)
    with pytest.raises(TypeError, match="give a verdict"):
        Function("one", on_error="drop")  # type: ignore[arg-type]
