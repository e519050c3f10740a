"""Names programs of functions by their content, so that what is known of one holds wherever it stands. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import blake2s

import msgspec

from agent.core.functions.stages import POINTS, Point
from agent.core.model.features import Verdict
from protocol.documents import Function, FunctionProgram

STAGE_ABI = 1
"""STAGE_ABI in `bpf/stage.h`: a program of another one is compiled anew."""
_UNKNOWN: Mapping[str, Verdict] = {}


@dataclass(frozen=True, slots=True)
class UncheckedProgram:
    """A program that the kernel has to check for one stage point, by the key of its verdict; `vpc`: whose it is."""

    key: str
    point: Point
    program: FunctionProgram
    configuration: bytes
    vpc: str = ""


def form_of(program: FunctionProgram) -> str:
    """Return the field that holds a program: `source`, `object`, `file` or `process`."""
    return next(name for name in program.__struct_fields__ if getattr(program, name))


def content_of(program: FunctionProgram, verdicts: Mapping[str, Verdict] = _UNKNOWN, point: str = "") -> str:
    """Return the hash of a program: 32 hexadecimal digits. A file's comes from its verdict, and is empty without."""
    form = form_of(program)
    if form == "file":
        verdict = verdicts.get(verdict_key(program, point))
        return verdict.content if verdict is not None else ""
    return hash_of(form, given_by(program))


def given_by(program: FunctionProgram) -> bytes:
    """Return what a document says of a program that is not a file."""
    if program.process is not None:
        return msgspec.json.encode(program.process)
    return program.source.encode() or program.object


def hash_of(form: str, content: bytes) -> str:
    """Return the hash of the bytes of a source or an object."""
    return blake2s(f"{form} {STAGE_ABI} ".encode() + content, digest_size=16).hexdigest()


def verdict_key(program: FunctionProgram, point: str) -> str:
    """Return the key of a program's verdict: the kernel checks it together with the agent's own program for a point."""
    form = form_of(program)
    return f"{point} {form} {program.file if form == 'file' else content_of(program)}"


def unchecked(functions: Iterable[Function], verdicts: Mapping[str, Verdict]) -> list[UncheckedProgram]:
    """Return the programs of functions without a verdict, each once. Files may have changed: they are among them."""
    found: dict[str, UncheckedProgram] = {}
    for function in functions:
        key = verdict_key(function.program, function.point)
        if function.program.file or key not in verdicts:
            point, given = POINTS[function.point], function.configuration
            found[key] = UncheckedProgram(key, point, function.program, given, function.vpc)
    return list(found.values())
