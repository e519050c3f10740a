"""The host as a NATS micro-service: its names, the schemas of discovery replies, and how it reports an error.

The conventions are those of NATS' service API, version 1: `$SRV.PING`, `$SRV.INFO` and `$SRV.STATS`, each also with
`.droplet` and `.droplet.<instance>`. Replies are JSON; hosts answer into the inboxes of operators and controllers.
"""

from __future__ import annotations

from typing import Any

from protocol import rpc, subjects

SERVICE = "droplet"
"""The service's name, the same on every host; the host stands in its metadata."""
ERROR_HEADER = "Nats-Service-Error"
CODE_HEADER = "Nats-Service-Error-Code"

_TEXT = {"type": "string"}
_COUNT = {"type": "integer", "minimum": 0}


def metadata(host: str) -> dict[str, str]:
    """Return the service's metadata: `host`, which distinguishes its replies from those of other hosts."""
    return {"host": host}


def error_headers() -> dict[str, Any]:
    """Return the schema of the headers of a reply that is an error. Its body is empty."""
    codes = "; ".join(f"{code}: {text}" for code, text in rpc.ERRORS.items())
    return {
        "type": "object",
        "required": [ERROR_HEADER, CODE_HEADER],
        "properties": {
            ERROR_HEADER: {"type": "string", "description": "What is wrong, in one line for people."},
            CODE_HEADER: {"type": "string", "enum": [str(code) for code in rpc.ERRORS], "description": codes},
        },
    }


def discovery() -> dict[str, dict[str, Any]]:
    """Return the schema of the reply to each verb of `$SRV`."""
    return {
        "PING": _reply("ping", {}),
        "INFO": _reply(
            "info", {"description": _TEXT, "endpoints": _list(_endpoint({"metadata": {"type": ["object", "null"]}}))}
        ),
        "STATS": _reply(
            "stats",
            {
                "started": {"type": "string", "format": "date-time"},
                "endpoints": _list(
                    _endpoint(
                        {
                            "num_requests": _COUNT,
                            "num_errors": _COUNT,
                            "processing_time": {**_COUNT, "description": "Nanoseconds."},
                            "average_processing_time": {**_COUNT, "description": "Nanoseconds."},
                        }
                    )
                ),
            },
        ),
    }


def _reply(kind: str, more: dict[str, Any]) -> dict[str, Any]:
    properties = {
        "type": {"type": "string", "const": f"io.nats.micro.v1.{kind}_response"},
        "name": {"type": "string", "const": SERVICE},
        "id": {"type": "string", "description": "This run of the agent, as NATS' service API names it."},
        "version": {"type": "string", "description": "The agent's version."},
        "metadata": {
            "type": "object",
            "required": ["host"],
            "properties": {"host": {"type": "string", "description": "The host's name."}},
        },
        **more,
    }
    return {"type": "object", "required": list(properties), "properties": properties}


def _list(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items}


def _endpoint(more: dict[str, Any]) -> dict[str, Any]:
    properties = {
        "name": {"type": "string", "enum": list(subjects.RPC_VERBS)},
        "subject": {"type": "string", "description": "droplet.v1.<host>.rpc.<name>"},
        "queue_group": {"type": "string", "description": "The host's name, and a part of the connection's own."},
    }
    return {"type": "object", "required": list(properties), "properties": {**properties, **more}}
