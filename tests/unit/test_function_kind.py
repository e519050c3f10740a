"""Functions in documents become programs in slots, and chains of endpoints, VPCs and the host."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest
from test_render import DOCUMENT, HERE, rendered

from agent.core.config.desired_state import Desired
from agent.core.functions.programs import content_of, hash_of, unchecked, verdict_key
from agent.core.functions.stages import Point, chain_of, index_of
from agent.core.kinds.functions import FUNCTIONS
from agent.core.model.features import Features, FunctionRules, Verdict
from agent.core.model.map_layout import ENDPOINT_STAGES, HOST_STAGES, INTERFACE, U32, VPC_STAGES, MapName
from agent.core.model.resolved_state import HostState
from agent.core.plan.actions import DeleteEntries, DeleteFunction, EnsureFunction, PutEntries
from agent.core.plan.diff import KernelDiff
from agent.core.plan.observed import Observed, ObservedFunction
from agent.core.plan.planner import describe, plan_all, plan_change
from protocol import codec
from protocol.documents import Document, Function, FunctionProgram, FunctionScope, Vpc
from protocol.errors import ErrorCode, FieldError

PROGRAM = FunctionProgram(source="int stage_function(struct stage *stage);")


def function(name: str, point: str, **more: object) -> Function:
    return Function(name, point, PROGRAM, **more)  # type: ignore[arg-type]


def with_functions(*functions: Function) -> Document:
    blue = Vpc("blue", 71, ("10.0.0.0/8",))
    return msgspec.structs.replace(DOCUMENT, vpcs=(*DOCUMENT.vpcs, blue), functions=functions)


def refused(*functions: Function, host: HostState = HERE, name: str = "all") -> list[FieldError]:
    desired = Desired(host)
    desired.documents.put(name, 1, codec.encode(with_functions(*functions)))
    desired.resolve()
    return list(desired.documents.status(name).errors)


def test_functions_of_no_vpc_run_first_and_each_kind_by_order_then_by_id() -> None:
    document = with_functions(
        function("c", "from_endpoint", order=2),
        function("b", "from_endpoint", vpc="red", order=1),
        function("a", "from_endpoint", scope=FunctionScope(networks=("front",)), order=2),
    )
    after = rendered(document)
    slots = {one.id: one.slot for one in after.functions.values()}
    assert after.entries[MapName.ENDPOINT_STAGES] == {
        U32.pack(0): ENDPOINT_STAGES.pack(chain_of((slots["a"], slots["c"], slots["b"])), 0)
    }
    assert INTERFACE.unpack(after.entries[MapName.INTERFACES][U32.pack(0)])[5] == 2


@pytest.mark.parametrize(
    ("scope", "vpc", "met"),
    [
        (FunctionScope(), "", True),
        (FunctionScope(), "red", True),
        (FunctionScope(), "blue", False),
        (FunctionScope(vpcs=("red",)), "", True),
        (FunctionScope(vpcs=("blue",)), "", False),
        (FunctionScope(networks=("front",)), "", True),
        (FunctionScope(endpoints=("a",)), "red", True),
        (FunctionScope(endpoints=("b",)), "red", False),
        (FunctionScope(endpoints=("a",)), "blue", False),
        (FunctionScope(vpcs=("blue",), endpoints=("a",)), "", True),
    ],
)
def test_an_endpoint_meets_the_functions_that_have_it_in_their_scope(scope: FunctionScope, vpc: str, met: bool) -> None:
    after = rendered(with_functions(function("f", "to_endpoint", scope=scope, vpc=vpc)))
    assert (MapName.ENDPOINT_STAGES in after.entries) is met
    assert INTERFACE.unpack(after.entries[MapName.INTERFACES][U32.pack(0)])[5] == (4 if met else 0)


def test_chains_of_vpcs_hold_those_of_the_whole_host_too() -> None:
    after = rendered(
        with_functions(
            function("all", "forwarded", order=1),
            function("red", "forwarded", vpc="red", on_fault="closed"),
            function("drops", "dropped", scope=FunctionScope(vpcs=("blue",))),
            function("any", "dropped"),
            function("host", "passed"),
        )
    )
    slot = {one.id: one.slot for one in after.functions.values()}
    assert after.entries[MapName.VPC_STAGES] == {
        U32.pack(7): VPC_STAGES.pack(chain_of((slot["all"], slot["red"])), 0, chain_of((slot["any"],))),
        U32.pack(71): VPC_STAGES.pack(chain_of((slot["all"],)), 0, chain_of((slot["any"], slot["drops"]))),
    }
    are_open = sum(1 << index_of(one.point, one.slot) for one in after.functions.values() if one.id != "red")
    assert after.entries[MapName.HOST_STAGES] == {
        U32.pack(0): HOST_STAGES.pack(1 << 7, chain_of((slot["host"],)), chain_of((slot["any"],)), are_open)
    }


def test_without_functions_no_map_of_stages_has_an_entry() -> None:
    assert FUNCTIONS.maps
    assert not rendered(with_functions()).entries.keys() & set(FUNCTIONS.maps)


def test_a_program_has_its_point_slot_content_and_configuration() -> None:
    after = rendered(with_functions(function("f", "passed", configuration=b"x", on_fault="closed")))
    (one,) = after.functions.values()
    assert (one.id, one.point, one.slot, one.configuration, one.on_fault_closed) == ("f", Point.PASSED, 0, b"x", True)
    assert one.content == content_of(PROGRAM) == hash_of("source", PROGRAM.source.encode())


def test_equal_bytes_in_another_form_are_another_program() -> None:
    assert hash_of("source", b"x") != hash_of("object", b"x")


@pytest.mark.parametrize(
    ("host", "path", "setting"),
    [
        (replace(HERE, features=Features()), "program.source", "functions.accept"),
        (replace(HERE, functions=FunctionRules(frozenset({"file"}), ("*",))), "program.source", "functions.accept"),
        (replace(HERE, functions=FunctionRules(frozenset({"source"}))), "vpc", "functions.host_wide"),
        (replace(HERE, functions=FunctionRules(frozenset({"source"}), ("op.*",))), "vpc", "functions.host_wide"),
    ],
)
def test_what_the_settings_turn_off_is_refused_with_the_setting(host: HostState, path: str, setting: str) -> None:
    (error,) = refused(function("f", "from_endpoint"), host=host)
    assert (error.path, error.code) == (f"functions[0].{path}", ErrorCode.DISABLED)
    assert setting in error.message


def test_a_document_whose_name_matches_may_have_functions_of_no_vpc() -> None:
    host = replace(HERE, functions=FunctionRules(frozenset({"source"}), ("op.*",)))
    assert refused(function("f", "from_endpoint"), host=host, name="op.filters") == []
    assert refused(function("f", "from_endpoint", vpc="red"), host=host) == []


def test_a_network_of_another_vpc_is_refused() -> None:
    (error,) = refused(function("f", "from_endpoint", vpc="blue", scope=FunctionScope(networks=("front",))))
    assert (error.path, error.code) == ("functions[0].scope.networks[0]", ErrorCode.OUT_OF_RANGE)


def test_a_vpc_that_is_not_known_yet_is_waited_for_and_an_endpoint_is_not() -> None:
    desired = Desired(HERE)
    desired.documents.put("all", 1, codec.encode(with_functions(function("f", "from_endpoint", vpc="green"))))
    desired.resolve()
    assert [str(one) for one in desired.documents.status("all").missing] == ["VPC green"]
    assert refused(function("f", "from_endpoint", vpc="red", scope=FunctionScope(endpoints=("later",)))) == []


def test_a_refused_program_is_named_with_its_field_and_the_reason() -> None:
    verdicts = {verdict_key(PROGRAM, "dropped"): Verdict("", "line 3: R1 invalid mem access")}
    good, bad = function("good", "passed"), function("bad", "dropped")
    assert refused(good, bad, host=replace(HERE, verdicts=verdicts)) == [
        FieldError("functions[1].program.source", ErrorCode.INVALID, "line 3: R1 invalid mem access")
    ]


def test_a_program_that_was_in_force_is_not_withdrawn_for_a_later_verdict() -> None:
    """As when the file of a program is replaced by one that does not compile."""
    by_file = Function("f", "passed", FunctionProgram(file="f.c"))
    key = verdict_key(by_file.program, "passed")
    desired = Desired(replace(HERE, verdicts={key: Verdict("1234")}))
    desired.documents.put("all", 1, codec.encode(with_functions(by_file)))
    desired.resolve()
    desired.documents.confirm({"all"})
    desired.set_verdicts({key: Verdict("1234", "line 1: no such type")})
    change = desired.resolve()
    assert change.affected == {"all"}
    assert plan_change(change.before, change.after) == []
    assert desired.documents.status("all").errors == ()


def test_a_program_without_a_verdict_is_checked_once_for_each_point_and_a_file_always() -> None:
    functions = [
        function("a", "dropped"),
        function("b", "dropped"),
        function("c", "passed"),
        Function("d", "passed", FunctionProgram(file="d.o")),
    ]
    keys = [verdict_key(one.program, one.point) for one in functions]
    assert [one.key for one in unchecked(functions, {})] == [keys[0], keys[2], keys[3]]
    assert [one.key for one in unchecked(functions, dict.fromkeys(keys, Verdict("")))] == [keys[3]]


def test_the_ninth_function_of_a_point_is_refused_and_says_so() -> None:
    desired = Desired(HERE)
    nine = [function(f"f{n}", "passed") for n in range(9)]
    desired.documents.put("base", 1, codec.encode(with_functions()))
    for number, one in enumerate(nine):
        desired.documents.put(f"d{number}", 2 + number, codec.encode(Document(functions=(one,))))
    desired.resolve(removing=True)
    (error,) = desired.documents.status("d8").errors
    assert (error.path, error.code) == ("functions[0].point", ErrorCode.OUT_OF_RANGE)
    assert "8 functions can be at passed" in error.message
    desired.documents.remove("d3", 20)
    for _ in range(3):
        desired.resolve(removing=True)
    assert desired.documents.status("d8").errors == ()
    assert sorted(desired.resolved.stage_indexes.values()) == list(range(32, 40))


def test_a_slot_that_becomes_free_is_not_assigned_again_in_the_same_step() -> None:
    desired = Desired(HERE)
    desired.documents.put("base", 1, codec.encode(with_functions()))
    desired.documents.put("f", 2, codec.encode(Document(functions=(function("old", "passed"),))))
    desired.resolve(removing=True)
    desired.documents.put("f", 3, codec.encode(Document(functions=(function("new", "passed"),))))
    desired.resolve(removing=True)
    assert desired.resolved.stage_indexes == {("new", Point.PASSED): 33}


def kinds_of(actions: list) -> list[object]:
    return [getattr(action, "map", type(action)) for action in actions]


def test_programs_come_before_chains_and_chains_before_flags_and_all_go_in_reverse() -> None:
    """A packet never meets a chain that names a slot without a program."""
    document = with_functions(function("f", "from_endpoint"), function("g", "dropped"))
    without, having = rendered(with_functions()), rendered(document)
    assert kinds_of(plan_change(without, having)) == [
        *(EnsureFunction, EnsureFunction),
        *(MapName.ENDPOINT_STAGES, MapName.VPC_STAGES, MapName.HOST_STAGES, MapName.INTERFACES),
    ]
    actions = plan_change(having, without)
    assert kinds_of(actions) == [
        MapName.INTERFACES,
        *(MapName.HOST_STAGES, MapName.VPC_STAGES, MapName.ENDPOINT_STAGES),
        *(DeleteFunction, DeleteFunction),
    ]
    assert isinstance(actions[0], PutEntries)
    assert all(isinstance(action, DeleteEntries) for action in actions[1:4])


def test_a_function_that_moves_to_another_point_is_at_both_for_a_moment() -> None:
    desired = Desired(HERE)
    desired.documents.put("base", 1, codec.encode(with_functions()))
    desired.documents.put("f", 2, codec.encode(Document(functions=(function("f", "from_endpoint"),))))
    desired.resolve(removing=True)
    desired.documents.put("f", 3, codec.encode(Document(functions=(function("f", "to_endpoint"),))))
    change = desired.resolve(removing=True)
    first, *_, last = plan_change(change.before, change.after)
    assert isinstance(first, EnsureFunction)
    assert (first.function.point, last) == (Point.TO_ENDPOINT, DeleteFunction("f", Point.FROM_ENDPOINT, 0))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"slot": 3}, "it is in slot 3"),
        ({"content": "1234"}, "it runs another program"),
        ({"configuration": b"y"}, "its configuration differs"),
        ({"on_fault_closed": True}, "it fails closed"),
        ({"vpc": "blue"}, "it is limited to VPC blue"),
        ({"complete": False}, "its slot lacks a program"),
    ],
)
def test_a_program_that_differs_in_the_kernel_is_repaired(change: dict, words: str) -> None:
    wanted = rendered(with_functions(function("f", "passed")))
    (one,) = wanted.functions.values()
    seen = ObservedFunction("f", one.point, one.slot, one.content)
    maps = {name: dict(entries) for name, entries in wanted.entries.items()}
    observed = Observed((), {}, maps, {one.place: replace(seen, **change)})
    wanted.veths.clear()
    wanted.transit = frozenset()
    actions = plan_all([wanted], observed)
    assert actions[0] == EnsureFunction(one)
    assert describe(actions[0]) == f"repair function f: {words}"
    assert plan_all([wanted], replace(observed, functions={one.place: seen})) == []


def test_a_program_of_no_document_is_removed_from_its_slot() -> None:
    seen = ObservedFunction("gone", Point.DROPPED, 4, "1234")
    observed = Observed((), functions={seen.place: seen})
    assert plan_all([], observed) == [DeleteFunction("gone", Point.DROPPED, 4)]
    assert KernelDiff(observed).suspects().functions == {("gone", Point.DROPPED)}


def test_actions_on_functions_are_one_line_for_people() -> None:
    having = rendered(with_functions(function("f", "passed", configuration=b"x")))
    (one,) = having.functions.values()
    lines = [describe(action) for action in (EnsureFunction(one), DeleteFunction("f", 5, 2))]
    assert lines == [
        f"function f: program {one.content} in slot 0 of passed, 1 bytes of configuration",
        "delete function f (slot 2 of passed)",
    ]


def test_a_table_says_whose_packets_a_function_gets() -> None:
    cells = {column.title: column.cell for column in FUNCTIONS.columns}
    scope = FunctionScope(networks=("front", "back"), endpoints=("a",))
    found = function("f", "from_endpoint", vpc="red", scope=scope, configuration=b"12")
    assert cells["SCOPE"](found) == "networks front back, endpoints a"
    assert (cells["PROGRAM"](found), cells["CONFIGURATION"](found)) == ("source", "2 bytes")
    assert cells["SCOPE"](function("f", "from_endpoint", vpc="red")) == "all of the VPC"
    assert cells["SCOPE"](function("f", "passed")) == "all of the host"
    assert cells["PROGRAM"](Function("f", "passed", FunctionProgram(file="f.o"))) == "f.o"
