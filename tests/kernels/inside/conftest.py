"""These tests are for the second kernel (`make kernels`): this machine's own may lack Geneve, VLANs and bonds."""

from __future__ import annotations

import os
import platform
import shutil
from pathlib import Path

import pytest

from tests.netns.conftest import table as table

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip these tests on any other kernel than the one that was booted for this."""
    if os.environ.get("SECOND_KERNEL") == platform.release():
        return
    for item in (item for item in items if HERE in item.path.parents):
        item.add_marker(pytest.mark.skip(reason="runs on the second kernel only: make kernels"))


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compiled programs for all agents of a run; what the outer machine has compiled for this kernel is in it."""
    folder = tmp_path_factory.mktemp("programs")
    for path in Path(os.environ["SECOND_KERNEL_PROGRAMS"]).glob("*.object"):
        shutil.copy(path, folder)
    return folder
