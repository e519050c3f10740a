"""The bytes on the wire, read by a decoder that is not ours."""

from __future__ import annotations

import warnings

import bpf_packets as p
from bpf_dut import D1, D2, D3, DROPLET_MAC, MAC, VNI, A, Dut, R

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # scapy's own, about its dependencies
    from scapy.contrib.geneve import GENEVE
    from scapy.layers.inet import IP, UDP
    from scapy.layers.l2 import Ether


def text(mac: bytes) -> str:
    return mac.hex(":")


def test_scapy_reads_a_direct_packet_as_it_was_meant(dut: Dut) -> None:
    inner = p.ethernet(MAC[R], MAC[A], p.IPV4, p.ipv4(A, R, p.udp(), tos=0x2E << 2 | 2))
    frame = Ether(dut.from_endpoint(inner).frame)
    assert (frame.src, frame.dst) == (text(DROPLET_MAC[D1]), text(DROPLET_MAC[D2]))
    assert (frame[IP].src, frame[IP].dst, frame[IP].ttl, frame[IP].flags) == (D1, D2, 64, "DF")
    assert frame[IP].tos == 2, "ECN is the inner one, DSCP the endpoint's class"
    assert (frame[UDP].dport, frame[UDP].chksum, frame[UDP].len) == (6081, 0, 16 + len(inner))
    geneve = frame[GENEVE]
    assert (geneve.version, geneve.optionlen, geneve.oam, geneve.critical) == (0, 0, 0, 0)
    assert (geneve.proto, geneve.vni) == (0x6558, VNI)
    assert bytes(geneve.payload) == inner


def test_scapy_finds_the_outer_checksum_right(dut: Dut) -> None:
    inner = p.ethernet(MAC[R], MAC[A], p.IPV4, p.ipv4(A, R, p.udp()))
    frame = Ether(dut.from_endpoint(inner).frame)
    sent = frame[IP].chksum
    del frame[IP].chksum
    assert Ether(bytes(frame))[IP].chksum == sent


def test_scapy_reads_the_return_to_sender_option(dut: Dut) -> None:
    inner = p.ethernet(MAC[R], MAC[A], p.IPV4, p.ipv4(A, "10.0.0.77", p.udp()))
    frame = Ether(dut.from_endpoint(inner).frame)
    assert frame[IP].dst == D3
    geneve = frame[GENEVE]
    assert (geneve.optionlen, geneve.critical) == (3, 0)
    option = geneve.options[0]
    assert (option.classid, option.type, option.length) == (0xFF4D, 1, 2)
    assert bytes(option)[4:] == bytes(4) + p.ip(D1)
    assert bytes(geneve.payload) == inner


def test_a_packet_that_scapy_builds_is_delivered(dut: Dut) -> None:
    inner = p.ethernet(MAC[A], MAC[R], p.IPV4, p.ipv4(R, A, p.udp()))
    outer = Ether(src=text(DROPLET_MAC[D2]), dst=text(DROPLET_MAC[D1])) / IP(src=D2, dst=D1)
    frame = bytes(outer / UDP(sport=50000, dport=6081) / GENEVE(vni=VNI, proto=0x6558) / Ether(inner))
    assert frame[40:42] != b"\0\0", "with a UDP checksum, which is verified"
    assert dut.from_underlay(frame).frame == inner
