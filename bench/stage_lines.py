"""The lines on functions as programs at stage points: which functions a packet meets, and where. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from agent.core.model.features import Features
from agent.core.model.hooks import Hook
from bench.contestants import Contestant
from bench.lines import EGRESS, INGRESS

FOLDER = Path(__file__).parent / "programs" / "functions"
POINTS = {INGRESS: "to_endpoint", EGRESS: "from_endpoint"}
"""The stage point of the functions, by direction."""
MANY = 8
"""Functions of one point, at most."""

WITHOUT, NONE = "compiled without functions", "functions, none in scope"
ONE, EIGHT = "one no-op function", "eight no-op functions"
PORTS, COUNT = "one that reads ports", "one that counts in a hash map"
CHAINS: Mapping[str, tuple[str, ...]] = {
    NONE: (),
    ONE: ("noop",),
    EIGHT: ("noop",) * MANY,
    PORTS: ("ports",),
    COUNT: ("count",),
}
"""The functions that each line's packets meet, by the names of their sources in `programs/functions`."""
OURS = (WITHOUT, *CHAINS)

FUNCTIONS = Features(functions=True)
CONTESTANTS = {
    hook: (Contestant(f"{hook} without", hook=hook), Contestant(f"{hook} with", features=FUNCTIONS, hook=hook))
    for hook in Hook
}
"""Our programs compiled without functions, and with them, by hook."""

REDIRECT = "redirect"
TAIL_CALLS = {count: f"{count} tail call{'s' if count > 1 else ''}, then redirect" for count in (1, MANY)}
DISPATCHED = {
    count: f"libxdp's dispatcher: {count or 'no'} no-op{'s' if count != 1 else ''}, then redirect"
    for count in (0, 1, MANY)
}
"""The peers' lines, by the number of no-op programs in front of the one that redirects."""


def source(name: str) -> str:
    """Return the source of a function."""
    return (FOLDER / f"{name}.c").read_text(encoding="utf-8")
