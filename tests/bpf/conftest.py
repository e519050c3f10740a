"""One compiled object for all tests of the programs, and the rule that every outcome is reached by some test."""

from __future__ import annotations

import asyncio
import ctypes
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from functools import cache
from pathlib import Path

import pytest
from bpf_dut import ARRIVAL, SECOND_UPLINK, UNCOUNTED, UPLINK, Dut
from function_dut import FunctionDut

from agent.core.model.features import Features
from agent.core.model.hooks import Hook
from agent.datapath.bpf.compiler import CompiledObject, compile_programs

HERE = Path(__file__).parent
CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put the coverage of outcomes last, and skip it when only a part of the tests is asked for."""
    last = [item for item in items if item.get_closest_marker("after_all")]
    files = {item.path for item in items}
    partial = not set(HERE.glob("test_*.py")) <= files or config.option.keyword
    partial = partial or any("::" in argument for argument in config.args)
    for item in last:
        items.remove(item)
        items.append(item)
        if partial:
            item.add_marker(pytest.mark.skip(reason="only a part of the tests of the programs was asked for"))


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "after_all: runs after every other test of the programs")


@pytest.fixture(scope="module", autouse=True)
def interfaces() -> Iterator[None]:
    """Enter a nameless network namespace with interfaces of endpoints and of the underlay; it goes when left."""
    if os.geteuid():
        pytest.skip("network namespaces need root")
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        assert _libc.unshare(CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
        for one, other in ((ARRIVAL, UNCOUNTED), (UPLINK, SECOND_UPLINK)):
            pair = f"ip link add v{one} index {one} type veth peer name v{other} index {other}"
            subprocess.run(pair.split(), check=True)
        yield
    finally:
        assert _libc.setns(home, CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
        os.close(home)


@pytest.fixture(scope="session", params=list(Hook))
def hook(request: pytest.FixtureRequest) -> Hook:
    """Return the hook whose programs a test runs: every test that needs programs runs for each."""
    return Hook(request.param)


@pytest.fixture(scope="session")
def duts(lab_cache: Path) -> Iterator[Callable[[Hook], Dut]]:
    """Return the programs of a hook on maps of their own, each loaded once."""
    if os.geteuid():
        pytest.skip("loading programs needs root")
    with ExitStack() as loaded:
        yield cache(lambda hook: loaded.enter_context(closing(Dut(compiled_for(lab_cache, hook), hook=hook))))


def compiled_for(lab_cache: Path, hook: Hook) -> CompiledObject:
    return asyncio.run(compile_programs(lab_cache, features=Features(vlan_tags=True), hook=hook))


@pytest.fixture(scope="session")
def compiled(lab_cache: Path, hook: Hook) -> CompiledObject:
    if os.geteuid():
        pytest.skip("loading programs needs root")
    return compiled_for(lab_cache, hook)


@pytest.fixture(scope="session")
def shared_dut(duts: Callable[[Hook], Dut], hook: Hook) -> Dut:
    return duts(hook)


@pytest.fixture
def dut(shared_dut: Dut) -> Dut:
    shared_dut.renew()
    return shared_dut


@pytest.fixture(scope="session")
def function_duts(lab_cache: Path) -> Iterator[Callable[[Hook], FunctionDut]]:
    """Return what `duts` does, on a host on which users' functions may run."""
    if os.geteuid():
        pytest.skip("loading programs needs root")

    def load(hook: Hook) -> FunctionDut:
        features = Features(vlan_tags=True, functions=True)
        compiled = asyncio.run(compile_programs(lab_cache, features=features, hook=hook))
        return loaded.enter_context(closing(FunctionDut(compiled, hook)))

    with ExitStack() as loaded:
        yield cache(load)


@pytest.fixture(scope="session")
def shared_functions(function_duts: Callable[[Hook], FunctionDut], hook: Hook) -> FunctionDut:
    return function_duts(hook)


@pytest.fixture
def functions(shared_functions: FunctionDut) -> Iterator[FunctionDut]:
    """Yield what `dut` is, on a host on which users' functions may run."""
    shared_functions.renew()
    yield shared_functions
    shared_functions.close_sockets()


@pytest.fixture
def tc(duts: Callable[[Hook], Dut]) -> Dut:
    """Return what `dut` does, compiled for tc."""
    duts(Hook.TC).renew()
    return duts(Hook.TC)
