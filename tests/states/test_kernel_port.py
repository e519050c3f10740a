"""The kernel's port: the real kernel and the fake have what `agent.reconcile` calls, with the same parameters."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import pytest
from fake_kernel import FakeKernel

from agent.datapath.executor import Executor
from agent.datapath.kernel import Kernel
from agent.reconcile.kernel_port import ExecutorPort, KernelPort


def methods(one: type) -> dict[str, tuple[bool, list[tuple[str, object]]]]:
    """Return the public methods of a class: whether they are coroutines, and their parameters with their types."""
    return {
        name: (
            inspect.iscoroutinefunction(it),
            [(parameter.name, parameter.annotation) for parameter in inspect.signature(it).parameters.values()],
        )
        for name, it in inspect.getmembers(one, inspect.isfunction)
        if not name.startswith("_")
    }


@pytest.mark.parametrize(
    ("port", "found"),
    [(KernelPort, Kernel), (KernelPort, FakeKernel), (ExecutorPort, Executor), (ExecutorPort, FakeKernel)],
)
def test_the_kernel_and_its_fake_have_every_method_of_the_port(port: type, found: type):
    wanted = methods(port)
    assert wanted
    assert {name: methods(found).get(name) for name in wanted} == wanted


def test_the_real_kernel_inherits_nothing():
    assert Kernel.__bases__ == (object,)


def test_only_the_port_stands_between_reconciling_and_the_kernel():
    """No module of `agent.reconcile` imports the facade; what it calls is in the port."""
    folder = Path(inspect.getfile(KernelPort)).parent
    for file in folder.glob("*.py"):
        imported = {one.module for one in ast.walk(ast.parse(file.read_text())) if isinstance(one, ast.ImportFrom)}
        assert "agent.datapath.kernel" not in imported, file.name
