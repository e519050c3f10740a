"""Composes users' functions from the programs and maps of one agent."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from agent.core.model.hooks import PROCESS_SLOT, Hook
from agent.core.model.map_layout import STAGE_ARRAYS
from agent.datapath.bpf.pins import Pins
from agent.datapath.functions.functions import Functions, Host
from agent.datapath.functions.installed import Slots
from agent.datapath.functions.program_store import ProgramStore
from agent.datapath.loading import Loaded, LoadedHook


@dataclass(frozen=True, slots=True)
class FunctionConfig:
    """The settings of users' functions: the operator's folder, if any, and the limit of the verifier's work.

    `sockets` is the folder of the Unix sockets for functions in processes; one that takes no packet for `hang` seconds
    is taken out of the path.
    """

    folder: Path | None = None
    max_instructions: int = 32768
    sockets: Path = Path("/run/droplet/functions")
    hang: float = 1.0


def functions_of(loaded: Loaded, pins: Pins, instance: str, cache: Path, config: FunctionConfig) -> Functions | None:
    """Return the functions of an agent, None if its programs have no stage points: then pins of functions go."""
    hooks = {hook: found for hook, found in loaded.hooks.items() if found.compiled.shells}
    if not hooks:
        shutil.rmtree(pins.functions, ignore_errors=True)
        return None
    host = Host(
        root=pins.functions,
        instance=instance,
        slots=_slots(loaded, hooks),
        shells={hook: found.compiled.shells for hook, found in hooks.items()},
        processes={hook: found.compiled.process(PROCESS_SLOT[hook]) for hook, found in hooks.items()},
        maps=loaded.descriptors(),
        max_instructions=config.max_instructions,
    )
    return Functions(host, ProgramStore(cache, config.folder))


def _slots(loaded: Loaded, hooks: Mapping[Hook, LoadedHook]) -> Slots:
    return Slots(
        {hook: loaded.maps[STAGE_ARRAYS[hook]] for hook in hooks},
        {hook: found.compiled.hash for hook, found in hooks.items()},
        frozenset(one.info.id for one in loaded.maps.values()),
    )
