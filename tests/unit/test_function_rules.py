"""What a document may say of a function by itself."""

from __future__ import annotations

import msgspec
import pytest

from protocol import codec
from protocol.asyncapi import describe
from protocol.documents import MAX_CONFIGURATION, MAX_OBJECT, MAX_SOURCE, Document, Function, FunctionProgram
from protocol.errors import DocumentError, ErrorCode, FieldError

PROGRAM = {"source": "int stage_function(struct stage *stage) { return STAGE_GO_ON; }"}


def errors_of(**fields: object) -> list[tuple[str, ErrorCode]]:
    """Return the mistakes in a document with one function."""
    return [(error.path, error.code) for error in found(**fields)]


def found(**fields: object) -> list[FieldError]:
    function = {"id": "f", "point": "from_endpoint", "program": PROGRAM, **fields}
    try:
        codec.decode_document(msgspec.msgpack.encode({"functions": [function]}))
    except DocumentError as error:
        return error.errors
    return []


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"program": {"object": b"\x7fELF"}},
        {"program": {"file": "firewall.c"}},
        {"program": {"file": "firewall-2.o"}},
        {"program": {"process": {"user": "nobody"}}},
        {"vpc": "red", "scope": {"networks": ["front"], "endpoints": ["a"], "vpcs": ["red"]}},
        {"point": "dropped", "vpc": "red"},
        {"point": "from_underlay", "scope": {"vpcs": ["red", "blue"]}},
        {"point": "passed", "order": 1000, "configuration": bytes(MAX_CONFIGURATION), "on_fault": "closed"},
    ],
)
def test_a_valid_function_has_no_mistakes(fields: dict[str, object]) -> None:
    assert errors_of(**fields) == []


@pytest.mark.parametrize(
    ("fields", "path", "code"),
    [
        ({"id": "F"}, "id", ErrorCode.INVALID),
        ({"point": "somewhere"}, "point", ErrorCode.INVALID),
        ({"order": 1001}, "order", ErrorCode.INVALID),
        ({"order": -1}, "order", ErrorCode.INVALID),
        ({"program": {}}, "program", ErrorCode.INVALID),
        ({"program": {**PROGRAM, "file": "a.c"}}, "program", ErrorCode.INVALID),
        ({"program": {"file": "../a.c"}}, "program.file", ErrorCode.INVALID),
        ({"program": {"file": ".a.c"}}, "program.file", ErrorCode.INVALID),
        ({"program": {"file": "a.c\n"}}, "program.file", ErrorCode.INVALID),
        ({"program": {"file": "folder/a.c"}}, "program.file", ErrorCode.INVALID),
        ({"program": {"file": "a.py"}}, "program.file", ErrorCode.INVALID),
        ({"program": {"source": "ä" * MAX_SOURCE}}, "program.source", ErrorCode.TOO_LARGE),
        ({"program": {"source": "a" * (MAX_SOURCE + 1)}}, "program.source", ErrorCode.INVALID),
        ({"program": {"object": bytes(MAX_OBJECT + 1)}}, "program.object", ErrorCode.INVALID),
        ({"program": {"text": "x"}}, "program", ErrorCode.UNKNOWN_FIELD),
        ({"configuration": bytes(MAX_CONFIGURATION + 1)}, "configuration", ErrorCode.INVALID),
        ({"configuration": "text"}, "configuration", ErrorCode.WRONG_TYPE),
        ({"on_fault": "maybe"}, "on_fault", ErrorCode.INVALID),
        ({"scope": {"vpcs": ["red", "blue", "red"]}}, "scope.vpcs[2]", ErrorCode.DUPLICATE),
        ({"scope": {"endpoints": ["a", "a"]}}, "scope.endpoints[1]", ErrorCode.DUPLICATE),
        ({"scope": {"networks": [""]}}, "scope.networks[0]", ErrorCode.INVALID),
        ({"vpc": "red", "scope": {"vpcs": ["blue"]}}, "scope.vpcs[0]", ErrorCode.OUT_OF_RANGE),
        ({"point": "passed", "scope": {"vpcs": ["red"]}}, "scope", ErrorCode.INVALID),
        ({"point": "passed", "vpc": "red"}, "vpc", ErrorCode.INVALID),
        ({"point": "from_underlay", "vpc": "red"}, "vpc", ErrorCode.INVALID),
        ({"point": "forwarded", "scope": {"networks": ["front"]}}, "scope.networks", ErrorCode.INVALID),
        ({"point": "dropped", "scope": {"endpoints": ["a"]}}, "scope.endpoints", ErrorCode.INVALID),
    ],
)
def test_a_broken_rule_is_named_with_its_field(fields: dict[str, object], path: str, code: ErrorCode) -> None:
    assert errors_of(**fields) == [(f"functions[0].{path}", code)]


def test_the_length_of_binary_is_told_in_bytes() -> None:
    (error,) = found(configuration=bytes(MAX_CONFIGURATION + 1))
    assert error.message == "must have at most 4096 bytes"


def test_one_function_may_stand_in_a_document_once() -> None:
    function = Function("f", "dropped", FunctionProgram(file="a.c"))
    with pytest.raises(DocumentError, match=r"functions\[1\].id: 'f' stands in functions\[0\] already"):
        codec.decode_document(codec.encode(Document(functions=(function, function))))


def test_binary_fields_are_binary_in_messagepack_base64_in_json_and_have_no_json_type_in_the_schemas() -> None:
    function = Function("f", "dropped", FunctionProgram(object=b"\x7fELF\xff"), configuration=b"\x00\xff")
    assert codec.decode_document(codec.encode(Document(functions=(function,)))).functions == (function,)
    written = msgspec.to_builtins(function)
    assert (written["program"]["object"], written["configuration"]) == ("f0VMRv8=", "AP8=")
    schemas = describe()["components"]["schemas"]
    for schema in (
        schemas["Function"]["properties"]["configuration"],
        schemas["FunctionProgram"]["properties"]["object"],
    ):
        assert (schema["format"], "type" in schema, "contentEncoding" in schema) == ("binary", False, False)


def test_a_process_cannot_be_at_every_point() -> None:
    program = {"process": {"user": "nobody"}}
    assert errors_of(program=program, point="passed") == [("functions[0].point", ErrorCode.INVALID)]
    assert errors_of(program=program, point="dropped") == []


@pytest.mark.parametrize(
    ("process", "point", "path", "code"),
    [
        ({"queues": 0}, "from_endpoint", "queues", ErrorCode.INVALID),
        ({"queues": 17}, "from_endpoint", "queues", ErrorCode.INVALID),
        ({"handed": 1}, "from_endpoint", "handed", ErrorCode.WRONG_TYPE),
        ({"reasons": ["no_endpoint"]}, "from_endpoint", "reasons", ErrorCode.INVALID),
        ({"reasons": ["no_endpoint", "no_endpont"]}, "dropped", "reasons[1]", ErrorCode.INVALID),
        ({"reasons": ["delivered"]}, "dropped", "reasons[0]", ErrorCode.INVALID),
        ({"reasons": ["no_vpc", "inner_ttl", "no_vpc"]}, "dropped", "reasons[2]", ErrorCode.DUPLICATE),
    ],
)
def test_queues_and_reasons_of_a_process_are_checked(
    process: dict[str, object], point: str, path: str, code: ErrorCode
) -> None:
    program = {"process": {"user": "nobody", **process}}
    assert errors_of(program=program, point=point) == [(f"functions[0].program.process.{path}", code)]


def test_a_reason_that_is_misspelt_is_answered_with_the_nearest_one() -> None:
    program = {"process": {"user": "nobody", "reasons": ["no_endpont"]}}
    (error,) = found(program=program, point="dropped")
    assert error.message == "'no_endpont' is no reason for a drop; telemetry lists them, such as 'no_endpoint'"


def test_a_process_has_no_configuration_and_no_program_beside_it() -> None:
    program = {"process": {"user": "nobody"}}
    assert errors_of(program=program, configuration=b"1") == [("functions[0].configuration", ErrorCode.INVALID)]
    assert errors_of(program={**PROGRAM, **program}) == [("functions[0].program", ErrorCode.INVALID)]
