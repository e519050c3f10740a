"""The programs of docs/functions.md do what the page says: they are taken from it, compiled, and given packets."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import bpf_packets as p
import pytest
from bpf_dut import A6, MAC, R6, A, R, Run
from bpf_tunnels import tunnelled
from function_dut import FunctionDut, source_program, user_program
from test_functions import USUAL, run_at

from agent.core.kinds.catalogue import KINDS
from agent.core.model.hooks import POINTS
from agent.datapath.bpf import syscall as bpf
from agent.datapath.bpf.outcomes import Outcome
from agent.datapath.functions.checks import check
from agent.datapath.functions.elf import read_object
from protocol.codec import decode_document
from protocol.documents import Function

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "functions.md").read_text(encoding="utf-8")
POINT, SLOT = "to_endpoint", 0
BLOCKED = 1


def example(name: str) -> str:
    """Return the code below a mark of the page."""
    found = re.search(rf"<!-- example: {re.escape(name)} -->\n```(?:c|python)\n(.*?)```", PAGE, re.DOTALL)
    assert found, f"the page has no example {name}"
    return found[1]


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Function]:
    """Return what makes the page's document, as an agent decodes and checks it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "port_filter.c").write_text(example("port_filter.c"))
    names: dict[str, Callable[..., bytes]] = {}
    exec(compile(example("port_filter.py"), "port_filter.py", "exec"), names)

    def make(*ports: int) -> Function:
        (function,) = decode_document(names["document"](*ports)).functions
        return function

    return make


def install(dut: FunctionDut, function: Function) -> None:
    assert function.point == POINT
    dut.install(POINT, SLOT, source_program(function.program.source), configuration=function.configuration)
    dut.chains(POINT, SLOT)


def packet(port: int, *, six: bool = False, tcp: bool = False, fragment: int = 0) -> bytes:
    """Return a tunnel packet to the endpoint's port."""
    segment = p.tcp(4000, port) if tcp else p.udp(4000, port)
    if six:
        inner = p.ipv6(R6, A6, segment, protocol=p.TCP if tcp else p.UDP)
        return tunnelled(p.ethernet(MAC[A], MAC[R], p.IPV6, inner))
    inner = p.ipv4(R, A, segment, protocol=p.TCP if tcp else p.UDP, fragment=fragment)
    return tunnelled(p.ethernet(MAC[A], MAC[R], p.IPV4, inner))


def outcome(dut: FunctionDut, port: int, *, six: bool = False, tcp: bool = False, fragment: int = 0) -> Outcome:
    run: Run = dut.from_underlay(packet(port, six=six, tcp=tcp, fragment=fragment))
    return run.outcome


def counted(dut: FunctionDut, port: int) -> int:
    """Return the function's own count of packets to a port."""
    value = bpf.lookup(dut.maps[POINT, SLOT]["packets"], port.to_bytes(4, "little"), 8)
    assert value is not None
    return int.from_bytes(value, "little")


@pytest.mark.parametrize("six", [False, True])
@pytest.mark.parametrize("tcp", [False, True])
def test_packets_to_listed_ports_are_dropped_and_all_are_counted(
    functions: FunctionDut, published: Callable[..., Function], six: bool, tcp: bool
) -> None:
    install(functions, published(23, 445))
    ports = (23, 80, 445, 80)
    found = [outcome(functions, port, six=six, tcp=tcp) for port in ports]
    dropped, delivered = Outcome.FUNCTION_DROPPED, Outcome.DELIVERED
    assert found == [dropped, delivered, dropped, delivered]
    assert [counted(functions, port) for port in (23, 80, 445, 3389)] == [1, 2, 1, 0]
    assert functions.reason(POINT, SLOT, BLOCKED) == 2


def test_the_list_of_ports_changes_while_the_function_runs_and_the_counts_stay(
    functions: FunctionDut, published: Callable[..., Function]
) -> None:
    before, after = published(23, 445), published(80)
    assert before.program == after.program
    install(functions, before)
    assert outcome(functions, 80) is Outcome.DELIVERED
    functions.configure(POINT, SLOT, after.configuration)
    assert outcome(functions, 80) is Outcome.FUNCTION_DROPPED
    assert outcome(functions, 23) is Outcome.DELIVERED
    assert counted(functions, 80) == 2


def test_without_the_function_packets_are_delivered_again(
    functions: FunctionDut, published: Callable[..., Function]
) -> None:
    install(functions, published(23))
    assert outcome(functions, 23) is Outcome.FUNCTION_DROPPED
    functions.chains(POINT)
    assert outcome(functions, 23) is Outcome.DELIVERED


def test_later_fragments_and_packets_without_ports_go_on(
    functions: FunctionDut, published: Callable[..., Function]
) -> None:
    install(functions, published(23))
    assert outcome(functions, 23, fragment=100) is Outcome.DELIVERED
    echo = p.ethernet(MAC[A], MAC[R], p.IPV4, p.ipv4(R, A, p.echo(), protocol=p.ICMP))
    assert functions.from_underlay(tunnelled(echo)).outcome is Outcome.DELIVERED
    assert functions.counted(POINT, SLOT).went_on == 2


def test_as_many_ports_as_the_source_says_are_blocked(
    functions: FunctionDut, published: Callable[..., Function]
) -> None:
    install(functions, published(*range(1, 66)))
    assert outcome(functions, 64) is Outcome.FUNCTION_DROPPED
    assert outcome(functions, 65) is Outcome.DELIVERED


@pytest.mark.parametrize("point", POINTS)
def test_a_function_with_as_much_stack_as_the_page_allows_loads(functions: FunctionDut, point: str) -> None:
    """The kernel adds up the frames of the shell, of what isolates the function from it, and of the function."""
    found = re.search(r"\| stack \| (\d+) bytes", PAGE)
    assert found
    body = f"volatile char bytes[{found[1]}]; bytes[0] = 7; bytes[{found[1]} - 1] = 1; return bytes[0] - 6;"
    functions.install(point, SLOT, user_program(body))
    functions.chains(point, SLOT)
    assert run_at(functions, point).outcome is USUAL[point]


@pytest.mark.parametrize("point", POINTS)
def test_the_smallest_function_runs_at_every_point(functions: FunctionDut, point: str) -> None:
    functions.install(point, SLOT, source_program(example("smallest.c")))
    functions.chains(point, SLOT)
    assert run_at(functions, point).outcome is USUAL[point]
    assert functions.counted(point, SLOT).went_on == 1


@pytest.mark.skipif(not shutil.which("clang"), reason="clang is not installed")
def test_an_object_file_that_is_compiled_as_the_page_says_runs(functions: FunctionDut, tmp_path: Path) -> None:
    (tmp_path / "smallest.c").write_text(example("smallest.c"))
    (command,) = re.findall(r"(?m)^clang .*$", PAGE)
    command = command.replace("-I bpf", f"-I {ROOT / 'bpf'}")
    done = subprocess.run(command, shell=True, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert not done.returncode, done.stderr
    program = read_object((tmp_path / "smallest.o").read_bytes())
    check(program)
    functions.install(POINT, SLOT, program)
    functions.chains(POINT, SLOT)
    assert outcome(functions, 80) is Outcome.DELIVERED
    assert functions.counted(POINT, SLOT).went_on == 1


def test_the_document_is_one_of_functions(published: Callable[..., Function]) -> None:
    kind = next(one for one in KINDS if one.name == "functions")
    assert kind.references([published(23)])["vpcs"] == {"shop"}
