"""What dropletctl prints of objects: columns appear when they say something."""

from __future__ import annotations

import pytest

from agent.cli import show
from protocol.documents import Droplet, Endpoint, Network
from protocol.rpc import PathReply

ENDPOINT = Endpoint("a", "front", "d1", ("192.168.1.5",), "02:00:00:00:00:05")


def printed(capsys: pytest.CaptureFixture[str], kind: str, *items: object) -> str:
    show.objects(kind, [("h1", item) for item in items], wide=True)
    return capsys.readouterr().out


@pytest.mark.parametrize(
    ("kind", "usual", "other", "column"),
    [
        ("droplets", Droplet("d", "h1", "2001:db8::1"), Droplet("d", "h1", "2001:db8::1", "zero"), "UDP CHECKSUM"),
        (
            "networks",
            Network("n", "v", ("10.0.0.0/8",)),
            Network("n", "v", ("10.0.0.0/8",), encapsulation="vxlan"),
            "ENCAPSULATION",
        ),
        (
            "networks",
            Network("n", "v", ("10.0.0.0/8",)),
            Network("n", "v", ("10.0.0.0/8",), routing="divider"),
            "ROUTING",
        ),
        ("endpoints", ENDPOINT, Endpoint("b", "front", "d1", ("192.168.1.6",), ENDPOINT.mac, None, 46), "DSCP"),
    ],
)
def test_a_column_stands_there_when_one_object_is_unusual(capsys, kind, usual, other, column) -> None:
    assert column not in printed(capsys, kind, usual)
    both = printed(capsys, kind, usual, other).splitlines()
    assert column in both[0]
    assert len({len(line.split()) for line in both[2:]}) == 1


def test_a_way_is_told_with_its_encapsulation() -> None:
    answer = PathReply("bouncer", ("10.0.0.2", "10.0.0.3"), encapsulation="geneve")
    assert show.path_line("a", "fd00::7", answer) == "a -> fd00::7: bouncer, to 10.0.0.2 or 10.0.0.3, by geneve"
    assert show.path_line("a", "8.8.8.8", PathReply("none", reason="outside_vpc")).endswith("no way: outside_vpc")
