"""Generates `docs/permissions.json`: the permissions of each role, for administrators of a NATS server.

python -m protocol.permission_list > docs/permissions.json

Each role's `publish` and `subscribe` are what nats-server takes as a user's `permissions`, once `{host}` is replaced.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from protocol import permissions
from protocol.permissions import Permissions

HOST = "{host}"
"""Stands for a host's name."""


def describe() -> dict[str, Any]:
    """Return every role: what it is for, its inbox prefix (empty: it sends no requests), and its permissions."""
    roles = {
        "host": _role("one agent", permissions.inbox(HOST), permissions.of_host(HOST)),
        "controller": _role("the management plane", permissions.CONTROLLER_INBOX, permissions.of_controller()),
        "operator": _role("people, with dropletctl", permissions.OPERATOR_INBOX, permissions.of_operator()),
        "monitor": _role("what only listens", "", permissions.of_monitor()),
    }
    return {"placeholder": HOST, "roles": roles}


def _role(use: str, inbox: str, allowed: Permissions) -> dict[str, Any]:
    return {
        "for": use,
        "inbox_prefix": inbox,
        "permissions": {
            "publish": _rule(allowed.publish),
            "subscribe": _rule(allowed.subscribe),
        },
    }


def _rule(subjects: tuple[str, ...]) -> dict[str, list[str]]:
    """Return one side of a user's permissions. An empty `allow` would let nats-server allow everything."""
    return {"allow": list(subjects)} if subjects else {"deny": [">"]}


def render() -> str:
    """Return the list as text."""
    return json.dumps(describe(), indent=2) + "\n"


if __name__ == "__main__":
    sys.stdout.write(render())
