"""The frames of the benchmark: scapy, which knows nothing of ours, finds their lengths and sums right."""

from __future__ import annotations

import warnings
from importlib import import_module

import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # scapy's own, about its dependencies
    from scapy.layers.l2 import Ether

    for protocol in ("contrib.geneve", "layers.inet", "layers.inet6", "layers.vxlan"):
        import_module(f"scapy.{protocol}")  # which tells scapy by what each is announced

from bench import frames, lines

FRAMES = {
    f"{group.title}: {line.name}, {line.direction}": line.frame(bytes(6))
    for group in lines.GROUPS
    for line in group.lines
} | {
    "sent": frames.sent_by_endpoint(),
    "in VXLAN": frames.in_vxlan(bytes(6)),
}


@pytest.mark.parametrize("frame", FRAMES.values(), ids=FRAMES)
def test_every_frame_has_the_lengths_and_sums_that_it_declares(frame: bytes) -> None:
    packet = Ether(frame)
    names = [layer.__name__ for layer in packet.layers()]
    assert names[-3:-1] in (["IP", "UDP"], ["IPv6", "UDP"], ["IP", "TCP"], ["IPv6", "TCP"])
    for layer in (packet.getlayer(depth) for depth in range(len(names))):
        for name in ("len", "plen", "optionlen"):
            if name in layer.fields:
                del layer.fields[name]
        if layer.fields.get("chksum"):  # 0 of UDP: none
            del layer.fields["chksum"]
    assert Ether.build(packet) == frame


def test_a_small_inner_frame_has_the_requested_length() -> None:
    assert len(frames.sent_by_endpoint()) == frames.INNER_LENGTH
    assert len(frames.in_geneve(bytes(6))) == frames.INNER_LENGTH + lines.OVERHEAD
