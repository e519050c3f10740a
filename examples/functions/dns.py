"""Answers DNS questions for A and AAAA records at a function endpoint.

python dns.py db.shop=10.0.1.20 db.shop=fd10:0:0:1::20
"""

from __future__ import annotations

import struct
import sys
from ipaddress import ip_address

from droplet_functions import GO_ON, SEND, Function, HeaderError, Layers, Packet, Verdict, drop, rewrite

PORT, INTERNET, A, AAAA, TTL = 53, 1, 1, 28, 60
ANSWER, NO_SUCH_NAME, RECURSION_DESIRED = 0x8400, 3, 0x0100
MALFORMED = 1
"""The reason for which this function drops packets; the data plane counts drops by reason."""
records: dict[tuple[str, int], list[bytes]] = {}
"""Packed addresses by name and type."""
function = Function("dns")


def add(name: str, address: str) -> None:
    """Add an address of a name."""
    packed = ip_address(address).packed
    for kind in (A, AAAA):
        records.setdefault((name.lower(), kind), [])
    records[name.lower(), A if len(packed) == 4 else AAAA].append(packed)


def read_name(message: bytes, at: int) -> tuple[str, int]:
    """Return the name at an offset, and where it ends; HeaderError for one that no question has."""
    labels = []
    while size := message[at]:
        if size > 63:
            raise HeaderError("a compressed name in a question")
        labels.append(message[at + 1 : at + 1 + size].decode("latin-1"))
        at += 1 + size
    return ".".join(labels).lower(), at + 1


def answer_to(message: bytes) -> bytes:
    """Return the answer to a query; HeaderError, IndexError or struct.error for what is no query."""
    number, flags, questions = struct.unpack_from("!HHH", message)
    if flags & 0xF800 or questions != 1:
        raise HeaderError("not a query with one question")
    name, end = read_name(message, 12)
    kind, of_class = struct.unpack_from("!HH", message, end)
    found = records.get((name, kind), []) if of_class == INTERNET else []
    code = 0 if (name, A) in records else NO_SUCH_NAME
    head = struct.pack("!6H", number, ANSWER | flags & RECURSION_DESIRED | code, 1, len(found), 0, 0)
    answers = (struct.pack("!HHHIH", 0xC00C, kind, INTERNET, TTL, len(one)) + one for one in found)
    return head + message[12 : end + 4] + b"".join(answers)


def send_back(packet: Packet, layers: Layers, start: int, payload: bytes) -> Verdict:
    """Turn a datagram into its answer, whose payload begins at `start`, and send it as this endpoint."""
    rewrite.swap(layers)
    rewrite.set_ttl(layers, 64)
    more = start + len(payload) - len(packet)
    data = packet.grow_tail(more) if more > 0 else packet.shrink_tail(-more)
    data[start:] = payload
    rewrite.refresh(layers, data)
    return SEND


@function.on_packet
def handle(packet: Packet) -> Verdict:
    """Answer a question; what is no DNS goes on to the next function of this endpoint."""
    try:
        layers = packet.layers()
        if layers.udp is None or layers.udp.destination_port != PORT:
            return GO_ON
        answer = answer_to(bytes(layers.payload))
        return send_back(packet, layers, layers.udp.offset + layers.udp.header_size, answer)
    except (HeaderError, IndexError, struct.error):
        return drop(MALFORMED)


if __name__ == "__main__":
    for one in sys.argv[1:]:
        add(*one.split("=", 1))
    function.run()
