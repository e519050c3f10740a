"""dns.py and rewrite.py of examples/functions in a lab: at both hooks, in both families, asked on both hosts."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
from lab.fixtures import SystemLab, running_lab
from lab.function_examples import FOLDER
from lab.function_processes import USER, open_folders, process, socket_of, until_served
from lab.function_topology import FAMILIES, HOSTS, SMALL
from lab.functions import counted, grows_to, put
from lab.waiting import until

from controller_sim.talk.questions import ask, send_broken_question
from protocol.documents import Function, FunctionProcess, FunctionProgram, FunctionScope

ENDPOINTS = "".join(
    f"  - {{name: dns-{host}, network: web, droplet: {host}, attachment: function}}\n" for host in HOSTS
)
RECORDS = {"A": "10.0.1.200", "AAAA": "fd10:0:0:1::200"}
REWRITTEN = {"A": "10.0.1.201", "AAAA": "fd10:0:0:1::201"}
NAME = "db.shop"


def code(name: str) -> str:
    return (FOLDER / f"{name}.py").read_text(encoding="utf-8")


def for_endpoint(name: str, endpoint: str) -> Function:
    program = FunctionProgram(process=FunctionProcess(str(USER)))
    return Function(name, "to_endpoint", program, vpc="red", scope=FunctionScope(endpoints=(endpoint,)))


@pytest.fixture(scope="module")
def lab(lab_cache: None) -> Iterator[SystemLab]:
    """Have a responder on each host, and rewritten answers for one client on each host."""
    text = SMALL.replace("accept: [source]", "accept: [process]") + ENDPOINTS
    records = [f"{NAME}={address}" for address in RECORDS.values()]
    pairs = [f"{RECORDS[kind]}={REWRITTEN[kind]}" for kind in RECORDS]
    with running_lab("examples", text) as made, contextlib.ExitStack() as stack:
        open_folders(made)
        for host in HOSTS:
            put(made, host, "tenant.examples", for_endpoint("dns", f"dns-{host}"))
            put(made, host, "tenant.rewrite", for_endpoint("rewrite", f"other-{host}"))
            for id_, arguments in (("dns", records), ("rewrite", pairs)):
                until(socket_of(made, host, id_).exists)
                stack.enter_context(process(made, host, id_, code(id_), arguments=arguments))
            until_served(made, host, "dns", "rewrite")
        yield made


def asked(lab: SystemLab, client: str, server: str, family: int, name: str, kind: str) -> str:
    ends = lab.address(client, family), lab.address(server, family)
    return ask(lab.inside(client), *ends, name, kind)


at_hosts = pytest.mark.parametrize("host", HOSTS)
families = pytest.mark.parametrize("family", FAMILIES)


@at_hosts
@families
@pytest.mark.parametrize("client_host", HOSTS)
def test_a_function_endpoint_answers_dns_and_one_clients_answers_are_rewritten(
    lab: SystemLab, host: str, client_host: str, family: int
) -> None:
    server = f"dns-{host}"
    for client, wanted in ((f"web-{client_host}", RECORDS), (f"other-{client_host}", REWRITTEN)):
        for kind, address in wanted.items():
            assert asked(lab, client, server, family, NAME, kind) == address
        assert asked(lab, client, server, family, "no.shop", "A") == "no such name"


@at_hosts
@families
def test_what_is_no_question_is_counted_under_the_functions_reason(lab: SystemLab, host: str, family: int) -> None:
    client, server = f"web-{host}", f"dns-{host}"
    before = counted(lab, host, "dns")
    send_broken_question(lab.inside(client), lab.address(client, family), lab.address(server, family))
    assert grows_to(lab, host, "dns", before, dropped=1).reasons == {1: 1}
