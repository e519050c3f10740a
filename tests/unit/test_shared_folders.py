"""Folders that agents, or labs, of one machine share, and that the last of them removes while another one starts."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from agent.datapath.bpf.pins import make_folder
from controller_sim.lab import state
from controller_sim.lab.lab import Lab


@pytest.fixture
def removed_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder for all that is removed right after it was made for the first time, as by another process."""
    shared, make, times = tmp_path / "shared", os.mkdir, []

    def make_and_lose(path: Path, mode: int = 0o777) -> None:
        make(path, mode)
        if Path(path) == shared and not times:
            times.append(1)
            shared.rmdir()

    monkeypatch.setattr(os, "mkdir", make_and_lose)
    return shared


def test_a_folder_for_pins_is_made_though_its_parent_is_removed_meanwhile(removed_meanwhile: Path) -> None:
    make_folder(removed_meanwhile / "h1" / "maps")
    assert (removed_meanwhile / "h1" / "maps").is_dir()


def test_a_labs_folders_are_made_though_another_lab_removes_the_one_for_all(
    removed_meanwhile: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state, "ROOT", removed_meanwhile)
    Lab("one")._make_directories()
    made = {path.name for path in (removed_meanwhile / "one").iterdir()}
    assert made == {"logs", "agents", "hosts", "cache", "functions"}


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError):
        make_folder(tmp_path / "file" / "maps")
