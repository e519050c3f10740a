"""nats-py's private members are used by one module, and are what that module takes them for."""

from __future__ import annotations

import ast
import importlib.metadata
import inspect
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import nats
import pytest
from nats.aio.client import Client
from nats.aio.subscription import Subscription
from packaging.requirements import Requirement

from agent.bus.connection.client import Connection
from agent.bus.connection.nats_internals import ObservedClient

ROOT = Path(__file__).parents[2]
INTERNALS = ROOT / "agent/bus/connection/nats_internals.py"
MODULES = sorted(path for top in ("agent", "controller_sim") for path in (ROOT / top).rglob("*.py"))
LIBRARY = Path(nats.__file__).parent
RAISE = "see the docstring of agent/bus/connection/nats_internals.py"

SIGNATURES = {
    "_process_msg": ["sid: int", "subject: bytes", "reply: bytes", "data: bytes", "headers: bytes"],
    "_select_next_server": [],
    "_connect_to_server": ["s: Srv"],
    "_read_loop": [],
    "_flusher": [],
}
"""Private coroutines that the module replaces, wraps or calls, with what they take."""
ATTRIBUTES: dict[str, object] = {
    "_subs": {},
    "_pending": [],
    "_pending_data_size": 0,
    "_flush_queue": None,
    "_server_pool": [],
    "_current_server": None,
}
"""Private attributes that the module reads or sets, with what they are before `connect()`."""


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def private_names(tree: ast.AST) -> Iterator[str]:
    """Yield what a module defines or uses of private names: functions, methods and attributes."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and is_private(node.name):
            yield node.name
        elif isinstance(node, ast.Attribute) and is_private(node.attr):
            yield node.attr


NAMED_TUPLES = {"_asdict", "_fields", "_make", "_replace"}
"""Public methods of named tuples in spite of their names: the library uses them too."""
OF_THE_LIBRARY = {
    name for path in LIBRARY.rglob("*.py") for name in private_names(ast.parse(path.read_text()))
} - NAMED_TUPLES
TREES = {path: ast.parse(path.read_text()) for path in MODULES}


def classes_of_the_library(trees: dict[Path, ast.Module]) -> set[str]:
    """Return the names of classes of nats-py and of all classes of ours that inherit from one, however far off."""
    imports = (node for tree in trees.values() for node in ast.walk(tree) if isinstance(node, ast.ImportFrom))
    known = {
        alias.asname or alias.name
        for node in imports
        if (node.module or "").partition(".")[0] == "nats"
        for alias in node.names
    }
    classes = [node for tree in trees.values() for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    while True:
        more = {one.name for one in classes if any(ast.unparse(base).rpartition(".")[2] in known for base in one.bases)}
        if more <= known:
            return known
        known |= more


def private_uses(tree: ast.Module, heirs: set[str]) -> list[str]:
    """Return where a module touches a private member of the library, a phrase each.

    That is: an attribute of anything but `self`, an attribute or a method in a class that inherits from one of the
    library, a string given to getattr() and its like, and a private name that is imported from `nats`.
    """
    found = []
    own = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    inside = {
        id(node)
        for one in ast.walk(tree)
        if isinstance(one, ast.ClassDef) and any(ast.unparse(base).rpartition(".")[2] in heirs for base in one.bases)
        for node in ast.walk(one)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in OF_THE_LIBRARY:
            foreign = ast.unparse(node.value) not in ("self", "cls", "super()")
            if id(node) in inside or (foreign and node.attr not in own):
                found.append(f"line {node.lineno}: {ast.unparse(node)}")
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name in OF_THE_LIBRARY:
            if id(node) in inside:
                found.append(f"line {node.lineno}: def {node.name}")
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "setattr", "hasattr", "delattr"):
            names = {one.value for one in node.args if isinstance(one, ast.Constant)}
            found += [f"line {node.lineno}: {ast.unparse(node)}" for name in names if name in OF_THE_LIBRARY]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "nats":
            found += [f"line {node.lineno}: {alias.name}" for alias in node.names if is_private(alias.name)]
    return found


HEIRS = classes_of_the_library(TREES)


def test_the_classes_that_inherit_from_the_library_are_seen() -> None:
    assert {"Client", "ObservedClient", "Connection", "SigningClient"} <= HEIRS


def test_no_other_module_touches_a_private_member_of_the_library() -> None:
    found = {str(path.relative_to(ROOT)): private_uses(tree, HEIRS) for path, tree in TREES.items()}
    internals = found.pop(str(INTERNALS.relative_to(ROOT)))
    assert internals, "the walk does not see what agent/bus/connection/nats_internals.py does"
    assert {name: uses for name, uses in found.items() if uses} == {}


@pytest.mark.parametrize(
    "source",
    [
        "def f(client):\n    return client._subs",
        "class A(Connection):\n    def f(self):\n        return self._pending",
        "class A(nats.aio.client.Client):\n    async def _flusher(self): ...",
        "class A(Connection):\n    def f(self):\n        return super()._read_loop()",
        "def f(client):\n    return getattr(client, '_transport')",
        "from nats.aio.client import _validate_subject",
    ],
)
def test_every_form_of_access_to_a_private_member_is_found(source: str) -> None:
    assert private_uses(ast.parse(source), HEIRS)


@pytest.mark.parametrize(
    "source",
    [
        "class Own:\n    def f(self):\n        return self._pending",
        "class A(Connection):\n    def f(self):\n        return self.lost, self.receivers",
        "def _answer(): ...\ndef f(watcher):\n    return watcher._answer",
    ],
)
def test_private_names_of_our_own_are_left_alone(source: str) -> None:
    assert not private_uses(ast.parse(source), HEIRS)


def test_this_contract_names_all_that_the_module_uses() -> None:
    used = set(private_names(TREES[INTERNALS])) & OF_THE_LIBRARY
    assert used == SIGNATURES.keys() | ATTRIBUTES.keys()


@pytest.mark.parametrize("name", SIGNATURES)
def test_a_private_coroutine_has_the_expected_parameters(name: str) -> None:
    method = getattr(Client, name, None)
    assert inspect.iscoroutinefunction(method), f"Client.{name} is not a coroutine any more: {RAISE}"
    _, *parameters = inspect.signature(method).parameters.values()
    assert [str(one).replace("'", "") for one in parameters] == SIGNATURES[name], RAISE


async def test_a_new_client_has_the_private_attributes_with_their_types() -> None:
    client = Client()
    found = {name: getattr(client, name, "missing") for name in ATTRIBUTES}
    assert found == ATTRIBUTES, RAISE
    assert {name: type(value) for name, value in found.items()} == {
        name: type(value) for name, value in ATTRIBUTES.items()
    }, RAISE


async def test_no_name_of_ours_hides_one_of_the_library() -> None:
    library = {*dir(Client), *vars(Client())}
    ours = {*vars(Connection), *vars(ObservedClient), *(vars(ObservedClient()).keys() - vars(Client()).keys())}
    replaced = {"close", *SIGNATURES} - {"_connect_to_server"}
    assert {name for name in ours & library if not name.startswith("__")} == replaced


def test_the_parser_calls_the_replacement_with_the_expected_arguments() -> None:
    text = (LIBRARY / "protocol/parser.py").read_text()
    assert re.findall(r"\._process_msg\((.*?)\)", text) == ["sid, subject, reply, payload, hdr"], RAISE


def test_a_subscription_can_be_ended_by_its_public_method() -> None:
    assert inspect.iscoroutinefunction(Subscription.unsubscribe)


def test_the_version_is_capped_and_the_locked_one_is_tried() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    requirement = next(one for text in listed if (one := Requirement(text)).name == "nats-py")
    locked = {
        version
        for name in ("requirements.lock", "requirements-agent.lock")
        for version in re.findall(r"^nats-py==(\S+)", (ROOT / name).read_text(), re.MULTILINE)
    }
    assert locked == {importlib.metadata.version("nats-py")}, "install requirements.lock anew: make setup"
    (version,) = locked
    major, minor, *_ = map(int, version.split("."))
    assert version in requirement.specifier
    assert f"{major}.{minor + 1}" not in requirement.specifier, f"an untested release is allowed: {RAISE}"
