"""Replaces addresses in the DNS answers that an endpoint receives: its clients see other addresses than the rest.

python rewrite.py 10.0.1.20=10.0.1.30 fd10:0:0:1::20=fd10:0:0:1::30
"""

from __future__ import annotations

import struct
import sys
from ipaddress import ip_address

from droplet_functions import GO_ON, Function, HeaderError, Packet, Verdict, rewrite

PORT, ADDRESS_TYPES = 53, {1: 4, 28: 16}
replaced: dict[bytes, bytes] = {}
"""The packed address to write in place of another one."""
function = Function("rewrite")


def replace(old: str, new: str) -> None:
    """Replace an address by another one of the same family."""
    before, after = ip_address(old), ip_address(new)
    if before.version != after.version:
        raise ValueError(f"{old} and {new} are of different families")
    replaced[before.packed] = after.packed


def end_of_name(message: bytes, at: int) -> int:
    """Return where the name at an offset ends."""
    while size := message[at]:
        if size >= 0xC0:  # the rest of the name is elsewhere in the message
            return at + 2
        at += 1 + size
    return at + 1


def addresses(message: bytes) -> list[int]:
    """Return where the answers of a DNS message hold addresses; IndexError or struct.error if it is cut off."""
    _, flags, questions, answers = struct.unpack_from("!4H", message)
    at, found = 12, []
    for _ in range(questions):
        at = end_of_name(message, at) + 4
    for _ in range(answers if flags & 0x8000 else 0):
        at = end_of_name(message, at)
        kind, _, _, size = struct.unpack_from("!HHIH", message, at)
        if ADDRESS_TYPES.get(kind) == size:
            found.append(at + 10)
        at += 10 + size
    return found


@function.on_packet
def handle(packet: Packet) -> Verdict:
    """Let each packet go on, with other addresses if it is a DNS answer that has one of those to replace."""
    try:
        layers = packet.layers()
        if layers.udp is None or layers.udp.source_port != PORT:
            return GO_ON
        message = bytes(layers.payload)
        for at in addresses(message):
            size = struct.unpack_from("!H", message, at - 2)[0]
            new = replaced.get(message[at : at + size])
            if new is not None:
                rewrite.write_payload(layers, at, new)
    except (HeaderError, IndexError, struct.error):
        pass  # not for this function to check
    return GO_ON


if __name__ == "__main__":
    for one in sys.argv[1:]:
        replace(*one.split("=", 1))
    function.run()
