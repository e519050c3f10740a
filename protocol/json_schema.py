"""JSON Schemas of the protocol's types, in the dialect that AsyncAPI takes (a superset of JSON Schema draft 07)."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any

import msgspec

PLACE = "#/components/schemas/{name}"
FORMAT = "application/vnd.aai.asyncapi+json;version=3.0.0"
"""The `schemaFormat` of every payload."""


def schemas(types: Iterable[type]) -> dict[str, Any]:
    """Return the schemas of types and of all that they are made of, by name."""
    _, found = msgspec.json.schema_components(types, ref_template=PLACE)
    return {name: _draft_07(schema) for name, schema in sorted(found.items())}


def payload(name: str) -> dict[str, Any]:
    """Return a message's payload: one of the schemas, with the dialect that it is written in."""
    return {"schemaFormat": FORMAT, "schema": {"$ref": PLACE.format(name=name)}}


def _draft_07(node: Any) -> Any:
    """Return a schema of JSON Schema 2020-12 in draft 07, where `items` may be one schema for each position."""
    if isinstance(node, list | tuple):
        return [_draft_07(value) for value in node]
    if not isinstance(node, dict):
        return node
    written = {key: _draft_07(value) for key, value in node.items()}
    if "prefixItems" in written:
        written["items"] = written.pop("prefixItems")
        written["additionalItems"] = True
    if written.get("contentEncoding") == "base64":
        written = _binary(written)
    if isinstance(written.get("description"), str):
        written["description"] = inspect.cleandoc(written["description"])
    if "enum" in written and "type" not in written:
        written["type"] = "string"
    return written


def _binary(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a binary field. It has no JSON type: validators see what a MessagePack decoder returns."""
    size = f"at most {schema['maxLength']} bytes" if "maxLength" in schema else "bytes"
    described = {"format": "binary", "description": f"MessagePack's bin: {size}. In JSON output, base64."}
    rest = {key: value for key, value in schema.items() if key not in ("type", "contentEncoding", "maxLength")}
    return {**described, **rest}
