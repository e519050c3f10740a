"""Finds pins of this instance in other bpf file systems than the configured one: the setting `bpffs` was changed."""

from __future__ import annotations

import contextlib
from collections.abc import Collection
from pathlib import Path

from agent.datapath.bpf.pins import Pins, mounts


def pinned_elsewhere(pins: Pins, map_ids: Collection[int]) -> list[Path]:
    """Return the folders of this instance in other bpf file systems that pin any of the agent's maps, given by id.

    Such a pin keeps the map in memory when the configured one is gone. The maps are compared since agents in other
    network namespaces may have the same instance in a file system of their own.
    """
    found: list[Path] = []
    for point, kind in mounts():
        other = Pins(point, pins.instance)
        with contextlib.suppress(OSError):  # it cannot be read, or was unmounted just now
            if kind == "bpf" and other.root.exists() and not other.root.samefile(pins.root):
                found += [other.root] if other.marked_map_ids().intersection(map_ids) else []
    return found
