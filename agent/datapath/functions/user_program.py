"""A user's program as the compiler or an object file gives it, before it is checked or linked. Plain data."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from agent.datapath.bpf.compiler import Relocation

ENTRY = "stage_function"
"""The name of a user's entry function: `int stage_function(struct stage *stage)`."""
CONFIGURATION = "configuration"
"""The name of the map that holds a function's configuration, which every function has."""
PENDING, SOCKETS = "pending", "sockets"
"""The names of the maps of a function in a process: packets that it has, and its sockets (XSKMAP)."""
CONFIGURATION_SIZE = 4096
"""Bytes of the configuration map's only value."""
MAX_INSTRUCTIONS = 4096
"""Instructions of a user's program, its subprograms included."""


class Field(msgspec.Struct, frozen=True):
    """One field of a key or value: where it is and how to read it.

    `kind` is `u` (unsigned), `s` (signed), `bytes` or `pad`; `count` is more than 1 for an array of numbers. `offset`
    and `size` (of one element) are in bytes. `name` is empty where the key or value is a plain number.
    """

    name: str
    offset: int
    size: int
    kind: str = "u"
    count: int = 1


class UserMap(msgspec.Struct, frozen=True):
    """A map that a user's program declares: kernel type, sizes in bytes, creation flags, and how to read its entries.

    `key_fields` and `value_fields` are empty where the source or object does not describe them.
    """

    name: str
    type: int
    key_size: int
    value_size: int
    max_entries: int
    flags: int = 0
    key_fields: tuple[Field, ...] = ()
    value_fields: tuple[Field, ...] = ()


class UserProgram(msgspec.Struct, frozen=True):
    """Instructions of 8 bytes each, entry function first, with zeros where descriptors of maps go.

    The entry gets a pointer to struct stage in R1 and returns a verdict in R0. Calls between its functions are
    BPF-to-BPF calls, relative as the kernel takes them. `relocations` name maps of `maps`. `lines` has the source
    line's text by the number of the instruction, where it is known: "12: if (packet + 20 > end)".
    """

    instructions: bytes
    relocations: tuple[Relocation, ...] = ()
    maps: tuple[UserMap, ...] = ()
    lines: Mapping[int, str] = {}

    def line_of(self, index: int) -> str:
        """Return the source line that an instruction comes from, the closest before it; empty if unknown.

        Its semicolons are left out where they would be taken for the one between a cause and its remedy.
        """
        known = [number for number in self.lines if number <= index]
        return self.lines[max(known)].rstrip("; ").replace("; ", ";") if known else ""
