"""Functions as monitoring and operators see them: counters, failing functions, values of maps, tables."""

from __future__ import annotations

import pytest

from agent.cli import function_tables
from agent.core.faults.function_faults import QUIET_SECONDS, FailingFunction, FunctionWatch
from agent.core.functions.stages import Point, chain_of, index_of
from agent.core.model.resolved_state import HostState, initial_state
from agent.datapath.bpf.map_queries import FunctionCounters, Traffic
from agent.report.function_queries import path_functions
from agent.report.status_messages import counters
from protocol import codec, status
from protocol.rpc import FunctionLogReply, FunctionMap, FunctionMapEntry, FunctionMapsReply, MapValue
from protocol.status import Counters, FunctionTraffic, ServedFunction

OPEN, CLOSED = FailingFunction("a", "from_endpoint", closed=False), FailingFunction("b", "passed", closed=True)
FOUND = FunctionCounters(Traffic(10, 1000), 4, 3, 2, 0, 5, 1, 2, 301, {3: 2, 11: 1})


VALUES: tuple[MapValue, ...] = (1, -1, "01", {"a": 1, "b": "02", "c": [1, 2]})


def told(names: list[FailingFunction], watch: FunctionWatch) -> bool:
    return [one.subject for one in watch.faults()] == [f"{one.id} ({one.point})" for one in names]


def test_a_function_whose_faults_grow_is_a_fault_until_it_was_quiet_for_a_while() -> None:
    watch = FunctionWatch()
    watch.look({OPEN: 7, CLOSED: 0}, 0.0)
    assert told([], watch), "what an earlier agent saw is not new"
    watch.look({OPEN: 8, CLOSED: 0}, 1.0)
    first = watch.faults()
    assert told([OPEN], watch)
    watch.look({OPEN: 9, CLOSED: 0}, 2.0)
    assert watch.faults() == first, "a fault that goes on is no other one"
    watch.look({OPEN: 9, CLOSED: 1}, 3.0 + QUIET_SECONDS)
    assert told([CLOSED], watch)


def test_what_becomes_of_the_packets_is_in_the_fault() -> None:
    watch = FunctionWatch()
    watch.look({}, 0.0)
    watch.look({OPEN: 1, CLOSED: 1}, 1.0)
    assert ["go on" in one.detail for one in watch.faults()] == [True, False]
    assert all(one.remedy for one in watch.faults())


def test_a_function_that_was_removed_is_no_fault() -> None:
    watch = FunctionWatch()
    watch.look({OPEN: 0}, 0.0)
    watch.look({OPEN: 1}, 1.0)
    watch.look({}, 2.0)
    assert told([], watch)


def test_a_slot_that_begins_at_zero_again_is_no_fault() -> None:
    watch = FunctionWatch()
    watch.look({OPEN: 5}, 0.0)
    watch.look({OPEN: 0}, 1.0)
    assert told([], watch)


def test_counters_name_functions_and_their_points() -> None:
    found = counters("h1", 5.0, {}, {}, {}, functions={("web", int(Point.PASSED)): FOUND, ("app", 1): FOUND})
    assert [(one.function, one.point) for one in found.functions] == [("app", "from_endpoint"), ("web", "passed")]
    one = found.functions[0]
    assert one.received == status.Traffic(10, 1000)
    assert (one.went_on, one.dropped, one.sent_back, one.sent_to, one.handed_over, one.faults) == (4, 3, 2, 0, 5, 1)
    assert (one.reasons, one.samples, one.mean_ns) == ({"3": 2, "11": 1}, 2, 150.5)
    assert codec.decode(codec.encode(found), Counters) == found


def test_counters_and_the_table_say_by_how_many_queues_a_process_is_reached(capsys: pytest.CaptureFixture[str]) -> None:
    served = {("app", 1): ServedFunction("app", "from_endpoint", 4, "copy")}
    found = counters("h1", 5.0, {}, {}, {}, functions={("app", 1): FOUND, ("web", 1): FOUND}, served=served)
    assert [(one.queues, one.mode) for one in found.functions] == [(4, "copy"), (0, "")]
    function_tables.traffic([("h1", one) for one in found.functions], wide=True)
    assert "4 (copy)" in capsys.readouterr().out
    function_tables.processes([("h1", served["app", 1])])
    assert capsys.readouterr().out.split()[-5:] == ["h1", "app", "from_endpoint", "4", "(copy)"]
    function_tables.processes([])
    assert capsys.readouterr().out == ""


def test_a_function_that_was_never_measured_has_no_mean() -> None:
    (one,) = counters("h1", 5.0, {}, {}, {}, functions={("web", 1): FOUND._replace(samples=0)}).functions
    assert (one.samples, one.mean_ns) == (0, 0.0)


def test_values_of_maps_are_the_same_behind_the_bus() -> None:
    entries = tuple(FunctionMapEntry(key, (key, 1 << 63)) for key in VALUES)
    reply = FunctionMapsReply((FunctionMap("m", "hash", 4, 8, 64),), entries, b"\1")
    assert codec.decode(codec.encode(reply), FunctionMapsReply) == reply


def test_a_table_shows_the_sum_of_all_cpus() -> None:
    assert function_tables.added((1, 2, 3)) == 6
    assert function_tables.added(("00", "01", "02")) == "01"
    parts: tuple[MapValue, ...] = ({"a": 1, "b": "00", "c": [1, 2]}, {"a": 2, "b": "07", "c": [3, 4]})
    assert function_tables.added(parts) == {"a": 3, "b": "07", "c": [4, 6]}
    assert function_tables.added(({"a": 1},)) == {"a": 1}


def traffic(function: str, **more: object) -> FunctionTraffic:
    return FunctionTraffic(function, "from_endpoint", status.Traffic(1_234_567, 99), went_on=1_234_567, **more)  # type: ignore[arg-type]


def test_a_table_of_counters_has_the_columns_that_are_used_and_fits(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    function_tables.traffic([("h1", traffic("web"))], wide=False)
    plain = capsys.readouterr().out
    assert "1,234,567" in plain
    assert not any(word in plain for word in ("SENT BACK", "HANDED OVER", "FAULTS", "REASONS", "MEAN TIME"))
    busy = traffic("app", faults=2, sent_back=3, reasons={"11": 1, "3": 2_000}, samples=4, mean_ns=42.4)
    function_tables.traffic([("h1", traffic("web")), ("host-number-2", busy)], wide=False)
    full = capsys.readouterr().out
    assert all(word in full for word in ("FAULTS", "3: 2,000, 11: 1", "42 ns", "SENT"))
    assert max(map(len, full.splitlines())) <= 80
    function_tables.traffic([], wide=False)
    assert capsys.readouterr().out == ""


def test_entries_of_a_map_have_a_column_for_each_field(capsys: pytest.CaptureFixture[str]) -> None:
    one = FunctionMap("ports", "hash", 4, 8, 64)
    entries = [FunctionMapEntry({"port": 443, "proto": 6}, ({"port": 7, "last": "abcd"},))]
    function_tables.function_map("h1", one, entries, more=True, wide=False)
    text = capsys.readouterr().out
    assert text.startswith("h1 ports (hash): the first 1 of at most 64 entries\n")
    assert all(word in text for word in ("KEY port", "KEY proto", "VALUE port", "VALUE last", "443", "abcd"))
    function_tables.function_map("h1", one, [], more=False, wide=False)
    assert capsys.readouterr().out == "h1 ports (hash): 0 of at most 64 entries\n"


def test_a_log_says_what_is_missing_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    function_tables.logs(
        {"h1": FunctionLogReply("doc", 7, "passed"), "h2": FunctionLogReply("doc", 8, "passed", "x\ny", "no")}
    )
    assert capsys.readouterr().out == (
        "h1: document doc, revision 7, at passed\ninstalled: nothing is installed\n"
        "refused: no program of the newest revision (dropletctl get documents shows its state)\n\n"
        "h2: document doc, revision 8, at passed\ninstalled:\n  x\n  y\nrefused:\n  no\n"
    )


def test_a_log_is_folded_between_words_to_the_width_of_the_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    said = f"0: (b7) r0 = 1\n\n{' '.join(['instruction'] * 20)}\n"
    function_tables.logs({"h1": FunctionLogReply("doc", 7, "passed", "", said)})
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert "  0: (b7) r0 = 1" in lines
    assert " ".join(lines).split()[-20:] == ["instruction"] * 20


def test_the_functions_of_a_path_come_in_the_order_of_their_chains() -> None:
    indexes = {("a", 1): index_of(1, 0), ("b", 1): index_of(1, 3), ("c", 2): index_of(2, 0)}
    resolved = initial_state(HostState("h1", "default", ()), {"functions": indexes})
    found = path_functions(resolved, chain_of([3, 0]), chain_of([0, 7]))
    assert [(one.function, one.point) for one in found] == [
        ("b", "from_endpoint"),
        ("a", "from_endpoint"),
        ("c", "to_endpoint"),
        ("slot 7", "to_endpoint"),
    ]
    assert path_functions(resolved, 0, 0) == ()


def test_a_version_that_was_rolled_back_shows_beside_the_counters(capsys: pytest.CaptureFixture[str]) -> None:
    back = traffic("web", rolled_back=17)
    function_tables.traffic([("h1", back), ("h2", traffic("web"))], wide=True)
    heading, _, first, second = capsys.readouterr().out.strip().splitlines()
    assert "VERSION" in heading
    assert first.rstrip().endswith("revision 17 rolled back")
    assert second.rstrip().endswith("-")
