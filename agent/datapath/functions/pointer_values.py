"""What is known of registers and stack in a user's program: which values are addresses of kernel memory. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, auto
from typing import NamedTuple


class Kind(Enum):
    """What a value may be. ANY is an address of one of the kinds, or a number on another path."""

    NUMBER = auto()
    STAGE = auto()
    STACK = auto()
    PACKET = auto()
    ENTRY = auto()
    MAP = auto()
    ANY = auto()


class Value(NamedTuple):
    """A value: `at` is the number, or the offset from struct stage or from the end of a stack frame; None if unknown.

    `frame` is the depth of the function that a stack frame is of, `map` the map's name. With `null` it may be 0.
    """

    kind: Kind
    at: int | None = None
    frame: int = 0
    map: str = ""
    null: bool = False

    @property
    def is_address(self) -> bool:
        """Whether it is, or may be, an address."""
        return self.kind is not Kind.NUMBER

    def moved(self, by: int | None) -> Value:
        """Return an address some bytes further on."""
        return self._replace(at=self.at + by if self.at is not None and by is not None else None)


NUMBER, ANY, PACKET, ENTRY = (Value(kind) for kind in (Kind.NUMBER, Kind.ANY, Kind.PACKET, Kind.ENTRY))


def joined(one: Value | None, other: Value | None) -> Value | None:
    """Return what holds for both; None is no value yet, which the verifier lets no program read."""
    if one is None or other is None or one == other:
        return one if other is None else other
    if one.kind is Kind.NUMBER and other.kind is Kind.NUMBER:
        return NUMBER
    if one.kind is Kind.NUMBER:
        one, other = other, one
    if other.kind is Kind.NUMBER and other.at == 0:
        return one._replace(null=True)
    if one._replace(at=None, null=False) != other._replace(at=None, null=False):
        return ANY
    return one._replace(at=one.at if one.at == other.at else None, null=one.null or other.null)


@dataclass(slots=True)
class Frame:
    """Registers and stack of one function; `back` is where its caller continues.

    `slots` has the 8 bytes of stack that hold an address, by their offset; all others hold numbers.
    """

    back: int
    registers: list[Value | None] = field(default_factory=lambda: [None] * 11)
    slots: dict[int, Value] = field(default_factory=dict)

    def copy(self) -> Frame:
        """Return a copy."""
        return Frame(self.back, list(self.registers), dict(self.slots))

    def touched(self, at: int | None, size: int | None) -> list[int]:
        """Return the slots with an address that an access may touch."""
        if at is None:
            return list(self.slots)
        return [one for one in self.slots if one + 8 > at and (size is None or one < at + size)]

    def join(self, other: Frame) -> bool:
        """Make this hold for the other, too; return whether it changed."""
        registers = [joined(*pair) for pair in zip(self.registers, other.registers, strict=True)]
        slots = {at: joined(self.slots.get(at, NUMBER), other.slots.get(at, NUMBER)) for at in self.slots | other.slots}
        known = {at: value for at, value in slots.items() if value is not None}
        changed = registers != self.registers or known != self.slots
        self.registers, self.slots = registers, known
        return changed


@dataclass(slots=True)
class State:
    """All frames, the entry's first; `overwritten`: the pointers in struct stage may not be there any more."""

    frames: list[Frame]
    overwritten: bool = False

    @property
    def registers(self) -> list[Value | None]:
        """The registers of the function that runs."""
        return self.frames[-1].registers

    @property
    def calls(self) -> tuple[int, ...]:
        """Where the functions that run continue: the same for two states that can be joined."""
        return tuple(one.back for one in self.frames)

    def copy(self) -> State:
        """Return a copy."""
        return State([one.copy() for one in self.frames], self.overwritten)

    def join(self, other: State) -> bool:
        """Make this hold for the other, too; return whether it changed."""
        changed = [mine.join(theirs) for mine, theirs in zip(self.frames, other.frames, strict=True)]
        overwritten = self.overwritten or other.overwritten
        changed.append(overwritten != self.overwritten)
        self.overwritten = overwritten
        return any(changed)
