"""Shortens the verifier's log for a function's author: what is wrong, in which line, and the way out. Pure."""

from __future__ import annotations

import re

from agent.datapath.functions.user_program import UserProgram

SHORT = 400
"""Characters of a summary, which the acknowledgement carries."""
MOST_LOG = 256 << 10
"""Characters of a log that are kept: its end, where the refusal is."""
_AT = re.compile(r"^(\d+): \([0-9a-f]{2}\) ")
_NOISE = re.compile(
    r"^(?:processed \d|verification time|stack depth|max_states|;|from \d+ to \d+|func#|mark_precise|R\d+(?:_w)?=|"
    r"frame\d+|(?:cur|old) state:|last_idx|regs=|parent |\d+: R|\d+: frame|caller:|callee:|returning from|"
    r"to caller|propagating|\(b|$)"
)
_WAYS_OUT = (
    ("invalid access to packet", "compare the pointer plus the size of the access with stage_end(stage) first"),
    ("pkt_end", "pointers into the packet need a comparison with stage_end(stage) first"),
    ("map_value_or_null", "compare what the lookup returned with NULL first"),
    ("invalid access to map value", "bound the offset by the size of the value"),
    ("min value is outside of the allowed memory range", "bound the index by a comparison or a mask"),
    ("unbounded memory access", "bound the index by a comparison or a mask"),
    ("infinite loop", "let the loop end: bound it by a constant"),
    ("back-edge", "let the loop end: bound it by a constant"),
    ("too large", "bound loops by smaller constants, or do less for each packet"),
    ("too complex", "bound loops by smaller constants, or do less for each packet"),
    ("invalid read from stack", "initialise the variable, including the padding of structs"),
    ("invalid indirect read from stack", "initialise the variable, including the padding of structs"),
    ("!read_ok", "initialise the variable"),
    ("write into map", "what the configuration holds is not to be written"),
    ("invalid mem access 'scalar'", "use pointers of struct stage and of maps only, and no global variables"),
    ("invalid mem access 'inv'", "use pointers of struct stage and of maps only, and no global variables"),
    ("combined stack size", "use less stack: at most 224 bytes"),
    ("invalid stack", "stay within variables and struct stage"),
    ("unreachable insn", "remove the code that nothing reaches"),
)


def summarize(log: str, program: UserProgram, start: int) -> str:
    """Return a line for people: the verifier's complaint, with the source line where the program is the user's.

    `start` is the number of the user's first instruction in the program that was loaded.
    """
    at: int | None = None
    complaints: list[str] = []
    for line in reversed(log.splitlines()):
        if found := _AT.match(line):
            at = int(found[1])
            break
        if not _NOISE.match(line.strip()):
            complaints.insert(0, line.strip())
    known = (one for one in complaints if any(text in one for text, _ in _WAYS_OUT))
    complaint = next(known, complaints[0] if complaints else "the kernel refused it without a reason").rstrip(".")
    out = next((way for text, way in _WAYS_OUT if text in complaint), "")
    text = f"{_place(program, at, start)}{complaint}{f'; {out}' if out else ''}"
    return text if len(text) <= SHORT else f"{text[: SHORT - 1]}…"


def _place(program: UserProgram, at: int | None, start: int) -> str:
    """Return the source line and instruction of the complaint; empty if it is not in the user's part."""
    if at is None or at < start:
        return ""
    line = program.line_of(at - start)
    return f"line {line} (instruction {at - start}): " if line else f"instruction {at - start}: "


def bounded(log: str) -> str:
    """Return a log's end if it is long: the refusal is there."""
    return log if len(log) <= MOST_LOG else f"[{len(log) - MOST_LOG} characters before]\n{log[-MOST_LOG:]}"
