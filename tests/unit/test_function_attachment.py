"""Endpoints whose document says that they are function endpoints: validated, rendered, shown, and found again."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest
from test_render import DOCUMENT, HERE, LOCAL, rendered

from agent.core.config.desired_state import Desired
from agent.core.functions.endpoint_slots import function_slots, name_of, unclaimed_of, with_claimed
from agent.core.kinds.endpoints import ENDPOINTS
from agent.core.kinds.kind import KernelNumbers
from agent.core.model.endpoint_slots import IFINDEX_BASE
from agent.core.model.features import Features
from agent.core.model.map_layout import ENDPOINT, INTERFACE, INTERFACE_FUNCTION, U32, Interface, MapName
from protocol import codec
from protocol.addresses import parse_address
from protocol.codec import DocumentError
from protocol.documents import Attachment, Endpoint
from protocol.errors import ErrorCode

FUNCTION = Attachment(kind="function")
ECHO = msgspec.structs.replace(DOCUMENT.endpoints[0], attachment=FUNCTION)
WITH_ECHO = msgspec.structs.replace(DOCUMENT, endpoints=(ECHO, DOCUMENT.endpoints[1]))
ADDRESSES = [parse_address(text) for text in ECHO.addresses]


def test_it_has_entries_and_a_slot_and_no_interface() -> None:
    after, plain = rendered(WITH_ECHO), rendered(DOCUMENT)
    assert after.veths == {}
    assert after.entries[MapName.ENDPOINTS] == plain.entries[MapName.ENDPOINTS]
    assert ENDPOINT.unpack(after.entries[MapName.ENDPOINTS][LOCAL])[1] == IFINDEX_BASE
    found = Interface(*INTERFACE.unpack(after.entries[MapName.INTERFACES][U32.pack(0)]))
    without = Interface(*INTERFACE.unpack(plain.entries[MapName.INTERFACES][U32.pack(0)]))
    assert found == without._replace(flags=INTERFACE_FUNCTION)


def test_a_host_without_functions_rejects_it_and_says_what_to_do() -> None:
    desired = Desired(replace(HERE, features=Features()))
    document = msgspec.structs.replace(WITH_ECHO, functions=())
    desired.documents.put("all", 1, codec.encode(document))
    desired.resolve()
    (error,) = desired.documents.status("all").errors
    assert (error.path, error.code) == ("endpoints[0].attachment.kind", ErrorCode.DISABLED)
    assert "functions.accept" in error.message


@pytest.mark.parametrize(
    ("attachment", "path", "code"),
    [
        ({}, ".attachment", ErrorCode.MISSING_FIELD),
        ({"kind": "veth"}, ".attachment", ErrorCode.MISSING_FIELD),
        ({"kind": "function", "namespace": "web"}, ".attachment.namespace", ErrorCode.INVALID),
        ({"kind": "function", "interface": "eth1"}, ".attachment.interface", ErrorCode.INVALID),
        ({"kind": "tap"}, ".attachment.kind", ErrorCode.INVALID),
    ],
)
def test_what_does_not_fit_its_kind_is_refused(attachment: dict[str, str], path: str, code: ErrorCode) -> None:
    one = {**msgspec.to_builtins(DOCUMENT.endpoints[1]), "attachment": attachment}
    with pytest.raises(DocumentError) as refused:
        codec.decode_document(msgspec.msgpack.encode({"endpoints": [one]}))
    assert [(error.path, error.code) for error in refused.value.errors] == [(f"endpoints[0]{path}", code)]


def test_a_kind_that_is_a_veth_need_not_be_written() -> None:
    assert Attachment("web") == Attachment("web", "eth0", "veth")
    assert codec.decode_document(codec.encode(WITH_ECHO)) == WITH_ECHO


@pytest.mark.parametrize(("attachment", "cell"), [(FUNCTION, "function"), (Attachment("web"), "web:eth0"), (None, "-")])
def test_a_table_of_endpoints_shows_it(attachment: Attachment | None, cell: str) -> None:
    (column,) = [one for one in ENDPOINTS.columns if one.title == "ATTACHED"]
    one: Endpoint = msgspec.structs.replace(ECHO, attachment=attachment)
    assert column.cell(one) == cell


def test_its_slot_is_found_again_by_its_addresses() -> None:
    interfaces = {U32.pack(5): rendered(WITH_ECHO).entries[MapName.INTERFACES][U32.pack(0)]}
    numbers = ENDPOINTS.numbers_in(KernelNumbers({MapName.INTERFACES: interfaces}, {"other": IFINDEX_BASE}, {}))
    assert numbers == {"other": 0, name_of(7, ADDRESSES): 5}
    desired = Desired(HERE, {"endpoints": numbers})
    desired.documents.put("all", 1, codec.encode(WITH_ECHO))
    after = desired.resolve(removing=False).after
    assert desired.resolved.slots == {"other": 0, "a": 5}
    assert desired.resolved.departed == {"other"}
    assert desired.resolved.local_slots() == {"a": 5}
    assert after.entries[MapName.INTERFACES].keys() == {U32.pack(5)}


def test_slots_of_interfaces_and_of_ordinary_endpoints_are_not_taken_for_it() -> None:
    value = rendered(WITH_ECHO).entries[MapName.INTERFACES][U32.pack(0)]
    plain = rendered(DOCUMENT).entries[MapName.INTERFACES][U32.pack(0)]
    entries = {U32.pack(1): value, U32.pack(2): plain, U32.pack(3): bytes(INTERFACE.size)}
    assert function_slots(entries, {1}) == {}
    assert function_slots(entries, set()) == {name_of(7, ADDRESSES): 1}


def test_names_of_addresses_give_way_to_ids() -> None:
    name, other = name_of(7, ADDRESSES), name_of(8, ADDRESSES)
    assert unclaimed_of({"a", name, other}) == {name, other}
    assert with_claimed({"b": 0, name: 1, other: 2}, {name: "a"}) == {"b": 0, "a": 1, other: 2}
    assert with_claimed({"a": 0, name: 1}, {name: "a"}) == {"a": 0}
