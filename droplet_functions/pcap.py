"""Reads captures of Ethernet frames, classic pcap and pcapng, and writes classic pcap. No other library is needed.

A file that ends within a record, or contradicts itself, is a CaptureError that names the byte.
"""

from __future__ import annotations

from collections.abc import Iterator
from os import PathLike
from pathlib import Path
from struct import Struct, unpack_from
from types import TracebackType
from typing import BinaryIO, NamedTuple, Self

from droplet_functions.errors import CaptureError

ETHERNET = 1
LONGEST = 1 << 18
"""Bytes of the longest frame that a file may claim: what tcpdump allows."""
_LONGEST_BLOCK = 1 << 24
_CLASSIC = {
    b"\xa1\xb2\xc3\xd4": (">", 1000),
    b"\xd4\xc3\xb2\xa1": ("<", 1000),
    b"\xa1\xb2\x3c\x4d": (">", 1),
    b"\x4d\x3c\xb2\xa1": ("<", 1),
}
"""Magic number -> byte order, and nanoseconds in a unit of time."""
_SECTION = b"\x0a\x0d\x0d\x0a"
_INTERFACE, _SIMPLE, _ENHANCED = 1, 3, 6
_IF_TSRESOL, _END_OF_OPTIONS = 9, 0


class Captured(NamedTuple):
    """A frame of a capture. `length` was its length on the wire; `data` may hold less."""

    time_ns: int
    data: bytes
    length: int


class _Input:
    """A file that is read in whole pieces, and knows where it is."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self._file, self._path, self.offset = file, path, 0

    def read(self, count: int, what: str, *, may_end: bool = False) -> bytes:
        """Return so many bytes; none at the file's end if it may end here, else CaptureError."""
        found = self._file.read(count)
        if len(found) < count and (found or not may_end):
            raise self.error(f"the file ends within {what}: {count} bytes expected, {len(found)} left")
        self.offset += len(found)
        return found

    def error(self, text: str) -> CaptureError:
        return CaptureError(f"{self._path}: byte {self.offset}: {text}")


def read(path: str | PathLike[str]) -> Iterator[Captured]:
    """Yield the frames of a capture file; CaptureError when it is damaged, OSError when it cannot be read."""
    with Path(path).open("rb") as file:
        source = _Input(file, Path(path))
        magic = source.read(4, "the first four bytes")
        if magic in _CLASSIC:
            yield from _read_classic(source, *_CLASSIC[magic])
        elif magic == _SECTION:
            yield from _read_pcapng(source)
        else:
            raise source.error(f"neither pcap nor pcapng: the file begins with {magic.hex()}")


def _read_classic(source: _Input, order: str, unit: int) -> Iterator[Captured]:
    header, record = Struct(f"{order}HHiIII"), Struct(f"{order}IIII")
    link = header.unpack(source.read(header.size, "the file header"))[5] & 0xFFFF
    _check_link(source, link)
    while raw := source.read(record.size, "a packet's header", may_end=True):
        seconds, fraction, captured, length = record.unpack(raw)
        _check_length(source, captured)
        yield Captured(seconds * 10**9 + fraction * unit, source.read(captured, "a packet"), length)


def _check_link(source: _Input, link: int) -> None:
    if link != ETHERNET:
        raise source.error(f"link type {link}: only captures of Ethernet (1) can be replayed")


def _check_length(source: _Input, length: int) -> None:
    if length > LONGEST:
        raise source.error(f"a packet of {length} bytes: the longest possible has {LONGEST}")


class _Interface(NamedTuple):
    """An interface of a pcapng section: its link type, and its timestamps' units in a second."""

    link: int
    units: int


def _read_pcapng(source: _Input) -> Iterator[Captured]:
    """Yield the frames of all sections. The first block's type has been read already."""
    order, interfaces = _section_header(source), list[_Interface]()
    while raw := source.read(4, "a block's type", may_end=True):
        if raw == _SECTION:
            order, interfaces = _section_header(source), []
            continue
        kind = unpack_from(f"{order}I", raw)[0]
        body = _body(source, order, source.read(4, "a block's length"))
        if kind == _INTERFACE:
            interfaces.append(_interface(source, order, body))
        elif kind == _ENHANCED:
            yield _enhanced(source, order, body, interfaces)
        elif kind == _SIMPLE:
            yield _simple(source, order, body, interfaces)


def _section_header(source: _Input) -> str:
    """Read a section header block from its length on, and return the section's byte order."""
    raw_length, magic = source.read(4, "a section header"), source.read(4, "a section header")
    orders = {b"\x1a\x2b\x3c\x4d": ">", b"\x4d\x3c\x2b\x1a": "<"}
    if magic not in orders:
        raise source.error(f"the byte order of a section is {magic.hex()}")
    order = orders[magic]
    _body(source, order, raw_length, read=4)
    return order


def _body(source: _Input, order: str, raw_length: bytes, *, read: int = 0) -> bytes:
    """Read the rest of a block, of whose body `read` bytes are read, and check the length at its end."""
    length = unpack_from(f"{order}I", raw_length)[0]
    if length % 4 or not 12 + read <= length <= _LONGEST_BLOCK:
        raise source.error(f"a block of {length} bytes")
    body = source.read(length - 12 - read, "a block")
    again = unpack_from(f"{order}I", source.read(4, "the end of a block"))[0]
    if again != length:
        raise source.error(f"a block of {length} bytes says {again} at its end")
    return body


def _need(source: _Input, body: bytes, count: int) -> None:
    if len(body) < count:
        raise source.error(f"a block holds {len(body)} bytes where {count} are needed")


def _interface(source: _Input, order: str, body: bytes) -> _Interface:
    _need(source, body, 8)
    link, units, at = unpack_from(f"{order}H", body)[0], 10**6, 8
    while at + 4 <= len(body):
        code, length = unpack_from(f"{order}HH", body, at)
        if code == _END_OF_OPTIONS:
            break
        _need(source, body, at + 4 + length)
        if code == _IF_TSRESOL and length:
            value = body[at + 4]
            units = 2 ** (value & 0x7F) if value & 0x80 else 10**value
        at += 4 + (length + 3) // 4 * 4
    return _Interface(link, units)


def _enhanced(source: _Input, order: str, body: bytes, interfaces: list[_Interface]) -> Captured:
    _need(source, body, 20)
    number, high, low, captured, length = unpack_from(f"{order}IIIII", body)
    interface = _known(source, interfaces, number)
    _check_length(source, captured)
    _need(source, body, 20 + captured)
    time_ns = (high << 32 | low) * 10**9 // interface.units
    return Captured(time_ns, body[20 : 20 + captured], length)


def _simple(source: _Input, order: str, body: bytes, interfaces: list[_Interface]) -> Captured:
    _need(source, body, 4)
    _known(source, interfaces, 0)
    length = unpack_from(f"{order}I", body)[0]
    return Captured(0, body[4 : 4 + min(length, len(body) - 4)], length)


def _known(source: _Input, interfaces: list[_Interface], number: int) -> _Interface:
    if number >= len(interfaces):
        raise source.error(f"a packet of interface {number}, and the section has described {len(interfaces)}")
    _check_link(source, interfaces[number].link)
    return interfaces[number]


class Writer:
    """Writes frames to a classic pcap file with nanoseconds. A context manager."""

    _HEADER = Struct("<IHHiIII")
    _RECORD = Struct("<IIII")

    def __init__(self, path: str | PathLike[str]) -> None:
        self._file = Path(path).open("wb")  # noqa: SIM115 - closed by `close`
        self._file.write(self._HEADER.pack(0xA1B23C4D, 2, 4, 0, 0, LONGEST, ETHERNET))

    def write(self, time_ns: int, data: bytes) -> None:
        """Write one frame."""
        seconds, fraction = divmod(time_ns, 10**9)
        self._file.write(self._RECORD.pack(seconds, fraction, len(data), len(data)) + data)

    def close(self) -> None:
        """Finish the file."""
        self._file.close()

    def __enter__(self) -> Self:
        """Return the writer."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Finish the file."""
        self.close()
