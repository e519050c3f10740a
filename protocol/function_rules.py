"""Checks a document's functions: one program each, and a scope that its stage point can have."""

from __future__ import annotations

import re
from collections.abc import Iterator
from difflib import get_close_matches

from protocol.documents import MAX_SOURCE, Function, FunctionProcess
from protocol.drop_reasons import DROP_REASONS
from protocol.errors import ErrorCode, FieldError

SCOPE_OF_ENDPOINTS = ("from_endpoint", "to_endpoint")
"""The points that know the endpoint: their functions may be limited to networks and endpoints."""
OF_THE_HOST = ("from_underlay", "passed")
"""The points whose packets show more than one VPC's: their functions may not be one VPC's."""
NOT_OF_PROCESSES = ("passed",)
"""The points whose packets do not go to processes."""
_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*\.[co]")


def check_functions(functions: tuple[Function, ...]) -> Iterator[FieldError]:
    """Yield every broken rule of functions by themselves."""
    for index, function in enumerate(functions):
        yield from _check_program(function, f"functions[{index}].program")
        yield from _check_point(function, f"functions[{index}]")
        yield from _check_scope(function, f"functions[{index}].scope")


def _check_program(function: Function, path: str) -> Iterator[FieldError]:
    program = function.program
    given = [name for name in program.__struct_fields__ if getattr(program, name)]
    if len(given) != 1:
        said = f"not {' and '.join(given)}" if given else "the function has no program"
        yield FieldError(path, ErrorCode.INVALID, f"set one of source, object, file and process: {said}")
    if program.process is not None:
        yield from _check_process(function, program.process, path.removesuffix(".program"))
    if (size := len(program.source.encode())) > MAX_SOURCE:
        yield FieldError(f"{path}.source", ErrorCode.TOO_LARGE, f"{size} bytes; a source has at most {MAX_SOURCE}")
    if program.file and not _FILE_NAME.fullmatch(program.file):
        message = "not the name of a file: write NAME.c or NAME.o, of letters, digits, dots, dashes and underscores"
        yield FieldError(f"{path}.file", ErrorCode.INVALID, message)


def _check_process(function: Function, process: FunctionProcess, path: str) -> Iterator[FieldError]:
    if function.configuration:
        message = "a process is configured by other means: leave configuration out"
        yield FieldError(f"{path}.configuration", ErrorCode.INVALID, message)
    if function.point in NOT_OF_PROCESSES:
        message = f"no process can be at {function.point}: choose another point, or write a program"
        yield FieldError(f"{path}.point", ErrorCode.INVALID, message)
    path = f"{path}.program.process.reasons"
    if process.reasons and function.point != "dropped":
        message = f"packets at {function.point} are not dropped: leave reasons out, or choose the point dropped"
        yield FieldError(path, ErrorCode.INVALID, message)
    for index, name in enumerate(process.reasons):
        if name not in DROP_REASONS:
            near = get_close_matches(name, DROP_REASONS, 1) or ["no_endpoint"]
            message = f"{name!r} is no reason for a drop; telemetry lists them, such as {near[0]!r}"
            yield FieldError(f"{path}[{index}]", ErrorCode.INVALID, message)
        elif process.reasons.index(name) != index:
            yield FieldError(f"{path}[{index}]", ErrorCode.DUPLICATE, f"{name!r} stands here twice")


def _check_point(function: Function, path: str) -> Iterator[FieldError]:
    if function.vpc and function.point in OF_THE_HOST:
        message = f"packets at {function.point} are not one VPC's alone: leave vpc out, or choose another point"
        yield FieldError(f"{path}.vpc", ErrorCode.INVALID, message)
    scope = function.scope
    if function.point == "passed" and (scope.vpcs or scope.networks or scope.endpoints):
        message = "packets at passed are of no VPC: leave scope out"
        yield FieldError(f"{path}.scope", ErrorCode.INVALID, message)
    elif function.point not in SCOPE_OF_ENDPOINTS:
        for kind in ("networks", "endpoints"):
            if getattr(scope, kind):
                message = f"functions at {function.point} are chosen by VPC: write vpcs, or choose another point"
                yield FieldError(f"{path}.scope.{kind}", ErrorCode.INVALID, message)


def _check_scope(function: Function, path: str) -> Iterator[FieldError]:
    for kind in function.scope.__struct_fields__:
        ids: tuple[str, ...] = getattr(function.scope, kind)
        seen: dict[str, int] = {}
        for index, id_ in enumerate(ids):
            if seen.setdefault(id_, index) != index:
                yield FieldError(f"{path}.{kind}[{index}]", ErrorCode.DUPLICATE, f"{id_!r} stands here twice")
    if function.vpc:
        for index, id_ in enumerate(function.scope.vpcs):
            if id_ != function.vpc:
                message = f"the function is limited to VPC {function.vpc!r}"
                yield FieldError(f"{path}.vpcs[{index}]", ErrorCode.OUT_OF_RANGE, message)
