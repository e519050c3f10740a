"""Generates `docs/asyncapi.yaml`, the bus as an AsyncAPI 3.0 document, from the types of this package.

python -m protocol.asyncapi > docs/asyncapi.yaml

It describes the agent's side: what the agent receives, a controller or an operator sends. `docs/controller.md` gives
the order in which a controller acts.
"""

from __future__ import annotations

import json
import sys
from typing import Any, NamedTuple

from protocol import acknowledgements, binding, documents, json_schema, micro, rpc, status, streams, subjects

MSGPACK, JSON, NOTHING = "application/msgpack", "application/json", "application/octet-stream"
_OPERATION = {"nats": {"bindingVersion": "0.1.0"}}
_PLAIN: dict[str, Any] = {"nats": {}}
"""The NATS bindings define no properties but the version and an operation's `queue`, of which there is none to know."""
_REPLY_TEXT = (
    "The reply subject of the request, which is a field of a NATS message and no header. A host may publish below "
    "`_INBOX_controller.` and `_INBOX_operator.` only: set your client's inbox prefix to one of them."
)


class Channel(NamedTuple):
    """One channel with one operation on it; `messages` are names of `components.messages`."""

    action: str
    address: str
    text: str
    messages: tuple[str, ...]
    jetstream: dict[str, Any] | None = None


_STREAMED = {"consumer": "the host's name", "retention": "limits", "max_msgs_per_subject": streams.MESSAGES_PER_SUBJECT}
_CHANNELS = {
    "config": Channel(
        "receive",
        "droplet.v1.{host}.config.{document}",
        "A document's newest content, or its removal. The newest message of the subject is the whole document; its "
        "sequence in the stream is the document's revision. Unknown fields are rejected.",
        ("Document", "Removal"),
        {"stream": streams.CONFIG_STREAM, **_STREAMED},
    ),
    "ack": Channel(
        "send",
        "droplet.v1.{host}.ack.{document}",
        "The newest acknowledgement of a document.",
        ("Acknowledgement",),
        {"stream": streams.ACK_STREAM, "max_msgs_per_subject": streams.MESSAGES_PER_SUBJECT},
    ),
    "status": Channel(
        "send",
        "droplet.v1.{host}.status",
        "The heartbeat, every three seconds unless the host's settings say otherwise.",
        ("Status",),
    ),
    "event": Channel("send", "droplet.v1.{host}.event.{event}", "Something that happened once.", ("Event",)),
    "telemetry": Channel("send", "droplet.v1.{host}.telemetry.counters", "Counters of packets.", ("Counters",)),
}
_METHODS = {
    "status": "The heartbeat, now.",
    "get": "The objects of one kind that are in force, page by page.",
    "documents": "The newest acknowledgement of each document, page by page.",
    "counters": "The counters, now.",
    "path": "The path that a packet of a local endpoint would take.",
    "peers": "What probes found out about the paths to other droplets, page by page.",
    "plan": "What a resync would change in the kernel now. Changes nothing.",
    "sweep": "Removes documents that the host keeps although the stream lacks them. Nothing else removes those.",
    "function_maps": "The maps of one function, and the entries of one of them, page by page.",
    "function_log": "What is installed of a function, and what the compiler or verifier said of a refused program.",
}
_DOCUMENT = "One to eight tokens of [a-z0-9][a-z0-9_-]{0,62} with dots between."
_PARAMETERS: dict[str, dict[str, Any]] = {
    "host": {"description": "A host's name: [a-z0-9][a-z0-9-]{0,62}.", "examples": ["h1"]},
    "document": {"description": f"A document's name. {_DOCUMENT}", "examples": ["underlay", "endpoint.web-1"]},
    "event": {
        "description": "; ".join(f"{kind}: {text}" for kind, text in status.EVENTS.items()),
        "enum": list(status.EVENTS),
    },
    "id": {"description": "The instance's id, as PING answers it."},
}


def describe() -> dict[str, Any]:
    """Return the whole AsyncAPI document as plain data."""
    channels = {name: _channel(one) for name, one in _CHANNELS.items()}
    operations = {name: _operation(name, one.action, one.text, one.messages) for name, one in _CHANNELS.items()}
    for verb in subjects.RPC_VERBS:
        _add_method(channels, operations, verb)
    for verb in micro.discovery():
        _add_discovery(channels, operations, verb)
    return {
        "asyncapi": "3.0.0",
        "id": "urn:droplet:v1",
        "info": _info(),
        "defaultContentType": MSGPACK,
        "servers": _servers(),
        "channels": channels,
        "operations": operations,
        "components": {
            "messages": _messages(),
            "schemas": json_schema.schemas(_types()),
            "securitySchemes": {"nkey": _nkey()},
        },
    }


def _info() -> dict[str, Any]:
    return {
        "title": "Droplet",
        "version": "1.0.0",
        "description": "What a host's network agent receives and sends on NATS. The agent receives what a controller "
        "or an operator sends. docs/controller.md says how a controller uses it, docs/permissions.json who may "
        "publish and subscribe to what. Readers ignore fields and enum values that they do not know: "
        "hosts are upgraded one by one.",
        "license": {"name": "Apache-2.0"},
        "tags": [{"name": "network"}, {"name": "nats"}],
    }


def _servers() -> dict[str, Any]:
    security = [{"$ref": "#/components/securitySchemes/nkey"}]
    common = {
        "protocolVersion": "nats-server 2.14 or newer, with JetStream",
        "security": security,
        "bindings": _PLAIN,
    }
    variables = {"address": {"description": "The server's name or address.", "default": "127.0.0.1"}}
    where = {"host": "{address}:4222", "protocol": "nats", "variables": variables}
    tls = "TLS from the first byte (`handshake_first`); the client verifies the server's certificate."
    clear = "In clear text, for a loopback interface: NATS proves possession of the nkey, and encrypts nothing."
    return {
        "tls": {**where, "description": f"tls://{{address}}:4222. {tls}", **common},
        "clear_text": {**where, "description": f"nats://{{address}}:4222. {clear}", **common},
    }


def _nkey() -> dict[str, Any]:
    text = (
        "An Ed25519 nkey: the client signs the server's nonce with the seed of a user nkey (SU...), the server knows "
        "the public key (U...) and its permissions (docs/permissions.json)."
    )
    return {"type": "asymmetricEncryption", "description": text}


def _channel(one: Channel) -> dict[str, Any]:
    parameters = {name: text for name, text in _PARAMETERS.items() if f"{{{name}}}" in one.address}
    described: dict[str, Any] = {"address": one.address, "description": one.text}
    if parameters:
        described["parameters"] = parameters
    described["messages"] = {name: {"$ref": f"#/components/messages/{name}"} for name in one.messages}
    if one.jetstream:
        described["x-jetstream"] = one.jetstream
    return described


def _operation(name: str, action: str, text: str, messages: tuple[str, ...]) -> dict[str, Any]:
    return {
        "action": action,
        "summary": text,
        "channel": {"$ref": f"#/channels/{name}"},
        "messages": _of_channel(name, messages),
        "bindings": _OPERATION,
    }


def _of_channel(name: str, messages: tuple[str, ...]) -> list[dict[str, str]]:
    return [{"$ref": f"#/channels/{name}/messages/{message}"} for message in messages]


def _add_method(channels: dict[str, Any], operations: dict[str, Any], verb: str) -> None:
    method = rpc.METHODS[verb]
    asked = (method.request.__name__,) if method.request else ()
    if method.takes_an_empty_body:
        asked = ("EmptyRequest", *asked)
    answered = (method.reply.__name__, "Error")
    address = f"droplet.v1.{{host}}.rpc.{verb}"
    _add_request(channels, operations, f"rpc_{verb}", Channel("receive", address, _METHODS[verb], asked), answered)


def _add_discovery(channels: dict[str, Any], operations: dict[str, Any], verb: str) -> None:
    text = (
        f"Found as a NATS micro-service, also by $SRV.{verb} and $SRV.{verb}.{micro.SERVICE}.<id>; every host replies."
    )
    asked = Channel("receive", f"$SRV.{verb}.{micro.SERVICE}", text, ("EmptyRequest",))
    _add_request(channels, operations, f"srv_{verb.lower()}", asked, (f"Service{verb.capitalize()}",))


def _add_request(
    channels: dict[str, Any], operations: dict[str, Any], name: str, asked: Channel, answered: tuple[str, ...]
) -> None:
    """Add a request's channel, its reply's channel, and the operation with both."""
    channels[name] = _channel(asked)
    reply = _channel(Channel("send", "", _REPLY_TEXT, answered))
    channels[f"{name}_reply"] = {**reply, "address": None}
    operations[name] = {
        **_operation(name, asked.action, asked.text, asked.messages),
        "reply": {
            "channel": {"$ref": f"#/channels/{name}_reply"},
            "messages": _of_channel(f"{name}_reply", answered),
        },
    }


def _messages() -> dict[str, Any]:
    found = {
        "Removal": _bare("Removes the document. The body is empty.", _removal_headers()),
        "EmptyRequest": _bare("No body: nothing is asked for, or every field is at its default."),
        "Error": _bare("The request was refused or failed. The body is empty.", micro.error_headers()),
    }
    for type_ in _types():
        name = type_.__name__
        found[name] = _message(MSGPACK, _first_line(type_), json_schema.payload(name))
    found["Document"]["headers"] = _document_headers()
    for verb, schema in micro.discovery().items():
        described = {"schemaFormat": json_schema.FORMAT, "schema": schema}
        found[f"Service{verb.capitalize()}"] = _message(JSON, f"One host's reply to $SRV.{verb}.", described)
    return {name: {"name": name, **message} for name, message in sorted(found.items())}


def _message(content: str, text: str, payload: dict[str, Any]) -> dict[str, Any]:
    return {"contentType": content, "summary": text, "payload": payload, "bindings": _PLAIN}


def _bare(text: str, headers: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return a message without a body."""
    empty = {"schemaFormat": json_schema.FORMAT, "schema": {"type": "string", "maxLength": 0}}
    message = _message(NOTHING, text, empty)
    return {**message, "headers": headers} if headers else message


def _document_headers() -> dict[str, Any]:
    return {"type": "object", "required": [binding.SUBJECT], "properties": {**_binding(), **_fence()}}


def _removal_headers() -> dict[str, Any]:
    ttl = "How long the removal stays in the stream: longer than any host is away."
    constant = {name: {"type": "string", "const": value} for name, value in streams.DELETE_HEADERS.items()}
    lifetime = {"Nats-TTL": {"type": "string", "description": ttl, "examples": ["720h"]}}
    required = [*streams.DELETE_HEADERS, binding.SUBJECT]
    return {"type": "object", "required": required, "properties": {**constant, **lifetime, **_binding(), **_fence()}}


def _binding() -> dict[str, Any]:
    """Return the headers that bind a message to its subject and, where a host asks for it, to its publisher."""
    asked = "Needed where the host's bus.trusted_publishers is set."
    return {
        binding.SUBJECT: {"type": "string", "description": "The subject that the message is published for."},
        binding.VERSION: {
            "type": "string",
            "pattern": "^[1-9][0-9]{0,15}$",
            "description": f"{asked} Greater than all before it for this subject, at most {binding.MOST_VERSION}.",
        },
        binding.PUBLISHER: {"type": "string", "pattern": "^U[A-Z2-7]{55}$", "description": f"{asked} A public nkey."},
        binding.SIGNATURE: {
            "type": "string",
            "pattern": "^[A-Za-z0-9_-]{86}$",
            "description": f"{asked} Ed25519 in base64url, over the bytes that docs/controller.md describes.",
        },
    }


def _fence() -> dict[str, Any]:
    text = "Optimistic concurrency: the server refuses the message unless this is the subject's newest sequence."
    return {"Nats-Expected-Last-Subject-Sequence": {"type": "string", "pattern": "^[0-9]+$", "description": text}}


def _types() -> list[type]:
    methods = [type_ for verb in subjects.RPC_VERBS for type_ in rpc.METHODS[verb][:2] if type_ is not None]
    sent = [documents.Document, acknowledgements.Acknowledgement, status.Status, status.Event, status.Counters]
    return list(dict.fromkeys([*sent, *methods]))


def _first_line(type_: type) -> str:
    return (type_.__doc__ or "").strip().splitlines()[0]


def render() -> str:
    """Return the document as text: JSON, which every YAML reader takes."""
    return json.dumps(describe(), indent=2) + "\n"


if __name__ == "__main__":
    sys.stdout.write(render())
