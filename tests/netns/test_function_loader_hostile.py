"""Hostile programs of users: each is refused with the reason and the line, and nothing of the kernel is left behind."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.datapath.bpf import syscall as bpf
from agent.datapath.functions.checks import check
from agent.datapath.functions.compile import compile_source
from agent.datapath.functions.load import run_on_samples, temporary_maps
from agent.datapath.functions.map_limits import check_maps
from agent.datapath.functions.refusals import CheckError, FunctionError, SourceError
from agent.datapath.functions.user_program import UserProgram

POINT = 1
HEAD = '#include "stage.h"\n'


def body(*lines: str, before: str = "") -> str:
    """Return a source whose function's first statement is in line 4 if nothing comes before it."""
    text = "\n".join(f"\t{line}" for line in lines)
    return f"{HEAD}{before}int stage_function(struct stage *stage)\n{{\n{text}\n\treturn STAGE_GO_ON;\n}}\n"


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


async def checked(source: str, cache: Path) -> None:
    program = await compile_source(source, cache)
    check(program)
    check_maps(program.maps, bpf.possible_cpus())
    with temporary_maps(program, b"") as maps:
        run_on_samples(program, POINT, maps)


REFUSED_BY_VERIFIER = {
    "an endless loop": (body("volatile int i = 0;", "for (;;)", "\ti++;"), "infinite loop"),
    "a loop that is too long": (
        body("volatile __u32 x = 0;", "for (int i = 0; i < 1000000; i++) { x += i; if (x == 77) break; }"),
        "bound loops by smaller constants",
    ),
    "a million instructions": (
        body(
            "volatile __u32 x = 0;",
            "for (int i = 0; i < 1000; i++)",
            "\tfor (int j = 0; j < 1000; j++)",
            "\t\tx += stage->vni + i * j;",
        ),
        "bound loops by smaller constants",
    ),
    "a wild pointer": (body("return *(__u64 *)0xffffffff81000000 & 1;"), "pointers of struct stage"),
    "a packet read without a comparison": (body("return *((__u8 *)stage_start(stage) + 14);"), "stage_end(stage)"),
    "a read behind the packet": (
        body(
            "__u8 *at = stage_start(stage);",
            "if ((void *)(at + 20) > stage_end(stage))",
            "\treturn STAGE_GO_ON;",
            "return at[20];",
        ),
        "line 7",
    ),
    "a lookup that is not compared with NULL": (
        body(
            "__u32 key = 1, *value = table.lookup(&key);",
            "return *value;",
            before='BPF_TABLE("hash", __u32, __u32, table, 8);\n',
        ),
        "with NULL",
    ),
    "a read behind a map's value": (
        body(
            "__u32 key = 1, *value = table.lookup(&key);",
            "return value ? value[stage->protocol] : STAGE_GO_ON;",
            before='BPF_TABLE("array", __u32, __u32, table, 8);\n',
        ),
        "bound the offset",
    ),
    "a write into the configuration": (body("*(__u8 *)stage_configuration(stage) = 1;"), "not to be written"),
    "what lies behind struct stage": (body("return ((__u64 *)stage)[14];"), "line 4"),
    "a write through struct stage into the caller": (body("((volatile __u64 *)stage)[64] = 1;"), "line 4"),
    "too much stack": (body("volatile __u8 big[500];", "big[stage->protocol] = 1;", "return big[3];"), "stack"),
    "a value that is no verdict": (body("return 7;"), "returns 7 for an IPv4 TCP packet"),
}
REFUSED_BY_CHECKS = {
    "a print": (body('bpf_trace_printk("x", 2);'), "line 4", "bpf_trace_printk"),
    "a tail call into nowhere": (
        body("programs.call(stage, 3);", before="BPF_PROG_ARRAY(programs, 4);\n"),
        "line 5",
        "bpf_tail_call",
    ),
    "a redirect": (body("return bpf_redirect(1, 0);"), "line 4", "bpf_redirect"),
    "a read of kernel memory": (
        body("bpf_probe_read_kernel(&stage->reason, 1, stage);"),
        "line 4",
        "probe_read_kernel",
    ),
    "a perf event": (
        body("events.perf_submit(stage, stage, 8);", before="BPF_PERF_OUTPUT(events);\n"),
        "line 5",
        "bpf_perf_event_output",
    ),
    "a giant map": (
        body("__u32 key = 1;", "big.lookup(&key);", before='BPF_TABLE("hash", __u32, __u64, big, 2000000000);\n'),
        "the limit is 64 MiB",
        "big",
    ),
    "an address of the kernel in a map": (
        body(
            *("__u32 key = 0;", "__u64 *value = kept.lookup(&key);", "if (value)", "\t*value = (long)stage;"),
            before="BPF_ARRAY(kept, __u64, 1);\n",
        ),
        "line 8",
        "stores an address of kernel memory, which functions may not",
    ),
    "a map of sockets": (
        body("__u32 key = 1;", "return xsks.lookup(&key) ? STAGE_DROP : STAGE_GO_ON;", before="BPF_XSKMAP(xsks, 4);\n"),
        "xsks",
        "functions may have hash",
    ),
}
REFUSED_SOURCES = {
    "a file of the host": (f'{HEAD}#include "/etc/shadow"\n', "line 2: #include"),
    "a file of the host behind a comment": (f'{HEAD}#/*\n*/include "/etc/shadow"\n', "line 2: #include"),
    "a file of the host behind a continued line": (f'{HEAD}#inc\\\nlude "/etc/shadow"\n', "line 2: #include"),
    "a file of the host by a digraph": (f'{HEAD}%:include "/etc/shadow"\n', "line 2: #include"),
    "a file of the host behind an open quote": (
        f'{HEAD}#error don\'t /*\n#include "/etc/shadow"\n',
        "line 3: #include",
    ),
    "a file of the host by a macro": (f'{HEAD}#define F "/etc/shadow"\n#include F\n', "line 3: #include"),
    "an assembler's file": (body('asm(".incbin \\"/etc/shadow\\"");'), "line 4: inline assembly"),
    "another line directive": (f'{HEAD}#line 1 "x"\n', "line 2: #line"),
    "a syntax error": (body("return stage->nothing;"), "line 4: no member named 'nothing'"),
    "no entry": (f"{HEAD}int other(void) {{ return 1; }}\n", "write one"),
}


@pytest.mark.parametrize("name", REFUSED_BY_VERIFIER)
async def test_the_kernel_refuses_and_the_message_has_the_line(name: str, cache: Path) -> None:
    source, reason = REFUSED_BY_VERIFIER[name]
    with pytest.raises(FunctionError) as refused:
        await checked(source, cache)
    assert reason in str(refused.value)
    assert len(str(refused.value)) <= 400
    assert refused.value.log


@pytest.mark.parametrize("name", REFUSED_BY_CHECKS)
async def test_what_functions_may_not_use_is_refused_before_the_kernel_sees_it(name: str, cache: Path) -> None:
    source, *reasons = REFUSED_BY_CHECKS[name]
    with pytest.raises(CheckError) as refused:
        await checked(source, cache)
    assert all(reason in str(refused.value) for reason in reasons), refused.value


@pytest.mark.parametrize("name", REFUSED_SOURCES)
async def test_a_source_is_refused_with_the_users_line(name: str, cache: Path) -> None:
    source, reason = REFUSED_SOURCES[name]
    with pytest.raises(SourceError) as refused:
        await checked(source, cache)
    assert reason in str(refused.value)


SECRET = "a secret of the host"


@pytest.fixture
def secret() -> Iterator[Path]:
    """A file that every user can read."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "secret"
        path.write_text(SECRET)
        path.parent.chmod(0o755)
        path.chmod(0o644)
        yield path


async def test_the_compiler_cannot_read_files_even_if_the_rules_miss_something(
    secret: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.datapath.functions.compile.check_source", lambda source: None)
    for source in (f'#include "{secret}"\n{body()}', body(f'asm(".incbin \\"{secret}\\"");')):
        with pytest.raises(SourceError) as refused:
            await checked(source, cache)
        assert SECRET not in refused.value.log


async def test_pasted_assembly_cannot_read_files_either(secret: Path, cache: Path) -> None:
    macros = "#define CAT(a, b) a##b\n#define ASM CAT(as, m)\n"
    with pytest.raises(SourceError, match="incbin"):
        await checked(body(f'ASM volatile(".incbin \\"{secret}\\"");', before=macros), cache)


async def test_a_source_that_expands_without_end_is_stopped(cache: Path) -> None:
    macros = "#define A(x) x x x x x x x x x x\n#define B(x) A(A(A(A(x))))\n"
    with pytest.raises(SourceError, match="simplify"):
        await checked(body("int a = 0;", "B(B(a += stage->vni * 3;))", before=macros), cache)


async def test_compiling_creates_no_map_however_large_it_is_declared(cache: Path) -> None:
    program = await compile_source(body(before='BPF_TABLE("hash", __u32, __u64, big, 4000000000);\n'), cache)
    assert program.maps[0].max_entries == 4_000_000_000


async def test_a_function_gets_no_registers_of_its_caller_but_the_pointer(cache: Path) -> None:
    program = await compile_source(body("return stage->reason == 1 ? STAGE_DROP : STAGE_GO_ON;"), cache)
    # r0 = r2 (what the caller had there); exit: a pointer would be refused as a verdict, zero is none.
    stolen = bytes((0xBF, 0x20, 0, 0, 0, 0, 0, 0, 0x95, 0, 0, 0, 0, 0, 0, 0))
    changed = type(program)(stolen)
    with temporary_maps(changed, b"") as maps, pytest.raises(FunctionError, match="returns 0 for"):
        run_on_samples(changed, POINT, maps)


async def test_the_layout_of_struct_stage_is_that_of_the_header(cache: Path) -> None:
    offsets = {"peer": 24, "vni": 40, "label": 60, "inner": 64, "protocol": 72, "flags": 75}
    offsets |= {"target": 80, "reason": 96, "changed": 97}
    asserted = [
        f'_Static_assert(__builtin_offsetof(struct stage, {name}) == {at}, "");' for name, at in offsets.items()
    ]
    await checked(body(*asserted, '_Static_assert(sizeof(struct stage) == 104, "");'), cache)


LEFT_BEHIND = bytes((0x79, 0xA0, 0xF8, 0xFF, 0, 0, 0, 0))  # r0 = *(u64 *)(r10 - 8), which the function never wrote
IN_FRONT = bytes((0x79, 0x10, 0xF8, 0xFF, 0, 0, 0, 0))  # r0 = *(u64 *)(r1 - 8), in front of struct stage
DEEP = bytes((0x79, 0xA0, 0x40, 0xFF, 0, 0, 0, 0))  # r0 = *(u64 *)(r10 - 192)
CALL, EXIT = bytes((0x85, 0x10, 0, 0, 1, 0, 0, 0)), bytes((0x95, 0, 0, 0, 0, 0, 0, 0))


@pytest.mark.parametrize("code", [LEFT_BEHIND + EXIT, DEEP + EXIT, CALL + EXIT + LEFT_BEHIND + EXIT])
def test_a_function_finds_zeros_where_others_left_their_stack(code: bytes) -> None:
    with temporary_maps(UserProgram(code), b"") as maps, pytest.raises(FunctionError, match="returns 0 for"):
        run_on_samples(UserProgram(code), POINT, maps)


def test_a_function_cannot_read_in_front_of_struct_stage() -> None:
    program = UserProgram(IN_FRONT + EXIT)
    with temporary_maps(program, b"") as maps, pytest.raises(FunctionError, match="in front of struct stage"):
        run_on_samples(program, POINT, maps)


def test_the_refusal_of_a_verdict_shows_no_large_number() -> None:
    """It could be a part of an address, if the checks of functions let one pass."""
    program = UserProgram(bytes((0xB7, 0, 0, 0, 0, 0, 2, 0)) + EXIT)  # r0 = 131072
    with temporary_maps(program, b"") as maps, pytest.raises(FunctionError, match="returns a number above 65535"):
        run_on_samples(program, POINT, maps)
