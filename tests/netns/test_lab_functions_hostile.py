"""Hostile functions and wrong documents in a lab: each is answered, and no other tenant loses a packet.

All the while the other tenant has traffic between the same hosts. Host m runs no functions.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest
from lab.fixtures import SystemLab, running_lab
from lab.function_topology import FAMILIES, HOSTS, OTHER, SMALL
from lab.functions import (
    answer,
    body_of,
    counted,
    function,
    function_pins,
    grows_to,
    installed,
    put,
    source,
)
from lab.traffic import ping, unbroken_flow
from lab.waiting import until

from controller_sim.control.publisher import Change, publish
from protocol import codec
from protocol.acknowledgements import Acknowledgement, State
from protocol.documents import Document, Function, FunctionProgram, Network
from protocol.errors import ErrorCode

GO_ON = source("\treturn STAGE_GO_ON;")
LINE = 6
"""Where the statements of a source begin."""
HOSTILE = {
    "endless": (source("\tvolatile int i = 0;\n\tfor (;;)\n\t\ti++;\n\treturn STAGE_GO_ON;"), "infinite loop"),
    "million": (
        source(
            "\tvolatile __u32 x = 0;\n\tfor (int i = 0; i < 1000; i++)\n\t\tfor (int j = 0; j < 1000; j++)\n"
            "\t\t\tx += stage->vni + i * j;\n\treturn STAGE_GO_ON;"
        ),
        "bound loops by smaller constants",
    ),
    "redirect": (source("\treturn bpf_redirect(1, 0);"), f"line {LINE}", "bpf_redirect"),
    "print": (source('\tbpf_trace_printk("x", 2);\n\treturn STAGE_GO_ON;'), f"line {LINE}", "bpf_trace_printk"),
    "wild": (source("\treturn *(__u64 *)0xffffffff81000000 & 1;"), f"line {LINE}", "pointers of struct stage"),
    "behind-packet": (source("\treturn ((__u8 *)stage_start(stage))[14];"), f"line {LINE}", "stage_end(stage)"),
    "behind-stage": (source("\treturn ((__u64 *)stage)[14];"), f"line {LINE}"),
    "passwd": (source("\treturn STAGE_GO_ON;", '#include "/etc/passwd"'), "line 3", "#include"),
    "tail-call": (
        source("\tprograms.call(stage, 3);\n\treturn STAGE_GO_ON;", "BPF_PROG_ARRAY(programs, 4);"),
        f"line {LINE}",
        "bpf_tail_call",
    ),
    "no-verdict": (source("\treturn 7;"), "returns 7"),
    "no-c": (source("\treturn stage->nothing;"), f"line {LINE}", "no member named 'nothing'"),
}
"""Sources, and what must stand in the answers to them."""
ENDPOINT = ("from_endpoint", "to_endpoint")
DROPS_ALL = source("\treturn STAGE_DROP;")
CORRUPTS = """\
	__u8 *frame = stage_frame(stage);

	if ((void *)(frame + 60) > stage_end(stage))
		return STAGE_GO_ON;
	for (int i = 0; i < 60; i += 2)
		*(__u16 *)(frame + i) ^= bpf_get_prandom_u32();
	stage->changed = %d;
	return STAGE_GO_ON;"""
"""Everything that says how long something is, what it is, where it goes, or that it is right."""
SLOW = source(
    """\
	volatile __u32 x = 0;

	for (int i = 0; i < 400; i++)
		x += bpf_get_prandom_u32();
	return STAGE_GO_ON;"""
)


def without_functions(lab: SystemLab) -> None:
    """Have m's agent run no functions, as every agent does by default."""
    file = lab.lab.paths.settings("m")
    head, found, rest = file.read_text().partition("[functions]\n")
    assert found
    file.write_text(head + rest[rest.index("[bus]") :])


@pytest.fixture(scope="module")
def lab(lab_cache: None) -> Iterator[SystemLab]:
    with running_lab("hostile", SMALL, wires=without_functions) as made:
        yield made


@contextmanager
def bystanders(lab: SystemLab) -> Iterator[None]:
    """Have traffic of the other tenant in both families; hold that it loses nothing and that the agents live."""
    pids = {host: lab.pid(host) for host in lab.hosts}
    with ExitStack() as stack:
        for family in FAMILIES:
            stack.enter_context(unbroken_flow(lab, "shop-x", "shop-t", family))
        yield
    assert all(lab.lab.agent_runs(host) for host in lab.hosts)
    assert {host: lab.pid(host) for host in lab.hosts} == pids


def rejected(lab: SystemLab, host: str, document: str, *functions: Function) -> tuple[tuple[str, ErrorCode, str], ...]:
    """Publish functions that a host must reject, take them back, and return what was wrong."""
    found = answer(lab, host, document, lab.publish(host, document, body_of(*functions)))
    assert found.state is State.REJECTED, found
    assert lab.answer(host, document, lab.publish(host, document, None), State.REALIZED).removed
    return tuple((one.path, one.code, one.message) for one in found.errors)


def test_each_hostile_program_is_rejected_with_its_field_the_reason_and_the_line(lab):
    """With another function in the same document, which is not put in place either. Each host gets half of them."""

    def document(name: str) -> bytes:
        good = function(f"good-{name}", "from_endpoint", GO_ON, vpc="red")
        return body_of(good, function(f"bad-{name}", "to_endpoint", HOSTILE[name][0], vpc="red"))

    def answers() -> dict[tuple[str, str], Acknowledgement] | None:
        found = {(host, name): lab.newest(host, f"tenant.{name}") for host, name in revisions}
        done = {
            at: one
            for at, one in found.items()
            if one is not None and one.revision == revisions[at] and one.state is not State.PENDING
        }
        return done if len(done) == len(revisions) else None

    with bystanders(lab):
        places = zip(HOSTILE, itertools.cycle(HOSTS), strict=False)
        changes = [Change(host, f"tenant.{name}", document(name)) for name, host in places]
        published = lab.with_client(lambda client: publish(client, changes))
        revisions = {(one.host, one.document.partition(".")[2]): one.revision for one in published}
        found = until(answers, "an answer to each document")
        assert found is not None
    for (_, name), acknowledgement in found.items():
        assert (acknowledgement.state, acknowledgement.in_force) == (State.REJECTED, 0), name
        (error,) = acknowledgement.errors
        assert error.path == "functions[1].program.source", name
        assert all(words in error.message for words in HOSTILE[name][1:]), (name, error.message)
    for host in HOSTS:
        assert function_pins(lab, host) == []
    removals = [Change(host, f"tenant.{name}", None) for host, name in revisions]
    for one in lab.with_client(lambda client: publish(client, removals)):
        assert answer(lab, one.host, one.document, one.revision).removed


def test_a_rejected_revision_leaves_the_last_good_one_in_force_under_traffic(lab):
    good = function("kept", "from_endpoint", GO_ON, vpc="red")
    with bystanders(lab), unbroken_flow(lab, "web-x", "web-t"), installed(lab, "x", "tenant.kept", good):
        newest = lab.newest("x", "tenant.kept")
        bad = function("kept", "from_endpoint", HOSTILE["wild"][0], vpc="red")
        found = answer(lab, "x", "tenant.kept", lab.publish("x", "tenant.kept", body_of(bad)))
        assert newest is not None
        assert (found.state, found.in_force) == (State.REJECTED, newest.revision)
        grows_to(lab, "x", "kept", counted(lab, "x", "kept"), went_on=5)


def answers_pings(lab: SystemLab) -> bool:
    """Say whether the tenant with the functions still reaches its other endpoint, in each family."""
    return all(ping(lab, "web-x", lab.address("web-t", family), count=2, wait=10) == 2 for family in FAMILIES)


def test_a_function_that_drops_everything_concerns_its_own_tenant_alone(lab):
    functions = [function(f"drop-{point}", point, DROPS_ALL, vpc="red") for point in (*ENDPOINT, "forwarded")]
    assert answers_pings(lab)
    with bystanders(lab):
        for host in HOSTS:
            put(lab, host, "tenant.drops", *functions)
        for family in FAMILIES:
            for host in HOSTS:
                assert ping(lab, f"web-{host}", lab.address(f"web-{OTHER[host]}", family), count=2, wait=0.2) == 0
        assert all(counted(lab, host, "drop-from_endpoint").dropped >= 4 for host in HOSTS)
        for host in HOSTS:
            put(lab, host, "tenant.drops")
    assert answers_pings(lab)


@pytest.mark.parametrize("declared", [0, 1], ids=["silently", "declared"])
def test_a_function_that_corrupts_lengths_types_and_checksums_concerns_its_own_tenant_alone(lab, declared):
    """Also what it makes of a tunnel packet before that is taken apart."""
    text = source(CORRUPTS % declared)
    tenant = [function(f"corrupt-{point}", point, text, vpc="red") for point in (*ENDPOINT, "forwarded")]
    underlay = function("corrupt-from_underlay", "from_underlay", text, vpcs=("red",))
    with bystanders(lab):
        for host in HOSTS:
            with installed(lab, host, "tenant.corrupt", *tenant):
                before = counted(lab, host, "corrupt-from_endpoint")
                for family in FAMILIES:
                    ping(lab, f"web-{host}", lab.address(f"web-{OTHER[host]}", family), count=20, wait=0)
                    ping(lab, f"web-{OTHER[host]}", lab.address(f"web-{host}", family), count=20, wait=0)
                grows_to(lab, host, "corrupt-from_endpoint", before, packets=30)
            with installed(lab, host, "host.corrupt", underlay):
                for family in FAMILIES:
                    ping(lab, f"web-{OTHER[host]}", lab.address(f"web-{host}", family), count=20, wait=0)
                until(
                    lambda host=host: counted(lab, host, underlay.id).packets >= 20, "tunnel packets that it corrupted"
                )
    assert answers_pings(lab)


def test_eight_slow_functions_at_one_point_lose_nothing_and_a_ninth_is_rejected(lab):
    """Nor does their own tenant, but time; what is too many is answered with the limit, and changes nothing.

    Half of the slots are as many as a tenant may take; the operator has the other half.
    """
    eight = [function(f"slow-{number}", "from_endpoint", SLOW, vpc="red") for number in range(4)]
    eight += [function(f"slow-{number}", "from_endpoint", SLOW, vpcs=("red",)) for number in range(4, 8)]
    ninth = function("ninth", "from_endpoint", GO_ON, vpc="red")
    with bystanders(lab), unbroken_flow(lab, "web-x", "web-t"):
        with ExitStack() as stack:
            stack.enter_context(installed(lab, "x", "tenant.four", *eight[:4]))
            ((path, code, message),) = rejected(lab, "x", "tenant.fifth", ninth)
            assert (path, code) == ("functions[0].vpc", ErrorCode.OUT_OF_RANGE)
            assert "4 slots at from_endpoint" in message
            put(lab, "x", "tenant.fifth")
            stack.enter_context(installed(lab, "x", "host.four", *eight[4:]))
            ((path, code, message),) = rejected(lab, "x", "tenant.ninth", ninth)
            assert (path, code) == ("functions[0].point", ErrorCode.OUT_OF_RANGE)
            assert "8 functions can be at from_endpoint" in message
            before = [counted(lab, "x", one.id) for one in eight]
            for one, counts in zip(eight, before, strict=True):
                grows_to(lab, "x", one.id, counts, went_on=10)
        put(lab, "x", "tenant.ninth", ninth)
        put(lab, "x", "tenant.ninth")


def test_a_host_without_functions_rejects_them_and_names_the_setting(lab):
    ((path, code, message),) = rejected(lab, "m", "tenant.off", function("off", "dropped", GO_ON, vpc="red"))
    assert (path, code) == ("functions[0].program.source", ErrorCode.DISABLED)
    assert "functions.accept" in message
    given = Function("object", "dropped", FunctionProgram(object=b"\x7fELF"), vpc="red")
    ((path, code, message),) = rejected(lab, "x", "tenant.object", given)
    assert (path, code) == ("functions[0].program.object", ErrorCode.DISABLED)
    assert 'add "object" to functions.accept' in message


WRONG = {
    "a network of another VPC": ({"vpc": "red", "networks": ("web", "shop")}, "scope.networks[1]", "'shop' is in VPC"),
    "another VPC": ({"vpc": "red", "vpcs": ("blue",)}, "scope.vpcs[0]", "limited to VPC 'red'"),
    "no VPC": ({}, "vpc", "functions.host_wide"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_scope_beyond_the_functions_own_vpc_is_rejected(lab, name):
    fields, field, words = WRONG[name]
    ((path, _, message),) = rejected(lab, "t", "tenant.wrong", function("wrong", "to_endpoint", GO_ON, **fields))
    assert path == f"functions[0].{field}"
    assert words in message


def test_a_function_of_one_vpc_that_names_an_endpoint_of_another_gets_nothing_of_it(lab):
    """Endpoints of a scope may come and go, so this is no error; and the VPC is the limit."""
    reaching = [function(f"reach-{point}", point, DROPS_ALL, vpc="red", endpoints=("shop-x",)) for point in ENDPOINT]
    with bystanders(lab), installed(lab, "x", "tenant.reach", *reaching):
        assert answers_pings(lab)
        assert [counted(lab, "x", one.id).packets for one in reaching] == [0, 0]


def test_a_function_that_refers_to_a_missing_network_waits_for_it(lab):
    waiting = function("waiting", "from_endpoint", GO_ON, vpc="red", networks=("late",))
    found = lab.publish_and_wait("x", "tenant.waiting", body_of(waiting), State.PENDING)
    assert [(one.kind, one.id) for one in found.missing] == [("networks", "late")]
    late = Document(networks=(Network("late", "red", ("10.0.9.0/24",), ("m",)),))
    lab.publish_and_wait("x", "late", codec.encode(late), State.REALIZED)
    lab.answer("x", "tenant.waiting", found.revision, State.REALIZED)
    put(lab, "x", "tenant.waiting")
    put(lab, "x", "late")
