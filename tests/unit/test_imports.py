"""Imports run one way: protocol, the pure core, its edges, the daemon. Read from the sources of the whole tree."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OURS = ("protocol", "agent", "controller_sim", "bench", "bpf")

MAY_IMPORT = {
    "protocol": ("protocol",),
    "agent.core": ("protocol", "agent.core"),
    "agent.bus": ("protocol", "agent.bus"),
    "agent.cli": ("protocol", "agent.cli", "agent.bus", "agent.settings"),
    "agent.datapath": ("protocol", "agent.core", "agent.datapath", "agent.executor", "bpf"),
    "agent.settings": ("protocol", "agent.core", "agent.bus.settings"),
    "agent.reconcile.store": ("protocol", "agent.core.bindings"),
    "controller_sim": ("protocol", "controller_sim"),
}
"""Package or module -> what of ours it may import."""


def modules() -> dict[str, Path]:
    found = {}
    for top in OURS:
        for path in (ROOT / top).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def imported(name: str) -> set[str]:
    """Return the full names of the modules that one module imports, inside functions too."""
    found: set[str] = set()
    tree = ast.parse(MODULES[name].read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: imports are absolute"
            base = node.module or ""
            found |= {full if (full := f"{base}.{alias.name}") in MODULES else base for alias in node.names}
    return found


IMPORTS = {name: imported(name) for name in MODULES}


def inside(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def test_the_tree_is_seen() -> None:
    assert "agent.core.plan" in MODULES
    assert "protocol.documents" in IMPORTS["agent.core.claims"]


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_a_room_imports_only_what_stands_before_it(package: str) -> None:
    allowed = MAY_IMPORT[package]
    for name in filter(lambda one: inside(one, package), MODULES):
        ours = {other for other in IMPORTS[name] if other.split(".")[0] in OURS}
        ours.discard("agent")  # the package itself holds the version only
        wrong = {other for other in ours if not any(inside(other, room) for room in allowed)}
        assert not wrong, f"{name} imports {sorted(wrong)}"


@pytest.mark.parametrize(
    ("library", "room"),
    [("pyroute2", "agent.datapath"), ("bcc", "agent.datapath.compiler"), ("nats", "agent.bus")],
)
def test_a_library_is_imported_in_its_room_alone(library: str, room: str) -> None:
    users = {name for name in MODULES if any(inside(other, library) for other in IMPORTS[name])}
    wrong = {name for name in users if inside(name, "agent") and not inside(name, room)}
    assert not {name for name in wrong if not (library == "nats" and inside(name, "agent.cli"))}


def test_only_the_datapath_makes_system_calls_by_hand() -> None:
    users = {name for name in MODULES if "ctypes" in IMPORTS[name] and inside(name, "agent")}
    beside = {"agent.cli.session"}  # enters a network namespace for an operator: setns(2), no bpf(2)
    assert {name for name in users if not inside(name, "agent.datapath")} <= beside


def test_the_core_reads_no_clock_and_does_no_input_or_output() -> None:
    impure = {"time", "datetime", "asyncio", "socket", "os", "subprocess", "pathlib", "random", "secrets", "threading"}
    for name in filter(lambda one: inside(one, "agent.core") or inside(one, "protocol"), MODULES):
        found = {other for other in IMPORTS[name] if other in impure}
        assert not found - ({"socket"} if name == "protocol.addresses" else set()), name  # inet_pton only computes


def test_nobody_but_the_entry_point_imports_the_daemon() -> None:
    users = {name for name in MODULES if "agent.daemon" in IMPORTS[name]}
    assert users <= {"agent.__main__", "agent.dry_run"}, "the entry point's own modes alone"


def test_there_are_no_import_cycles() -> None:
    done: set[str] = set()

    def visit(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, " -> ".join([*way[way.index(name) :], name])
        if name not in done:
            for other in sorted(IMPORTS[name] & MODULES.keys() - {name}):
                visit(other, (*way, name))
            done.add(name)

    for name in MODULES:
        visit(name, ())
