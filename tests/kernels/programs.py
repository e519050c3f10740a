"""The programs for another kernel, compiled on this machine: under emulation that takes fifty times as long.

An agent finds them by the hash of all that went into them (see `agent.datapath.bpf.compiler`); where it differs from
what the agent itself would compile, it compiles anew.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import tempfile
from pathlib import Path

import msgspec

from agent.core.model.features import BOTH, Family, Features
from agent.core.model.hooks import Hook
from agent.datapath.bpf import compiler

FAMILIES: tuple[frozenset[Family], ...] = (frozenset({"ipv4"}), frozenset({"ipv6"}), BOTH)
_CHOICES = [
    Features(vxlan_port=vxlan_port, families=families, underlay=underlay, vlan_tags=vlan_tags)
    for vxlan_port, families, underlay, vlan_tags in itertools.product((4789, 0), FAMILIES, FAMILIES, (False, True))
]
FEATURES = tuple({choice.flags(): choice for choice in _CHOICES}.values())
"""Every set of features that a host can choose, as far as they differ in what is compiled; ports are the usual ones."""
VARIANTS = [(Hook.XDP, choice) for choice in FEATURES]
VARIANTS += [(Hook.TC, choice) for choice in FEATURES if choice.families == BOTH or choice.underlay == BOTH]
VARIANTS += [(hook, Features(vlan_tags=tagged, functions=True)) for hook in Hook for tagged in (False, True)]
"""What is compiled for the second kernel. For tc and for functions only the larger sets: loading is slow there."""


def ensure_programs(folder: Path, ticks_per_second: int) -> None:
    """Have every set of features compiled in a folder, for a kernel of a timer frequency (CONFIG_HZ); nothing else.

    Needs root, as bcc makes maps. Raises CompileError with clang's text.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    spawn = multiprocessing.get_context("spawn")
    with spawn.Pool(maxtasksperchild=4) as pool:  # a compiler's memory is given back by its process's end alone
        work = [(folder, ticks_per_second, hook, features) for hook, features in VARIANTS]
        wanted = set(pool.starmap(_ensure_one, work, chunksize=1))
    for path in folder.iterdir():
        if path.name not in wanted:
            path.unlink()


def _ensure_one(folder: Path, ticks_per_second: int, hook: Hook, features: Features) -> str:
    """Compile one set of features unless it is there; return its file's name. Runs in a process of its own."""
    setattr(compiler, "ticks_per_second", lambda: ticks_per_second)  # noqa: B010 - mypy: a function is no variable
    path = folder / f"{compiler.content_hash(features=features, hook=hook)}.object"
    if not path.exists():
        new = path.with_suffix(".new")
        new.write_bytes(msgspec.msgpack.encode(_compile(features, hook)))
        new.chmod(0o600)
        new.replace(path)
    return path.name


def _compile(features: Features, hook: Hook) -> compiler.CompiledObject:
    """Compile in this process; what clang writes to standard error is shown where it fails alone."""
    os.environ["BCC_KERNEL_SOURCE"] = str(compiler.SOURCES / "shim")
    with tempfile.TemporaryFile() as words:
        os.dup2(words.fileno(), 2)
        try:
            return compiler.compile_here(compiler.SOURCES, features, hook)
        except Exception as error:  # bcc raises no narrower one
            words.seek(0)
            raise compiler.CompileError(f"{error}\n{words.read().decode(errors='replace')}") from None
