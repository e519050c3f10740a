"""Functions in the topology file: the documents that come of them, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from controller_sim.control.compiler import Documents, compile_documents
from controller_sim.lab.state import State, function_settings
from controller_sim.topology.file import TopologyError, files_in, parse_topology, read_topology
from controller_sim.topology.ipam import allocate
from controller_sim.topology.placement import place
from protocol import codec
from protocol.documents import Document, Function, FunctionProcess, FunctionProgram, FunctionScope

TEXT = """\
droplets:
  h1: {address: 172.18.0.11/24}
  h2: {address: 172.18.0.12/24}
  h3: {address: 172.18.0.13/24}
  p: {address: 172.18.0.14, peer: vxlan}
vpcs:
  - {name: red, vni: 1001, cidr: 10.0.0.0/16, dividers: [h3]}
  - {name: blue, vni: 1002, cidr: 10.0.0.0/16, dividers: [h3]}
networks:
  - {name: web, vpc: red, cidr: 10.0.1.0/24, bouncers: [h2]}
  - {name: base, vpc: blue, cidr: 10.0.1.0/24, bouncers: [h3]}
endpoints:
  - {name: web-1, network: web, droplet: h1}
agents:
  functions: {accept: [source, object, process], host_wide: ["function.all"]}
functions:
"""
SOURCE = '#include "stage.h"\nint stage_function(struct stage *stage) { return STAGE_GO_ON; }\n'
OBJECT = b"\x7fELF\xff"
FULL = (
    "{name: filter, point: from_endpoint, vpc: red, scope: {networks: [web], endpoints: [web-1]}, source: filter.c, "
    'order: 7, configuration: "0035", on_fault: closed}'
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "filter.c").write_text(SOURCE)
    (tmp_path / "count.o").write_bytes(OBJECT)
    return tmp_path


def compiled(folder: Path, *functions: str) -> Documents:
    path = folder / "cloud.yaml"
    path.write_text(TEXT + "".join(f"  - {one}\n" for one in functions))
    topology = read_topology(path)
    return compile_documents(topology, allocate(topology), place(topology), str)


def hosts_with(documents: Documents, name: str) -> set[str]:
    return {host for host, found in documents.items() if f"function.{name}" in found}


def mistakes(folder: Path, text: str) -> list[str]:
    with pytest.raises(TopologyError) as raised:
        parse_topology(text, "cloud.yaml", files_in(folder))
    return [str(mistake) for mistake in raised.value.mistakes]


def test_a_function_is_a_document_of_its_own_with_its_file_inside(folder):
    documents = compiled(folder, FULL)
    wanted = Function(
        "filter",
        "from_endpoint",
        FunctionProgram(source=SOURCE),
        7,
        "red",
        FunctionScope(networks=("web",), endpoints=("web-1",)),
        b"\x00\x35",
        "closed",
    )
    assert documents["h1"]["function.filter"] == Document(functions=(wanted,))
    assert codec.decode_document(codec.encode(documents["h1"]["function.filter"])).functions == (wanted,)


def test_a_function_is_published_to_the_hosts_that_know_what_it_refers_to_or_that_it_names(folder):
    of_vpc = "{name: counter, point: dropped, vpc: blue, object: count.o}"
    of_all = "{name: all, point: passed, object: count.o}"
    named = "{name: named, point: from_underlay, object: count.o, hosts: [h2]}"
    documents = compiled(folder, FULL, of_vpc, of_all, named)
    found = {name: hosts_with(documents, name) for name in ("filter", "counter", "all", "named")}
    assert found == {"filter": {"h1", "h2", "h3"}, "counter": {"h3"}, "all": {"h1", "h2", "h3"}, "named": {"h2"}}
    assert documents["h3"]["function.counter"].functions[0].program == FunctionProgram(object=OBJECT)


def test_a_process_is_named_by_its_user(folder):
    mirror = '{name: mirror, point: dropped, vpc: red, process: "4711", reasons: [no_endpoint], queues: 2, '
    written = f"{mirror}handed: true}}"
    (found,) = compiled(folder, written)["h1"]["function.mirror"].functions
    assert found.program == FunctionProgram(process=FunctionProcess("4711", 2, ("no_endpoint",), handed=True))


def test_a_lab_keeps_the_files_as_they_were_when_it_read_the_topology(folder):
    text = f"{TEXT}  - {FULL}\n"
    topology = parse_topology(text, "cloud.yaml", files_in(folder))
    state = State(text, files=topology.files)
    (folder / "filter.c").unlink()
    assert state.parsed("lab") == topology
    assert state.files == {"filter.c": SOURCE.encode()}


def test_the_agents_get_the_settings_for_functions(folder):
    topology = parse_topology(f"{TEXT}  - {FULL}\n", "cloud.yaml", files_in(folder))
    written = function_settings(topology, Path("/run/sockets"))
    accept = 'accept = ["source", "object", "process"]\n'
    assert f'[functions]\nsockets = "/run/sockets"\n{accept}host_wide = ["function.all"]\n' in written
    assert function_settings(parse_topology(TEXT[: TEXT.index("agents:")]), Path("/run/sockets")) == ""


@pytest.mark.parametrize(
    ("function", "mistake"),
    [
        ("{point: dropped, source: filter.c}", "name: this field is required: a name"),
        ("{name: f, point: gate, source: filter.c}", "point: 'gate' is not a stage point: they are from_endpoint, "),
        ("{name: f, source: filter.c}", "point: this field is required"),
        ("{name: f, point: dropped}", ": write one of source, object, file, process: this function has no program"),
        (
            "{name: f, point: dropped, source: filter.c, object: count.o}",
            "object: write one of source, object, file, process: not source and object",
        ),
        ("{name: f, point: dropped, source: no.c}", "source: cannot read no.c: No such file or directory"),
        ("{name: f, point: dropped, source: count.o}", "source: count.o is not a text: a C source is UTF-8, "),
        ("{name: f, point: dropped, file: x.c}", "file: the agents accept no file: add it to agents.functions.accept"),
        ("{name: f, point: dropped, vpc: green, source: filter.c}", "vpc: there is no VPC 'green'"),
        ("{name: f, point: passed, vpc: red, source: filter.c}", "vpc: packets at passed are not one VPC's alone: "),
        (
            "{name: f, point: forwarded, vpc: red, scope: {networks: [web]}, source: filter.c}",
            "scope: functions at forwarded are chosen by VPC: ",
        ),
        (
            "{name: f, point: to_endpoint, vpc: red, scope: {networks: [base]}, source: filter.c}",
            "scope: network base is in VPC blue, not in red",
        ),
        (
            "{name: f, point: to_endpoint, scope: {endpoints: [web-9]}, source: filter.c}",
            "scope: endpoints: there is no endpoint 'web-9'",
        ),
        ("{name: f, point: dropped, scope: {vpc: [red]}, source: filter.c}", "scope.vpc: unknown field; the fields "),
        ("{name: f, point: passed, process: nobody}", "point: no process can be at passed: "),
        ("{name: f, point: forwarded, process: nobody, reasons: [no_vpc]}", "reasons: packets at forwarded are not "),
        ("{name: f, point: dropped, source: filter.c, queues: 2}", "queues: unknown field; the fields here are "),
        ("{name: f, point: dropped, hosts: [p], source: filter.c}", "hosts: there is no host 'p' with an agent: "),
        ("{name: f, point: dropped, on_fault: shut, source: filter.c}", "on_fault: 'shut' is not open or closed"),
        ("{name: f, point: dropped, order: 1001, source: filter.c}", "order: 1001 is not from 0 to 1000"),
        (
            '{name: f, point: dropped, configuration: "123", source: filter.c}',
            "configuration: '123' is not hexadecimal: write two digits for each byte",
        ),
        ("{name: f, point: dropped, priority: 1, source: filter.c}", "priority: unknown field; the fields here are "),
    ],
)
def test_a_mistake_names_its_line_and_its_field(folder, function, mistake):
    (found,) = mistakes(folder, f"{TEXT}  - {function}\n")
    assert found.startswith(f"line {TEXT.count(chr(10)) + 1}: functions[0]")
    assert mistake in found


def test_two_functions_of_one_name_are_a_mistake(folder):
    (found,) = mistakes(folder, f"{TEXT}  - {FULL}\n  - {FULL}\n")
    assert found.endswith("functions[1].name: 'filter' is listed twice: give each a name of its own")


@pytest.mark.parametrize(
    ("settings", "mistake"),
    [
        ("{accept: [elf]}", "agents.functions.accept: 'elf' is none of source, object, file"),
        ("{accept: [file]}", "agents.functions.folder: name the hosts' folder of functions by an absolute path, or "),
        ("{accept: source}", "agents.functions.accept: expected a list of source, object, file, process, not 'source'"),
        ("{limit: 5}", "agents.functions.limit: unknown field; the fields here are accept, folder, host_wide"),
    ],
)
def test_a_mistake_in_the_agents_settings_for_functions_is_named(folder, settings, mistake):
    text = TEXT.replace('{accept: [source, object, process], host_wide: ["function.all"]}', settings)
    (found,) = mistakes(folder, text)
    assert mistake in found


def test_a_topology_that_is_no_file_has_no_files_beside_it():
    with pytest.raises(TopologyError, match=r"source: cannot read filter\.c: this topology is no file, and has none"):
        parse_topology(f"{TEXT}  - {FULL}\n")
