"""Errors of the library: each says what is wrong and what to do."""

from __future__ import annotations


class FunctionError(Exception):
    """The base of all errors of this library."""


class NoAgentError(FunctionError):
    """No agent hands over sockets for this function."""


class RefusedError(FunctionError):
    """The agent refused to hand over sockets; the text is its reason."""


class HandoverError(FunctionError):
    """What the agent handed over does not fit together; nothing of it is used."""


class RingError(FunctionError):
    """The indices of a ring contradict each other: something else has written to it. The rings cannot be used on."""


class BarrierError(FunctionError):
    """The processor reorders memory accesses, and the compiled part that prevents it is missing."""


class PacketGoneError(FunctionError):
    """A packet was used after its verdict was given: its frame may hold another packet by now."""


class NoRoomError(FunctionError):
    """A packet cannot grow that far in its frame, or shrink below nothing."""


class HeaderError(FunctionError):
    """A packet ends within a header, or a header contradicts itself."""


class CaptureError(FunctionError):
    """A capture file is truncated, damaged or of a format that is not supported."""
