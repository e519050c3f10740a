"""The examples in examples/functions on captures: what they answer, rewrite, print and drop."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from lab.function_examples import example
from scapy.layers.dns import DNS, DNSQR, DNSRR
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet, Raw
from scapy.utils import wrpcap

from agent.datapath.bpf import outcomes
from droplet_functions import GO_ON, KEEP, SEND, Meta, Point, drop
from droplet_functions.drop_reasons import DROP_REASONS
from droplet_functions.replay import Replayed
from protocol import drop_reasons

V4, V6 = IP(src="10.0.1.2", dst="10.0.1.53", ttl=9), IPv6(src="fd00::2", dst="fd00::53", hlim=9)
ENDS = {4: V4, 6: V6}
CLIENT, SERVER = "02:00:00:00:00:01", "02:00:00:00:00:02"
ETHER = Ether(src=CLIENT, dst=SERVER)
MALFORMED = drop(1)
Replay = Callable[..., list[Replayed]]
families = pytest.mark.parametrize("family", ENDS)


@pytest.fixture
def replay(tmp_path: Path) -> Replay:
    """Return what runs a function on packets."""

    def run(module: ModuleType, *packets: Packet, meta: Meta | None = None) -> list[Replayed]:
        path = tmp_path / "in.pcap"
        wrpcap(str(path), list(packets))
        return list(module.function.replay(path, meta=meta))

    return run


@pytest.fixture
def dns() -> ModuleType:
    made = example("dns")
    for address in ("10.0.1.20", "10.0.1.21", "fd00::20"):
        made.add("db.shop", address)
    made.add("only4.shop", "10.0.1.22")
    return made


def asked(family: int, question: object, **fields: int) -> Packet:
    return ETHER / ENDS[family] / UDP(sport=4000, dport=53) / DNS(id=77, rd=1, qd=question, **fields)


def assert_intact(data: bytes) -> None:
    """Hold that lengths and checksums are those that scapy computes."""
    found, built = Ether(data), Ether(data)
    for layer in (IP, UDP, TCP, IPv6):
        if built.haslayer(layer):
            for name in ("chksum", "len", "plen"):
                built[layer].fields.pop(name, None)
    assert bytes(built) == data, found.show(dump=True)


@families
@pytest.mark.parametrize(
    ("name", "kind", "answers", "code"),
    [
        ("db.shop", "A", ["10.0.1.20", "10.0.1.21"], 0),
        ("DB.Shop", "AAAA", ["fd00::20"], 0),
        ("only4.shop", "AAAA", [], 0),
        ("db.shop", "MX", [], 0),
        ("other.shop", "A", [], 3),
        (".", "A", [], 3),
    ],
)
def test_dns_answers_from_its_table(
    dns: ModuleType, replay: Replay, family: int, name: str, kind: str, answers: list[str], code: int
) -> None:
    (one,) = replay(dns, asked(family, DNSQR(qname=name, qtype=kind)))
    assert one.verdict == SEND
    assert_intact(one.packet)
    found, ends = Ether(one.packet), ENDS[family]
    assert (found.src, found.dst) == (SERVER, CLIENT)
    inner = found[type(ends)]
    assert (inner.src, inner.dst, found[UDP].sport, found[UDP].dport) == (ends.dst, ends.src, 53, 4000)
    assert (inner.ttl if family == 4 else inner.hlim) == 64
    answer = found[DNS]
    assert (answer.id, answer.qr, answer.aa, answer.rd, answer.rcode) == (77, 1, 1, 1, code)
    assert answer.qd[0].qname.decode().rstrip(".") == name.rstrip("."), "the question as it was asked"
    assert [record.rdata for record in answer.an] == answers
    assert {record.rrname.decode().rstrip(".") for record in answer.an} <= {name}


@families
def test_dns_answers_a_question_with_edns_and_one_without_a_checksum_or_with_padding(
    dns: ModuleType, replay: Replay, family: int
) -> None:
    question = DNSQR(qname="only4.shop", qtype="A")
    edns = asked(family, question, arcount=1) / Raw(b"\0\0\x29\x10\0\0\0\0\0\0\0")
    bare = asked(family, question)
    if family == 4:
        bare[UDP].chksum = 0
    padded = Ether(bytes(bare) + bytes(9))
    for one in replay(dns, edns, bare, padded):
        assert one.verdict == SEND
        answer = Ether(one.packet)[DNS]
        assert (answer.arcount, [record.rdata for record in answer.an]) == (0, ["10.0.1.22"])
        assert len(one.packet) == 14 + (20 if family == 4 else 40) + 8 + 12 + 16 + 16


@families
def test_dns_drops_what_is_no_question_under_its_own_reason(dns: ModuleType, replay: Replay, family: int) -> None:
    whole = bytes(DNS(qd=DNSQR(qname="db.shop", qtype="A")))
    broken = [whole[:size] for size in range(len(whole))]
    broken += [
        bytes(DNS(qr=1, qd=DNSQR(qname="db.shop"))),
        bytes(DNS(opcode=5, qd=DNSQR(qname="db.shop"))),
        whole[:5] + b"\2" + whole[6:],
        whole[:12] + b"\xc0\x0c" + whole[14:],
        whole[:12] + b"\x3f" + whole[13:],
    ]
    sent = [ETHER / ENDS[family] / UDP(sport=4000, dport=53) / Raw(one) for one in broken]
    found = replay(dns, *sent)
    assert {one.verdict for one in found} == {MALFORMED}
    assert [one.packet for one in found] == [one.before for one in found]
    assert dns.function.counters.handler_errors == 0


def test_dns_leaves_other_packets_to_the_next_function(dns: ModuleType, replay: Replay) -> None:
    others = (
        ETHER / V4 / UDP(sport=53, dport=54) / DNS(),
        ETHER / V6 / TCP(dport=53),
        ETHER / V4 / Raw(b"x" * 20),
        ETHER / ARP(),
    )
    found = replay(dns, *others)
    assert [(one.verdict, one.packet == one.before) for one in found] == [(GO_ON, True)] * 4


@pytest.fixture
def rewrite() -> ModuleType:
    made = example("rewrite")
    made.replace("10.0.1.20", "10.0.1.30")
    made.replace("fd00::20", "fd00::30")
    return made


def answered(family: int, *records: tuple[str, str], **fields: int) -> Packet:
    answers = [DNSRR(rrname="db.shop", type=kind, rdata=data, ttl=9) for kind, data in records]
    message = DNS(id=7, qr=1, qd=DNSQR(qname="db.shop", qtype="ALL"), an=answers, **fields)
    return ETHER / ENDS[family] / UDP(sport=53, dport=4000) / message


@families
def test_rewrite_replaces_the_addresses_of_its_table_wherever_they_are(
    rewrite: ModuleType, replay: Replay, family: int
) -> None:
    records = (("CNAME", "x.shop"), ("A", "10.0.1.20"), ("AAAA", "fd00::20"), ("A", "10.0.1.21"), ("TXT", "10.0.1.20"))
    (one,) = replay(rewrite, answered(family, *records))
    assert one.verdict == GO_ON
    wanted = answered(family, *(("A", "10.0.1.30") if one == records[1] else one for one in records))
    wanted[DNS].an[2].rdata = "fd00::30"
    assert one.packet == bytes(wanted)
    assert_intact(one.packet)


@families
def test_rewrite_leaves_all_other_packets_as_they_are(rewrite: ModuleType, replay: Replay, family: int) -> None:
    answer = bytes(answered(family, ("A", "10.0.1.20"))[DNS])
    question = DNS(qd=DNSQR(qname="db.shop"), an=[DNSRR(rrname="db.shop", rdata="10.0.1.20")])
    others = [
        ETHER / ENDS[family] / UDP(sport=53, dport=4000) / question,
        ETHER / ENDS[family] / UDP(sport=4000, dport=53) / Raw(answer),
        ETHER / ENDS[family] / TCP(sport=53) / Raw(answer),
        ETHER / ARP(),
        *(ETHER / ENDS[family] / UDP(sport=53, dport=4000) / Raw(answer[:size]) for size in range(len(answer))),
    ]
    found = replay(rewrite, *others)
    assert {(one.verdict, one.packet == one.before) for one in found} == {(GO_ON, True)}
    assert rewrite.function.counters.handler_errors == 0


def test_rewrite_refuses_a_pair_of_two_families(rewrite: ModuleType) -> None:
    with pytest.raises(ValueError, match=r"10\.0\.0\.1 and fd00::1 are of different families"):
        rewrite.replace("10.0.0.1", "fd00::1")


def test_mirror_prints_what_was_dropped_and_why(replay: Replay, capsys: pytest.CaptureFixture[str]) -> None:
    mirror = example("mirror")
    dropped = Meta(Point.DROPPED, vni=1001, drop_reason=33)
    packets = (
        ETHER / V4 / UDP(sport=4000, dport=53),
        ETHER / V6 / TCP(sport=4000, dport=80),
        ETHER / V4 / Raw(b"12345678"),
        ETHER / ARP(),
        Raw(bytes(ETHER / V4 / TCP())[:40]),
    )
    found = replay(mirror, *packets, meta=dropped)
    assert {one.verdict for one in found} == {KEEP}
    lines = [line.split(" ", 1)[1] for line in capsys.readouterr().out.splitlines()]
    assert lines[:2] == [
        "source_address VNI 1001: UDP 10.0.1.2 4000 > 10.0.1.53 53",
        "source_address VNI 1001: TCP fd00::2 4000 > fd00::53 80",
    ]
    assert lines[2].endswith(" > 10.0.1.53")
    assert lines[3].endswith(": EtherType 0x0806")
    assert " needs " in lines[4]


def test_the_library_knows_all_reasons_by_the_numbers_of_the_data_plane() -> None:
    known = {outcome.value: outcome.name.lower() for outcome in outcomes.DROPPED}
    assert known == DROP_REASONS
    assert set(known.values()) == set(drop_reasons.DROP_REASONS)


def test_a_reason_that_the_library_does_not_know_is_its_number() -> None:
    assert Meta(drop_reason=250).drop_reason_name == "250"
