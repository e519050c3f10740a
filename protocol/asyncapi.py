"""Writes `docs/asyncapi.yaml`: the bus as an AsyncAPI 3.0 document, from the types of this package.

python -m protocol.asyncapi > docs/asyncapi.yaml
"""

from __future__ import annotations

import json
import sys
from typing import Any

import msgspec

from protocol import acknowledgements, documents, rpc, status, streams, subjects

_SENT_TO_HOST: dict[str, tuple[str, type, str]] = {
    "config": (
        "droplet.v1.{host}.config.{document}",
        documents.Document,
        "A document's newest content. Kept by the stream "
        f"{streams.CONFIG_STREAM}, one message per subject; its sequence is the revision. An empty body with "
        "KV-Operation: PURGE and Nats-Rollup: sub removes the document. Unknown fields are rejected.",
    ),
}
_SENT_BY_HOST: dict[str, tuple[str, type, str]] = {
    "ack": (
        "droplet.v1.{host}.ack.{document}",
        acknowledgements.Acknowledgement,
        f"The newest answer for a document, kept by the stream {streams.ACK_STREAM}.",
    ),
    "status": ("droplet.v1.{host}.status", status.Status, "The heartbeat."),
    "event": ("droplet.v1.{host}.event.{kind}", status.Event, "Something that happened once."),
    "telemetry": ("droplet.v1.{host}.telemetry.counters", status.Counters, "Counters of packets."),
}
_ASKED: dict[str, tuple[type | None, type]] = {
    "status": (None, status.Status),
    "get": (rpc.GetRequest, rpc.GetReply),
    "documents": (rpc.DocumentsRequest, rpc.DocumentsReply),
    "counters": (None, status.Counters),
    "path": (rpc.PathRequest, rpc.PathReply),
    "peers": (rpc.PeersRequest, rpc.PeersReply),
    "plan": (None, rpc.PlanReply),
    "sweep": (rpc.SweepRequest, rpc.SweepReply),
}
_PARAMETERS = {
    "host": {"description": "A host's name: lower-case letters, digits and dashes, at most 63."},
    "document": {"description": "A document's name: one to eight tokens with dots between."},
    "kind": {"description": "The kind of event."},
}


def describe() -> dict[str, Any]:
    """Return the whole AsyncAPI document as plain data."""
    types = _types()
    _, schemas = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
    channels: dict[str, Any] = {}
    operations: dict[str, Any] = {}
    for name, (address, type_, text) in {**_SENT_TO_HOST, **_SENT_BY_HOST}.items():
        channels[name] = _channel(address, {type_.__name__: type_}, text)
        operations[name] = {
            "action": "receive" if name in _SENT_TO_HOST else "send",
            "channel": {"$ref": f"#/channels/{name}"},
        }
    for verb in subjects.RPC_VERBS:
        asked, answered = _ASKED[verb]
        messages = {t.__name__: t for t in (asked, answered) if t is not None}
        text = "Asked by request and reply, found by the conventions of NATS micro-services."
        channels[f"rpc_{verb}"] = _channel(f"droplet.v1.{{host}}.rpc.{verb}", messages, text)
        operations[f"rpc_{verb}"] = {
            "action": "receive",
            "channel": {"$ref": f"#/channels/rpc_{verb}"},
            "reply": {"messages": [{"$ref": f"#/channels/rpc_{verb}/messages/{answered.__name__}"}]},
        }
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Droplet",
            "version": "1.0.0",
            "description": "What travels between the management plane, the agents and monitoring.",
        },
        "defaultContentType": "application/msgpack",
        "channels": channels,
        "operations": operations,
        "components": {"schemas": schemas},
    }


def _types() -> list[type]:
    flat = [type_ for _, type_, _ in (*_SENT_TO_HOST.values(), *_SENT_BY_HOST.values())]
    for pair in _ASKED.values():
        flat += [type_ for type_ in pair if type_ is not None and type_ not in flat]
    return flat


def _channel(address: str, messages: dict[str, type], text: str) -> dict[str, Any]:
    channel: dict[str, Any] = {
        "address": address,
        "description": text,
        "messages": {name: {"name": name, "payload": {"$ref": f"#/components/schemas/{name}"}} for name in messages},
    }
    channel["parameters"] = {k: v for k, v in _PARAMETERS.items() if f"{{{k}}}" in address}
    return channel


def render() -> str:
    """Return the document as text: JSON, which every YAML reader takes."""
    return json.dumps(describe(), indent=2) + "\n"


if __name__ == "__main__":
    sys.stdout.write(render())
