"""`docs/permissions.json` says in no language what `protocol/permissions.py` says in Python."""

from __future__ import annotations

import json
from pathlib import Path

from protocol import permission_list, permissions

FILE = Path(__file__).parents[2] / "docs" / "permissions.json"


def test_the_file_is_fresh() -> None:
    """If it is stale, run `make generate`."""
    assert FILE.read_text() == permission_list.render()


def test_a_hosts_list_is_the_placeholders_with_the_hosts_name() -> None:
    text = json.dumps(json.loads(FILE.read_text())["roles"]["host"]).replace("{host}", "h7")
    found = json.loads(text)
    assert found["inbox_prefix"] == permissions.inbox("h7")
    assert found["permissions"] == {
        "publish": {"allow": list(permissions.of_host("h7").publish)},
        "subscribe": {"allow": list(permissions.of_host("h7").subscribe)},
    }


def test_a_role_that_may_publish_nothing_is_denied_everything() -> None:
    """nats-server takes an empty list of allowed subjects for no limit at all."""
    assert json.loads(FILE.read_text())["roles"]["monitor"]["permissions"]["publish"] == {"deny": [">"]}
