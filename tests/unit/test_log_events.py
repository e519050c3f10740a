"""Log events are names, not sentences: what varies goes into fields, so that machines can filter by both."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODULES = sorted(path for folder in ("agent", "controller_sim") for path in (ROOT / folder).rglob("*.py"))
METHODS = {"debug", "info", "warning", "error", "exception", "critical"}
OWN_LOGGER = "log = structlog.get_logger()"
NAME = re.compile(r"[a-z][a-z0-9_]*")


def log_calls(tree: ast.AST) -> Iterator[ast.Call]:
    """Yield the calls of a logger's methods: of `log`, `logger`, or an attribute of such a name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in METHODS:
            logger = node.func.value
            name = logger.attr if isinstance(logger, ast.Attribute) else getattr(logger, "id", "")
            if name.lstrip("_") in ("log", "logger"):
                yield node


def wrong_events(text: str) -> list[str]:
    """Return the log calls of a module whose event is no name, as `line: source`."""
    return [
        f"{call.lineno}: {ast.unparse(call)}"
        for call in log_calls(ast.parse(text))
        if not (
            call.args
            and isinstance(call.args[0], ast.Constant)
            and isinstance(call.args[0].value, str)
            and NAME.fullmatch(call.args[0].value)
        )
    ]


def other_loggers(text: str) -> list[str]:
    """Return the log calls of a module by another logger than its own `log`, as `line: source`."""
    tree = ast.parse(text)
    own = any(isinstance(node, ast.Assign) and ast.unparse(node) == OWN_LOGGER for node in tree.body)
    return [
        f"{call.lineno}: {ast.unparse(call)}"
        for call in log_calls(tree)
        if not own or ast.unparse(call.func).partition(".")[0] != "log"
    ]


@pytest.mark.parametrize("path", MODULES, ids=[str(path.relative_to(ROOT)) for path in MODULES])
def test_each_log_event_is_a_name(path: Path) -> None:
    assert wrong_events(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("path", MODULES, ids=[str(path.relative_to(ROOT)) for path in MODULES])
def test_each_module_logs_to_its_own_logger(path: Path) -> None:
    assert other_loggers(path.read_text(encoding="utf-8")) == []


def test_an_injected_logger_is_found() -> None:
    assert other_loggers(f'{OWN_LOGGER}\nself._log.info("x")')
    assert other_loggers('def note(log):\n    log.info("x")')
    assert not other_loggers(f'{OWN_LOGGER}\nlog.info("x")')


def test_the_rule_sees_the_agents_log_calls() -> None:
    found = sum(len(list(log_calls(ast.parse(path.read_text(encoding="utf-8"))))) for path in MODULES)
    assert found > 40


@pytest.mark.parametrize(
    "call",
    [
        'log.info("agent started")',
        'self._log.warning(f"lost_{name}")',
        "log.error(words, document=name)",
        'log.info("a" if found else "b")',
        "log.exception()",
    ],
)
def test_a_sentence_or_a_computed_event_is_found(call: str) -> None:
    assert wrong_events(call)
    assert not wrong_events('log.info("agent_started", host=host)\nself._log.debug("x")')
