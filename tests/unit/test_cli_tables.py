"""What dropletctl prints of objects: columns appear when they say something."""

from __future__ import annotations

import time

import pytest
from msgspec.structs import replace

from agent.cli import tables
from agent.cli.output import table
from agent.core.nexthop.next_hops import Reason
from agent.datapath.bpf import outcomes
from protocol.acknowledgements import Acknowledgement, Reference, State
from protocol.documents import Droplet, Endpoint, Network
from protocol.errors import ErrorCode, FieldError
from protocol.rpc import PathReply, PeerPath
from protocol.status import (
    AgentState,
    Counters,
    DocumentCounts,
    LostFrames,
    NarrowPath,
    ObjectCounts,
    Status,
    Traffic,
    UnresolvedNextHops,
    UplinkStatus,
)

ENDPOINT = Endpoint("a", "front", "d1", ("192.168.1.5",), "02:00:00:00:00:05")


def printed(capsys: pytest.CaptureFixture[str], kind: str, *items: object) -> str:
    tables.objects(kind, [("h1", item) for item in items], wide=True)
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
        (
            "networks",
            Network("n", "v", ("10.0.0.0/8",)),
            Network("n", "v", ("10.0.0.0/8",), labels=True),
            "LABELS",
        ),
        ("endpoints", ENDPOINT, Endpoint("b", "front", "d1", ("192.168.1.6",), ENDPOINT.mac, None, 46), "DSCP"),
        ("endpoints", ENDPOINT, Endpoint("b", "front", "d1", ("192.168.1.6",), ENDPOINT.mac, label=7), "LABEL"),
    ],
)
def test_a_column_is_shown_if_one_object_has_an_unusual_value(capsys, kind, usual, other, column) -> None:
    assert column not in printed(capsys, kind, usual)
    both = printed(capsys, kind, usual, other).splitlines()
    assert column in both[0]
    assert len({len(line.split()) for line in both[2:]}) == 1


def test_counters_end_with_the_frames_lost_in_the_kernel_or_why_they_are_unknown(capsys) -> None:
    now = Counters("h1", 1.0, {}, lost=(LostFrames("no_receiver", "eth0", 1234),))
    tables.counters(now, None, rates=False, wide=False)
    assert capsys.readouterr().out.splitlines()[-1].split() == ["eth0", "no_receiver", "1,234"]
    assert tables.plain_counters(now)["lost"] == [{"reason": "no_receiver", "interface": "eth0", "frames": 1234}]
    tables.counters(Counters("h1", 1.0, {}, lost_unknown="no BTF"), None, rates=False, wide=False)
    assert capsys.readouterr().out.splitlines()[-1].endswith("are not counted: no BTF")


def test_counters_say_for_which_programs_lost_frames_are_not_counted(capsys) -> None:
    now = Counters("h1", 1.0, {}, lost=(LostFrames("no_receiver", "eth0", 1),), lost_at_tc="12 endpoints (tcx)")
    tables.counters(now, None, rates=False, wide=False)
    assert (
        capsys.readouterr()
        .out.splitlines()[-1]
        .startswith(
            "frames that the kernel dropped after programs at tc are not counted here (12 endpoints (tcx)): see"
        )
    )
    assert tables.plain_counters(now)["lost_at_tc"] == "12 endpoints (tcx)"


def test_counters_are_grouped_by_what_became_of_the_packets(capsys) -> None:
    names = ("too_big", "of_a_newer_agent", "passed", "sent_direct", "received_from_endpoint", "arp_answered", "no_vpc")
    now = Counters("h1", 1.0, {name: Traffic(1, 60) for name in names} | {"no_network": Traffic(0, 0)})
    tables.counters(now, None, rates=False, wide=False)
    lines = [line.split()[:2] for line in capsys.readouterr().out.splitlines()[2:]]
    assert lines == [
        ["received", "received_from_endpoint"],
        ["passed", "passed"],
        ["answered", "arp_answered"],
        ["forwarded", "sent_direct"],
        ["dropped", "no_vpc"],
        ["dropped", "too_big"],
        ["other", "of_a_newer_agent"],
    ]


def test_a_trace_is_shown_with_its_encapsulation() -> None:
    answer = PathReply("bouncer", ("10.0.0.2", "10.0.0.3"), encapsulation="geneve")
    assert tables.path_line("a", "fd00::7", answer) == "a -> fd00::7: bouncer, to 10.0.0.2 or 10.0.0.3, by geneve"
    named = PathReply("divider", ("10.0.0.2", "10.0.0.3"), droplets=("d2", "d3"), down=("10.0.0.3",))
    line = "a -> fd00::7: divider, to d2 (10.0.0.2) or d3 (10.0.0.3), which does not answer"
    assert tables.path_line("a", "fd00::7", named) == line
    outside = tables.path_line("a", "8.8.8.8", PathReply("none", reason="outside_vpc"))
    assert outside == "a -> 8.8.8.8: no route: the address is in no network of the VPC"
    dropped = tables.path_line("a", "10.0.0.9", PathReply("none", reason="no_endpoint"))
    sentence = outcomes.SENTENCES[outcomes.Outcome.NO_ENDPOINT]
    assert dropped == f"a -> 10.0.0.9: no route: no_endpoint: {sentence}"
    assert tables.path_line("a", "b", PathReply("none", reason="of_a_newer_agent")).endswith(": of_a_newer_agent")


def status(**more: object) -> Status:
    counts = DocumentCounts(realized=1), ObjectCounts(endpoints=1)
    return Status("h1", "1", "b", 0.0, 60.0, AgentState.DEGRADED, 1, "", *counts, **more)


def test_a_droplet_that_is_down_is_a_problem_with_its_time_and_remedy(capsys) -> None:
    down = [PeerPath("h2", "10.0.0.2", "h1", "down", time.time() - age, 1500, 1500) for age in (61, 30)]
    up = PeerPath("h3", "10.0.0.3", "h1", "up", 1.0, 1500, 1500)
    tables.statuses([status(down_droplets=("h2",))], [], wide=True, down_since=tables.down_since({"h1": [*down, up]}))
    (row,) = [line for line in capsys.readouterr().out.splitlines() if "droplet h2 is down" in line]
    assert "it answers no probes, for 1m01s now" in row
    assert "check that its host, agent and interface are up" in row


def test_refused_gso_packets_are_a_problem_with_a_remedy_only_where_endpoints_are(capsys) -> None:
    found = status(gso_refused="this host sends such checksums from d00")
    tables.statuses([found], [], wide=True)
    assert "udp_checksum" not in capsys.readouterr().out
    local = replace(found, objects=ObjectCounts(endpoints=1, local_endpoints=1))
    tables.statuses([local], [], wide=True)
    (row,) = [line for line in capsys.readouterr().out.splitlines() if "checksums from d00" in line]
    assert "set udp_checksum to zero in the documents of these droplets" in row


def test_equal_causes_of_documents_stand_once_with_their_remedy(capsys, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    unsigned = (FieldError("$", ErrorCode.UNTRUSTED, "it is not signed; have the controller sign it"),)
    rows = [("h1", Acknowledgement(f"d{n}", n, State.REJECTED, time.time(), errors=unsigned)) for n in range(6)]
    missing = (Reference("networks", "frnt"), Reference("vpcs", "red"), Reference("and", "57 more"))
    rows.append(("h1", Acknowledgement("web", 7, State.PENDING, time.time(), missing=missing)))
    tables.acknowledgements(rows, wide=False)
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    words = " ".join(out.split())
    assert "HOST DOCUMENTS CAUSE REMEDY" in words
    assert words.count("it is not signed") == words.count("have the controller") == 1
    assert "6: d0, d1, d2" in words
    assert tables.why(rows[-1][1]).startswith("needs network frnt, VPC red, and 57 more")


def test_programs_of_endpoints_that_run_elsewhere_are_counted_in_the_status(capsys) -> None:
    for hooks, shown in (({}, "tcx"), ({"tcx": 3, "none": 0}, "tcx"), ({"none": 1, "tcx": 2}, "2 tcx, 1 none")):
        tables.statuses([status(endpoint_hook="tcx", endpoint_hooks=hooks)], [], wide=True)
        assert f"0 of 1 {shown}  " in capsys.readouterr().out


def test_down_droplets_and_narrow_paths_are_shown_in_the_status(capsys) -> None:
    tables.statuses([status()], [], wide=True)
    assert "DOWN" not in capsys.readouterr().out
    tables.statuses([status(down_droplets=("h2",))], ["h3"], wide=True)
    head, _, first, second = capsys.readouterr().out.splitlines()[:4]
    assert "DOWN" in head
    assert "NARROW" not in head
    assert first.split()[-1] == "h2"
    assert second.split()[-1] == "-"
    tables.statuses([status(narrow_paths=(NarrowPath("h2", "10.0.0.2", 1500, 1400, "h1"),))], [], wide=True)
    assert "h2 1400 of 1500" in capsys.readouterr().out


MANY = UnresolvedNextHops(Reason.TABLE_FULL.value, 1200, tuple(f"2001:db8:1:2:3:4:5:{n:x}" for n in range(100)))


def test_the_causes_of_degraded_hosts_are_below_the_table(capsys) -> None:
    tables.statuses([status()], [], wide=False)
    assert "PROBLEM" not in capsys.readouterr().out
    few = UnresolvedNextHops(Reason.NO_ROUTE.value, 1, ("10.0.0.9",))
    troubled = status(unresolved_next_hops=(MANY, few), unreadable="Network is down: eth0")
    tables.statuses([troubled], ["h3"], wide=True)
    out = capsys.readouterr().out
    (row,) = [line for line in out.splitlines() if line.startswith("h1") and "degraded" in line]
    assert row.split()[-1] == "1201"
    assert "no next hop to 10.0.0.9 " in out
    assert Reason.NO_ROUTE.value in out
    assert Reason.TABLE_FULL.value in out
    assert MANY.addresses[-1] in out
    assert "and 1,100 more" in out
    assert "the agent cannot read the kernel" in out
    assert "Network is down: eth0" in out


@pytest.mark.parametrize("columns", [80, 120])
def test_the_reasons_fit_a_terminal(capsys, monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    tables.statuses([status(unresolved_next_hops=(MANY,), unreadable="x" * 100)], [], wide=False)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= columns
    assert len(lines) < 20
    assert "1,197" in " ".join(lines).split()


HEADINGS = {word for heading in (*tables.STATUS, *tables.TROUBLES) for word in heading.split()}


@pytest.mark.parametrize("columns", [50, 60, 75, 80, 120, 200])
def test_no_width_breaks_a_heading_or_hides_a_column_without_a_notice(capsys, monkeypatch, columns: int) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    narrow = tuple(NarrowPath(f"host-{n}", "10.0.0.2", 1500, 1400, "h1") for n in range(5))
    uplinks = tuple(UplinkStatus(f"eth{n}", attach_mode="native") for n in range(2))
    tables.statuses([status(narrow_paths=narrow, uplinks=uplinks)], ["h3"], wide=False)
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= columns
    upper = {word.strip(":") for word in out.split() if word.strip(":").isupper()}
    assert upper - {"HOOK"} == HEADINGS - {"UNRESOLVED", "DOWN", "HOOK"}
    assert ("not shown: HOOK (use a wider terminal" in out) == (columns == 75)
    assert "host-4" in out
    assert ("native" in out) == (columns != 75)
    assert "answer" in out.split()


def test_a_table_that_does_not_fit_is_printed_as_blocks(capsys, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "24")
    table(("HOST", "NOT REALIZED", "ADDRESSES"), [("h1", "0", "10.0.0.1 10.0.0.2")], "none")
    assert capsys.readouterr().out == (
        "HOST:         h1        \nNOT REALIZED: 0         \nADDRESSES:    10.0.0.1  \n              10.0.0.2  \n"
    )


def test_a_path_to_a_peer_is_one_line(capsys) -> None:
    up = PeerPath("h2", "10.0.0.2", "h1", "up", time.time() - 61, 1500, 1500, 0.00042)
    narrow = PeerPath("h3", "10.0.0.3", "h1", "up", time.time(), 1500, 1400, 0.01)
    silent = PeerPath("h4", "10.0.0.4", "h1", "unknown", time.time(), 1500, 1500)
    tables.peers([("h1", silent), ("h1", narrow), ("h1", up)], wide=True)
    first, second, third = (line.split() for line in capsys.readouterr().out.splitlines()[2:])
    assert first == ["h1", "h1", "h2", "10.0.0.2", "up", "0.4", "ms", "1500", "1m01s"]
    assert second[5:10] == ["10.0", "ms", "1400", "of", "1500"]
    assert third[4:6] == ["unknown", "-"]
