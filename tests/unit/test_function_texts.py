"""Sources of functions before compiling, descriptions of types, and the verifier's log in short."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from agent.datapath.functions.compile import _summary, compile_source
from agent.datapath.functions.contents import decode
from agent.datapath.functions.descriptions import fields_of
from agent.datapath.functions.refusals import SourceError
from agent.datapath.functions.source_compiler import numbered
from agent.datapath.functions.source_rules import MOST_BYTES, check_source
from agent.datapath.functions.user_program import Field, UserProgram
from agent.datapath.functions.verifier_summary import MOST_LOG, bounded, summarize

GOOD = """#include "stage.h"
#include <linux/ip.h>
#if defined(X) /* not
#include "here.h" */ && 1
#define TEXT "#include \\"/etc/shadow\\""
#endif
#pragma unroll
// #include "/etc/shadow"
int stage_function(struct stage *stage) { char c = '"'; return 1; } /* asm */
"""


def test_what_functions_need_passes() -> None:
    check_source(GOOD)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ('#include "/etc/shadow"', "line 1: #include"),
        ("# include <../shadow>", "line 1: #include"),
        ("#include <linux/../../etc/shadow>", "line 1: #include"),
        ("int a;\n#include_next <x.h>", "line 2: #include_next"),
        ("#import <linux/ip.h>", "line 1: #import"),
        ('#line 7 "x"', "line 1: #line"),
        ("#embed </etc/shadow>", "line 1: #embed"),
        ("#ident x", "line 1: #ident"),
        ('#pragma GCC dependency "/etc/shadow"', "line 1: #pragma"),
        ('#if __has_include("/etc/shadow")\n#endif', "line 1: __has_include"),
        ('int a;\n\n_Pragma("GCC dependency x")', "line 3: _Pragma"),
        ('__asm__(".incbin x");', "line 1: inline assembly"),
        ("int a; /* one\ntwo */ int b; asm(x);", "line 1: inline assembly"),
        ('??=include "/etc/shadow"', "line 1: #include"),
        ('#include \\\n"/etc/shadow"', "line 1: #include"),
        ('int a;\n"open /*\n#include "/etc/shadow"', "line 3: #include"),
        ('\'/*\n#include "/etc/shadow"', "line 2: #include"),
        ("int a;\0", "NUL"),
        (" " * (MOST_BYTES + 1), "the limit is"),
    ],
)
def test_what_could_read_files_is_refused_with_its_line(source: str, reason: str) -> None:
    with pytest.raises(SourceError) as refused:
        check_source(source)
    assert reason in str(refused.value)


def test_lines_keep_their_numbers_where_the_compiler_adds_some() -> None:
    text = numbered(b"int a;\n\nint b\n= 1;\n#define X \\\n 2\nint c;").decode().split("\n")
    assert text == [
        *('#line 1 "function.c"', "int a;", '#line 2 "function.c"', "", '#line 3 "function.c"', "int b", "= 1;"),
        *('#line 5 "function.c"', "#define X \\", " 2", "int c;"),
    ]


def test_a_compilers_errors_are_shortened_to_the_first_one() -> None:
    log = (
        "function.c:12:3: error: use of undeclared identifier 'x'\n\tx\nfunction.c:13:1: error: expected '}'\n2 errors"
    )
    assert _summary(1, log) == "line 12: use of undeclared identifier 'x' (and 1 more errors)"
    assert _summary(-9, "").startswith("compiling takes too long")
    assert "too much memory" in _summary(-11, "LLVM ERROR: out of memory")


def test_descriptions_give_fields_with_offsets() -> None:
    inner = ["inner", [["a", "unsigned long long"], ["c", "signed char"], ["__pad_end", "char", [7]]], "struct_packed"]
    union = ["u", [["v4", "unsigned int"], ["b", "unsigned char", [16]]], "union"]
    members = [["n", "unsigned short", [2]], ["__pad_0", "char", [4]], ["i", inner], ["u", union], ["f", "_Bool"]]
    fields = fields_of(json.loads(json.dumps(["value", members, "struct_packed"])))
    assert fields == (
        *(Field("n", 0, 2, "u", 2), Field("i.a", 8, 8), Field("i.c", 16, 1, "s")),
        *(Field("u", 24, 16, "bytes"), Field("f", 40, 1)),
    )
    assert fields_of("int") == (Field("", 0, 4, "s"),)


@pytest.mark.parametrize(
    "description", [None, 7, [], ["s", [["bits", "int", 3]], "struct"], "no type", ["s", [["a", ["s"]]], "struct"]]
)
def test_what_cannot_be_described_has_no_fields(description: object) -> None:
    assert fields_of(description) == ()


def test_values_are_decoded_by_their_fields() -> None:
    fields = (Field("vni", 0, 4), Field("delta", 4, 2, "s"), Field("mac", 6, 2, "bytes"), Field("words", 8, 2, "u", 2))
    data = bytes.fromhex("07000000feffaabb01000200")
    assert decode(data, fields) == {"vni": 7, "delta": -2, "mac": "aabb", "words": [1, 2]}
    assert decode(data, ()) == data.hex()
    assert decode(data[:4], (Field("", 0, 4),)) == 7


LOG = """func#0 @0
104: (79) r1 = *(u64 *)(r1 +0)        ; frame2: R1=pkt(r=0)
106: (71) r1 = *(u8 *)(r1 +14)
invalid access to packet, off=14 size=1, R1(id=0,off=14,r=0)
R1 offset is outside of the packet
processed 89 insns (limit 1000000) max_states_per_insn 0 total_states 3 peak_states 3 mark_read 0
"""


def test_the_verifiers_log_is_shortened_to_the_complaint_the_line_and_the_way_out() -> None:
    program = UserProgram(bytes(800), lines={4: "4: first", 6: "6: if (p[14] == 1)", 9: "9: later"})
    assert summarize(LOG, program, 100) == (
        "line 6: if (p[14] == 1) (instruction 6): invalid access to packet, off=14 size=1, R1(id=0,off=14,r=0); "
        "compare the pointer plus the size of the access with stage_end(stage) first"
    )
    assert summarize(LOG, program, 200).startswith("invalid access to packet")
    assert summarize("", program, 0) == "the kernel refused it without a reason"


def test_a_long_log_keeps_its_end() -> None:
    kept = bounded("x" * MOST_LOG + "the end")
    assert kept.endswith("the end")
    assert len(kept) < MOST_LOG + 100


async def test_the_agent_goes_on_while_a_source_is_examined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def examine(source: str) -> None:
        raise SourceError(threading.current_thread().name)

    monkeypatch.setattr("agent.datapath.functions.compile.check_source", examine)
    with pytest.raises(SourceError) as refused:
        await compile_source(GOOD, tmp_path)
    assert str(refused.value) != threading.main_thread().name


def test_a_source_of_quotation_marks_alone_passes() -> None:
    check_source('"' * MOST_BYTES)
