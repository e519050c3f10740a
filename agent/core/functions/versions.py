"""Which version of a function runs: a new one that fails soon after it replaced another one gives way to that. Pure.

A version is a program, its configuration and what faults do. Times are seconds, of any one clock.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from enum import Enum, auto
from hashlib import blake2s

from agent.core.functions.stages import Point
from agent.core.model.desired_entries import Function, FunctionHistory, FunctionPlace, RolledBack

WATCH_SECONDS = 60.0
"""A version is watched for so long after it went live."""
MOST_FAULTS = 10
"""A version that fails for more packets than these while it is watched has failed."""

REMEDY = "correct its program or its configuration, and publish its document again: a newer revision is tried anew"


class Decision(Enum):
    """What is known of a version."""

    WATCH = auto()
    STAYS = auto()
    FAILED = auto()


def decide(faults: int, elapsed: float) -> Decision:
    """Return what becomes of a version that failed for so many packets within `elapsed` seconds since it went live."""
    if faults > MOST_FAULTS:
        return Decision.FAILED
    return Decision.STAYS if elapsed >= WATCH_SECONDS else Decision.WATCH


def digest(function: Function) -> str:
    """Return what tells a version from others of the same function."""
    known = f"{function.content} {function.on_fault_closed} ".encode() + function.configuration
    return blake2s(known, digest_size=16).hexdigest()


def is_rolled_back(function: Function, revision: int, history: FunctionHistory | None) -> bool:
    """Return whether the version of a document's revision has failed, so that the one before it runs."""
    back = history.rolled_back if history is not None else None
    return back is not None and (back.revision, back.digest) == (revision, digest(function))


def version_in_force(function: Function, revision: int, history: FunctionHistory | None) -> Function:
    """Return what runs in place of a function as a document's revision lists it: usually itself.

    While it is not known whether it fails, the version before stays loaded beside it.
    """
    if history is None or history.fallback.vpc != function.vpc:
        return function
    if is_rolled_back(function, revision, history):
        return replace(history.fallback, slot=function.slot, retained=None)
    same = history.fallback.build == function.build or history.fallback.slot != function.slot
    return function if same else replace(function, retained=history.fallback.build)


@dataclass(frozen=True, slots=True)
class _Watched:
    """A version that went live at `since`, when its function had failed for `faults` packets before."""

    function: Function
    revision: int
    faults: int
    since: float


class VersionWatch:
    """The functions' versions that are live, and those that went live not long ago."""

    def __init__(self, histories: Mapping[FunctionPlace, FunctionHistory]) -> None:
        self.histories = dict(histories)
        self._live: dict[FunctionPlace, Function] = {}
        self._watched: dict[FunctionPlace, _Watched] = {}

    @property
    def watched(self) -> frozenset[FunctionPlace]:
        """The functions whose faults `look` needs."""
        return frozenset(self._watched)

    def put(self, function: Function, revision: int, faults: Callable[[], int], now: float) -> None:
        """Record that a function is in its slot; `faults` returns for how many packets it has failed by now.

        The first version has nothing to go back to. Functions in processes are not watched: theirs are other faults.
        """
        place, live = function.place, self._live.get(function.place)
        if live is not None and live.same_version(function):
            return
        self._live[place] = function
        self._watched.pop(place, None)
        if function.program.process is not None:
            self.histories.pop(place, None)
            return
        version = replace(function, retained=None)
        known = self.histories.setdefault(place, FunctionHistory(version))
        if known.fallback.vpc != version.vpc:  # another tenant's is nothing to go back to
            known = FunctionHistory(version)
        if known.fallback is version or digest(known.fallback) != digest(version):
            self.histories[place] = FunctionHistory(known.fallback)
            self._watched[place] = _Watched(version, revision, faults(), now)

    def drop(self, place: FunctionPlace) -> None:
        """Forget a function that is gone."""
        for known in (self._live, self._watched, self.histories):
            known.pop(place, None)

    def keep_only(self, places: Collection[FunctionPlace]) -> None:
        """Forget all other functions."""
        for place in self.histories.keys() - places:
            self.drop(place)

    def look(self, faults: Mapping[FunctionPlace, int], now: float) -> None:
        """Decide about the watched versions; `faults` are those of each function since it got its slot."""
        for place, one in list(self._watched.items()):
            if place not in faults:
                continue
            failed, elapsed = max(0, faults[place] - one.faults), now - one.since
            decision = decide(failed, elapsed)
            if decision is not Decision.WATCH:
                del self._watched[place]
            if decision is Decision.STAYS:
                self.histories[place] = FunctionHistory(one.function)
            elif decision is Decision.FAILED:
                self._fail(place, RolledBack(one.revision, digest(one.function), one.function.content, failed, elapsed))

    def _fail(self, place: FunctionPlace, back: RolledBack) -> None:
        """Put the version before back, unless this is the first one: nothing to go back to, and none for the next."""
        history = self.histories[place]
        if digest(history.fallback) == back.digest:
            del self.histories[place]
        else:
            self.histories[place] = replace(history, rolled_back=back)


def describe(place: FunctionPlace, history: FunctionHistory, back: RolledBack) -> str:
    """Return what happened to a version that was rolled back."""
    id_, point = place
    return (
        f"the version of revision {back.revision} (program {back.content[:12]}) of function {id_} at "
        f"{Point(point).label} failed for {back.faults} packets within {back.seconds:.0f} s after it went live, and "
        f"was rolled back: the version before it (program {history.fallback.content[:12]}) runs in its place"
    )
