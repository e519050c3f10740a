"""Prints one line for each dropped packet that the data plane shows to this function.

python mirror.py
"""

from __future__ import annotations

import time

from droplet_functions import KEEP, Function, HeaderError, Layers, Packet, Verdict

PROTOCOLS = {1: "ICMP", 6: "TCP", 17: "UDP", 58: "ICMPv6"}
function = Function("mirror", on_error=KEEP)


def conversation(layers: Layers) -> str:
    """Return the addresses of a packet, its protocol, and its ports if it has any."""
    if layers.ip is None:
        return f"EtherType 0x{layers.ethertype:04x}"
    protocol = PROTOCOLS.get(layers.ip.protocol, f"protocol {layers.ip.protocol}")
    ports = layers.tcp or layers.udp
    if ports is None:
        return f"{protocol} {layers.ip.source} > {layers.ip.destination}"
    return f"{protocol} {layers.ip.source} {ports.source_port} > {layers.ip.destination} {ports.destination_port}"


@function.on_packet
def handle(packet: Packet) -> Verdict:
    """Print what was dropped, and why."""
    meta = packet.meta
    try:
        what = conversation(packet.layers())
    except HeaderError as error:
        what = str(error)
    print(time.strftime("%H:%M:%S"), meta.drop_reason_name, f"VNI {meta.vni}:", what, flush=True)
    return KEEP


if __name__ == "__main__":
    function.run()
