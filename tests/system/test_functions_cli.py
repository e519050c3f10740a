"""What operators see of functions: a document with C source, its counters, its maps, its log, another configuration."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab.fixtures import SystemLab, running_lab, topology_text
from lab.traffic import ping, pings
from lab.waiting import until

from controller_sim.lab.namespaces import run_in
from controller_sim.lab.nats_server import CONTROLLER
from protocol import codec
from protocol.acknowledgements import State
from protocol.documents import Document, Function, FunctionProgram
from protocol.status import Counters, Fault, FunctionTraffic

PROGRAM = Path(sys.executable).with_name("dropletctl")
ID, DOCUMENT, REASON = "web-counter", "functions.web", 3
COUNTING = f"""\
#include "stage.h"

struct flow {{ __u8 protocol; __u8 direction; __u16 port; }};
struct seen {{ __u64 packets; __u64 bytes; __u8 last[4]; }};
BPF_HASH(flows, struct flow, struct seen, 64);
BPF_PERCPU_ARRAY(totals, __u64, 4);

int stage_function(struct stage *stage)
{{
	const __u8 *refused = stage_configuration(stage);
	struct flow flow = {{ .protocol = stage->protocol, .direction = stage->direction }};
	struct seen first = {{ .packets = 0 }}, *seen = flows.lookup_or_try_init(&flow, &first);
	__u32 index = 2;
	__u64 *total = totals.lookup(&index);

	if (total)
		*total += 1;
	if (seen) {{
		__sync_fetch_and_add(&seen->packets, 1);
		__sync_fetch_and_add(&seen->bytes, stage->length);
		seen->last[0] = 0xab;
	}}
	if (*refused && *refused == stage->protocol) {{
		stage->reason = {REASON};
		return STAGE_DROP;
	}}
	return STAGE_GO_ON;
}}
"""
ENDLESS = '#include "stage.h"\n\nint stage_function(struct stage *stage)\n{\n\twhile (1)\n\t\tstage->reason++;\n}\n'
FAULTY = """\
#include "stage.h"

int stage_function(struct stage *stage)
{
	return stage->length == 98 ? 99 : STAGE_GO_ON;
}
"""
"""Has no verdict for an echo request of ping(8), which is as long as no sample frame."""
ICMP = 1


def accept_sources(lab: SystemLab) -> None:
    for host in lab.hosts:
        file = lab.lab.paths.settings(host)
        file.write_text(f'{file.read_text()}\n[functions]\naccept = ["source"]\n')


@pytest.fixture(scope="module")
def lab(lab_cache: None) -> Iterator[SystemLab]:
    with running_lab("fcli", topology_text("same_host"), wires=accept_sources) as lab:
        yield lab


def counting(configuration: bytes = b"", source: str = COUNTING) -> bytes:
    function = Function(ID, "from_endpoint", FunctionProgram(source=source), vpc="red", configuration=configuration)
    return codec.encode(Document(functions=(function,)))


@pytest.fixture(autouse=True)
def installed(lab: SystemLab) -> Iterator[None]:
    lab.publish_and_wait("h1", DOCUMENT, counting(), State.REALIZED)
    yield
    lab.publish_and_wait("h1", DOCUMENT, None, State.REALIZED)


def ctl(lab: SystemLab, *words: str, user: str = CONTROLLER) -> subprocess.CompletedProcess[str]:
    """Run dropletctl beside the server, with a user's nkey."""
    access = lab.lab.access()
    options = ["--server", access.server, "--nkey-seed-file", str(access.seed.with_name(f"{user}.nk"))]
    return run_in(
        lab.names.fabric, ["env", "COLUMNS=80", str(PROGRAM), *options, "--tls-ca-file", str(access.authority), *words]
    )


def shown(lab: SystemLab, *words: str) -> list[dict]:
    done = ctl(lab, *words, "-o", "json", user="operator")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def traffic(lab: SystemLab) -> FunctionTraffic:
    (found,) = codec.decode(lab.ask("h1", "counters"), Counters).functions
    return found


def test_packets_of_a_function_are_counted_by_verdict_and_shown_with_it(lab):
    before = traffic(lab)
    assert (before.function, before.point, before.received.packets) == (ID, "from_endpoint", 0)
    assert pings(lab, "web-1", "web-2")
    now = traffic(lab)
    assert now.received.packets == now.went_on >= 6, "requests of one, and answers of the other"
    (listed,) = shown(lab, "get", "functions")
    assert [one["received"]["packets"] for one in listed["counters"]] >= [6]
    table = ctl(lab, "get", "functions", user="operator").stdout
    assert max(map(len, table.splitlines())) <= 80
    assert [word in table for word in (ID, "from_endpoint", "red", "source", "WENT ON")] == [True] * 5


def test_entries_of_its_maps_have_the_names_of_the_source(lab):
    assert pings(lab, "web-1", "web-2")
    flows, totals = shown(lab, "function", ID, "maps")
    assert (flows["name"], flows["type"], flows["max_entries"], flows["more"]) == ("flows", "hash", 64, False)
    (icmp,) = [one for one in flows["entries"] if one["key"]["protocol"] == ICMP]
    assert icmp["key"].keys() == {"protocol", "direction", "port"}
    (seen,) = icmp["values"]
    assert seen["packets"] >= 6
    assert seen["bytes"] >= 6 * 64
    assert seen["last"] == "ab000000"
    assert (totals["name"], totals["per_cpu"]) == ("totals", True)
    (entry,) = totals["entries"]
    assert (entry["key"], sum(entry["values"])) == (2, traffic(lab).received.packets)
    table = ctl(lab, "function", ID, "maps", "flows", user="operator").stdout
    assert "flows (hash)" in table
    assert "VALUE packets" in table
    assert "totals" not in table


def test_the_functions_on_a_packets_path_are_named(lab):
    done = ctl(lab, "path", "h1", "web-1", lab.address("web-2"), user="operator")
    assert done.stdout.endswith(f": same host; functions: {ID} at from_endpoint\n")
    lab.publish_and_wait("h1", DOCUMENT, None, State.REALIZED)
    assert ctl(lab, "path", "h1", "web-1", lab.address("web-2"), user="operator").stdout.endswith(": same host\n")
    lab.publish_and_wait("h1", DOCUMENT, counting(), State.REALIZED)


def test_a_map_or_a_function_that_is_not_there_is_one_line_and_exit_code_1(lab):
    for words, said in (
        (
            ["function", ID, "maps", "other"],
            f"h1: map: function '{ID}' has no map 'other'; its maps are: flows, totals",
        ),
        (["function", "other", "log"], "no host that answers has function other"),
        (["function", "other", "maps", "--host", "h1"], "h1: there is no function 'other' on this host"),
    ):
        done = ctl(lab, *words, user="operator")
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
        assert done.stderr.startswith(f"Error: {said}")


def test_the_log_has_all_that_was_said_of_a_refused_program(lab):
    refused = lab.publish_and_wait("h1", DOCUMENT, counting(source=ENDLESS), State.REJECTED)
    (found,) = shown(lab, "function", ID, "log")
    assert (found["document"], found["revision"]) == (DOCUMENT, refused.revision)
    assert "slot 0" in found["installed"], "the last good program runs on"
    assert len(found["refused"]) > len(refused.errors[0].message)
    text = ctl(lab, "function", ID, "log", user="operator").stdout
    assert "refused:\n  " in text
    lab.publish_and_wait("h1", DOCUMENT, counting(), State.REALIZED)
    (found,) = shown(lab, "function", ID, "log")
    assert found["refused"] == ""
    assert "the verifier processed" in found["installed"]


def test_a_configuration_is_replaced_in_its_document_and_stays(lab):
    assert pings(lab, "web-1", "web-2")
    done = ctl(lab, "function", ID, "replace", "--host", "h1", "--hex", f"{ICMP:02x}")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"h1 document {DOCUMENT} revision " in done.stdout
    assert done.stdout.endswith(": realized\n")
    assert ping(lab, "web-1", lab.address("web-2")) == 0
    assert traffic(lab).reasons == {str(REASON): traffic(lab).dropped}
    assert lab.plan("h1") == (), "a resync has nothing to undo"
    (listed,) = shown(lab, "get", "functions")
    assert listed["configuration"] == "AQ=="
    again = ctl(lab, "function", ID, "replace", "--host", "h1", "--hex", f"{ICMP:02x}")
    assert (again.returncode, again.stdout.startswith("nothing to change: revision ")) == (0, True)
    empty = ctl(lab, "function", ID, "replace", "--host", "h1", "--text", "")
    assert empty.returncode == 0
    assert pings(lab, "web-1", "web-2")


def test_an_operator_may_not_replace_a_configuration_and_is_told_who_may(lab):
    done = ctl(lab, "function", ID, "replace", "--host", "h1", "--hex", "01", user="operator")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (3, "", 1)
    assert "controller's nkey" in done.stderr
    assert pings(lab, "web-1", "web-2")


def test_counters_begin_at_zero_for_the_next_function_in_a_slot(lab):
    assert pings(lab, "web-1", "web-2")
    assert traffic(lab).received.packets > 0
    lab.publish_and_wait("h1", DOCUMENT, None, State.REALIZED)
    assert codec.decode(lab.ask("h1", "counters"), Counters).functions == ()
    lab.publish_and_wait("h1", DOCUMENT, counting(), State.REALIZED)
    assert (traffic(lab).received.packets, traffic(lab).samples, traffic(lab).reasons) == (0, 0, {})


def test_a_function_that_fails_is_a_fault_with_its_remedy(lab):
    lab.publish_and_wait("h1", DOCUMENT, counting(source=FAULTY), State.REALIZED)

    def fault() -> Fault | None:
        assert pings(lab, "web-1", "web-2"), "on_fault is open"
        return next((one for one in lab.status("h1").faults if one.kind == "function_failing"), None)

    found = until(fault, "the fault")
    assert found is not None
    assert found.subject == f"{ID} (from_endpoint)"
    assert "on_fault is open" in found.detail
    assert "publish its document again" in found.remedy
    assert traffic(lab).faults > 0
    shown_counters = ctl(lab, "counters", "h1", user="operator").stdout
    assert "FAULTS" in shown_counters
