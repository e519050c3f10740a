"""Reads a topology file. Every mistake in it is reported at once, with its line and its field.

Owns the file as a whole; what a topology is stands in `model.py`, what may be in it in `rules.py`.
"""

from __future__ import annotations

from errno import ENOENT
from io import StringIO
from pathlib import Path

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError

from controller_sim.topology.function_rules import Files
from controller_sim.topology.model import Topology
from controller_sim.topology.reader import Mistake, Reader
from controller_sim.topology.rules import build


class TopologyError(ValueError):
    """A file that is no topology. `mistakes` is never empty, and sorted by line."""

    def __init__(self, source: str, mistakes: list[Mistake]) -> None:
        self.source = source
        self.mistakes = sorted(mistakes, key=lambda mistake: mistake.line)
        super().__init__("\n".join(f"{source}: {mistake}" for mistake in self.mistakes))


def read_topology(path: Path) -> Topology:
    """Read a file; TopologyError when it is no topology, OSError when it cannot be read."""
    return parse_topology(path.read_text(encoding="utf-8"), str(path), files_in(path.parent))


def files_in(folder: Path) -> Files:
    """Return what reads the files that a topology in this folder names."""
    return lambda name: (folder / name).read_bytes()


def _no_files(name: str) -> bytes:
    raise FileNotFoundError(ENOENT, "this topology is no file, and has none beside it", name)


def parse_topology(text: str, source: str = "topology", files: Files = _no_files) -> Topology:
    """Return the topology that a YAML text describes, or raise TopologyError with all mistakes.

    `files` reads the files that it names.
    """
    yaml = YAML(typ="rt")
    try:
        root = yaml.load(StringIO(text))
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark is not None else 1
        raise TopologyError(source, [Mistake(line, "the file", f"not YAML: {error.problem or error}")]) from None
    mistakes: list[Mistake] = []
    reader = Reader(root, "", 1, mistakes)
    topology = build(reader, files) if reader.is_map() else None
    if mistakes or topology is None:
        raise TopologyError(source, mistakes)
    return topology
