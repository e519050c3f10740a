"""Imports run one way: protocol, the pure core, its edges, the daemon. Read from the sources of the whole tree.

A package is a folder. Modules directly in `agent/` and `agent/datapath/` put packages together, or are used by all of
them, so each counts as a package of its own.
"""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OURS = ("protocol", "agent", "controller_sim", "bench", "bpf", "droplet_functions")
COMPOSING = ("agent", "agent.datapath", "controller_sim", "bench", "droplet_functions")
"""Folders whose modules count one by one."""
WITH_RULES = ("agent", "controller_sim", "droplet_functions")
"""Packages of which every module needs a rule."""
MOST_MODULES = 12
"""Modules of one package of the core: about ten of one subject. One that grows beyond that holds two subjects."""

BELOW_THE_EDGES = ("protocol", "agent.core", "agent.errors", "agent.telemetry", "agent.subscription")
MAY_IMPORT: dict[str, tuple[str, ...]] = {
    "protocol": (),
    "agent.core.model": ("protocol",),
    "agent.core.uplinks": ("protocol", "agent.core.model"),
    "agent.core.functions": ("protocol", "agent.core.model"),
    "agent.core.kinds": ("protocol", "agent.core.model", "agent.core.uplinks", "agent.core.functions"),
    "agent.core.nexthop": ("protocol", "agent.core.model"),
    "agent.core.plan": ("protocol", "agent.core.model", "agent.core.functions", "agent.core.kinds"),
    "agent.core.config": (
        *("protocol", "agent.core.model", "agent.core.functions", "agent.core.kinds", "agent.core.plan"),
    ),
    "agent.core.probe": ("protocol", "agent.core.model", "agent.core.nexthop"),
    "agent.core.faults": ("protocol", "agent.core.model", "agent.core.plan"),
    "agent.errors": ("protocol", "agent.core"),
    "agent.bus.connection": ("protocol", "agent.core.faults.tracker"),
    "agent.bus.consumer": (
        "protocol",
        "agent.core.config.delivery",
        "agent.core.faults.tracker",
        "agent.bus.connection",
    ),
    "agent.bus": ("protocol", "agent.core.config.delivery", "agent.core.faults.tracker"),
    "agent.telemetry": ("protocol", "agent.core"),
    "agent.subscription": ("protocol", "agent.core", "agent.telemetry"),
    "agent.datapath.bpf": (*BELOW_THE_EDGES, "bpf"),
    "agent.datapath.net": BELOW_THE_EDGES,
    "agent.datapath.attach": (*BELOW_THE_EDGES, "agent.datapath.bpf", "agent.datapath.net"),
    "agent.datapath.veth": (*BELOW_THE_EDGES, "agent.datapath.bpf", "agent.datapath.net", "agent.datapath.attach"),
    "agent.datapath.functions": (*BELOW_THE_EDGES, "agent.datapath.bpf", "agent.datapath.net", "bpf"),
    "agent.datapath.processes": (
        *(*BELOW_THE_EDGES, "agent.datapath.bpf", "agent.datapath.net", "agent.datapath.attach"),
    ),
    "agent.datapath.nexthop": (*BELOW_THE_EDGES, "agent.datapath.bpf", "agent.datapath.net", "agent.datapath.attach"),
    "agent.datapath": (*BELOW_THE_EDGES, "agent.datapath", "bpf"),
    "agent.logs": (),
    "agent.settings": ("protocol", "agent.core.model", "agent.bus.connection.settings"),
    "agent.cli": (
        *("protocol", "agent.core.kinds", "agent.bus.connection", "agent.settings"),
        "agent.datapath.bpf.outcomes",
    ),
    "agent.recording": ("protocol", "agent.core", "agent.bus.connection", "agent.bus.consumer"),
    "agent.store": BELOW_THE_EDGES,
    "agent.reconcile": (*BELOW_THE_EDGES, "agent.settings", "agent.store"),
    "agent.probe": (*BELOW_THE_EDGES, "agent.datapath", "agent.settings", "agent.store"),
    "agent.report": (
        *BELOW_THE_EDGES,
        *("agent.bus", "agent.datapath", "agent.settings", "agent.reconcile", "agent.probe"),
    ),
    "droplet_functions": (),
    "controller_sim.topology": ("protocol",),
    "controller_sim.control": ("protocol", "controller_sim.topology"),
    "controller_sim.lab": ("protocol", "controller_sim.topology", "controller_sim.control"),
    "controller_sim.talk": ("protocol", "controller_sim.topology", "controller_sim.control", "controller_sim.lab"),
    "controller_sim.cli": ("protocol", "controller_sim"),
}
"""Package or module -> what of ours it may import besides itself. The longest entry that fits a module is its rule."""

ENTRY_POINTS = ("agent.intake", "agent.loops", "agent.daemon", "agent.dry_run", "agent.__main__")
"""The daemon and its parts: they import whatever they put together."""
PURE = ("protocol", "agent.core", "agent.report.trace", "agent.report.status_messages")


def modules() -> dict[str, Path]:
    found = {}
    for top in OURS:
        for path in (ROOT / top).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()
FOLDERS = {name for name, path in MODULES.items() if path.name == "__init__.py"}


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


def inside(name: str, packages: Iterable[str]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def package_of(name: str) -> str:
    if name in FOLDERS:
        return name
    folder = name.rpartition(".")[0]
    return name if folder in COMPOSING else folder


def rule_for(name: str) -> str | None:
    """Return the longest entry of `MAY_IMPORT` that a module falls under."""
    return max(filter(lambda rule: inside(name, [rule]), MAY_IMPORT), key=len, default=None)


def ours(name: str) -> set[str]:
    """Return what a module imports of ours. `agent` and `controller_sim` themselves hold no more than the version."""
    return {other for other in IMPORTS[name] if inside(other, OURS)} - {"agent", "controller_sim"}


def assert_acyclic(graph: Mapping[str, Iterable[str]]) -> None:
    done: set[str] = set()

    def visit(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, " -> ".join([*way[way.index(name) :], name])
        if name not in done:
            for other in sorted(set(graph[name]) - {name}):
                visit(other, (*way, name))
            done.add(name)

    for name in graph:
        visit(name, ())


def test_the_tree_is_seen() -> None:
    assert "agent.core.plan.planner" in MODULES
    assert "protocol.documents" in IMPORTS["agent.core.kinds.catalogue"]


def test_every_package_of_the_agent_the_controller_and_the_library_has_a_rule() -> None:
    without = {
        name
        for name in MODULES.keys() - FOLDERS
        if inside(name, WITH_RULES) and name not in ENTRY_POINTS and rule_for(name) is None
    }
    assert not without, f"no import rule in MAY_IMPORT covers {sorted(without)}"


def test_every_package_is_installed() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    assert sorted(listed) == sorted(name for name in FOLDERS if not inside(name, ["bench"]))


@pytest.mark.parametrize("rule", MAY_IMPORT)
def test_a_package_imports_only_what_its_rule_allows(rule: str) -> None:
    for name in filter(lambda one: rule_for(one) == rule, MODULES):
        wrong = {other for other in ours(name) if not inside(other, (rule, *MAY_IMPORT[rule]))}
        assert not wrong, f"{name} imports {sorted(wrong)}"


def test_the_library_of_functions_needs_nothing_but_python(tmp_path: Path) -> None:
    """Users install it where there is neither agent nor any other package."""
    for name in filter(lambda one: inside(one, ["droplet_functions"]), MODULES):
        others = {other.partition(".")[0] for other in IMPORTS[name]} - {"droplet_functions"}
        assert others <= sys.stdlib_module_names, f"{name} imports {sorted(others - sys.stdlib_module_names)}"
    shutil.copytree(ROOT / "droplet_functions", tmp_path / "droplet_functions")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import droplet_functions as d; print(d.__file__)"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(str(tmp_path))


def test_no_package_imports_another_in_a_circle() -> None:
    graph: dict[str, set[str]] = {}
    for name in MODULES:
        found = {package_of(other) for other in ours(name) & MODULES.keys()} - FOLDERS.intersection(COMPOSING)
        graph.setdefault(package_of(name), set()).update(found)
        for other in found:
            graph.setdefault(other, set())
    assert_acyclic(graph)


def test_no_module_imports_another_in_a_circle() -> None:
    assert_acyclic({name: IMPORTS[name] & MODULES.keys() for name in MODULES})


def test_the_core_consists_of_packages_of_bounded_size() -> None:
    sizes: dict[str, int] = {}
    for name in MODULES.keys() - FOLDERS:
        if inside(name, ["agent.core"]):
            sizes[package_of(name)] = sizes.get(package_of(name), 0) + 1
    assert "agent.core" not in sizes, "every module of the core belongs to one of its packages"
    assert {package: size for package, size in sizes.items() if size > MOST_MODULES} == {}


@pytest.mark.parametrize(
    ("library", "package"),
    [
        ("pyroute2", "agent.datapath"),
        ("bcc", "agent.datapath.bpf.compiler agent.datapath.functions.source_compiler"),
        ("nats", "agent.bus"),
    ],
)
def test_a_library_is_imported_in_one_package_alone(library: str, package: str) -> None:
    users = {name for name in MODULES if any(inside(other, [library]) for other in IMPORTS[name])}
    wrong = {name for name in users if inside(name, ["agent"]) and not inside(name, package.split())}
    assert not {name for name in wrong if not (library == "nats" and inside(name, ["agent.cli"]))}


def test_only_the_datapath_makes_system_calls_by_ctypes() -> None:
    users = {name for name in MODULES if "ctypes" in IMPORTS[name] and inside(name, ["agent"])}
    beside = {"agent.cli.session"}  # enters a network namespace for an operator: setns(2), no bpf(2)
    assert {name for name in users if not inside(name, ["agent.datapath"])} <= beside


def test_the_core_reads_no_clock_and_does_no_input_or_output() -> None:
    impure = {"time", "datetime", "asyncio", "socket", "os", "subprocess", "pathlib", "random", "secrets", "threading"}
    for name in filter(lambda one: inside(one, PURE), MODULES):
        found = {other for other in IMPORTS[name] if other in impure}
        assert not found - ({"socket"} if name == "protocol.addresses" else set()), name  # inet_pton only computes


def test_only_the_entry_points_import_the_daemon() -> None:
    users = {name for name in MODULES if "agent.daemon" in IMPORTS[name]}
    assert users <= {"agent.__main__", "agent.dry_run"}
