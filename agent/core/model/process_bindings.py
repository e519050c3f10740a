"""Which process an endpoint's namespace was meant to be, where a document names it by a process id. Pure.

A process id says who is meant only while that process lives: the kernel gives it out again. What stood behind it when a
revision was first realized is remembered, and nothing else is attached for that revision.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

_OF_PROCESS = re.compile(r"\d+|.*/\d+/(task/\d+/)?ns/net")


class Process(NamedTuple):
    """A process as it was found: the host's boot id, its start in clock ticks since then, its network namespace."""

    boot: str
    started: int
    device: int
    inode: int


class Binding(NamedTuple):
    """The process behind an endpoint's namespace, by what named it: a revision, or one symbolic link.

    `process` is None where an agent before this one realized the revision and nothing was remembered.
    """

    meant: str
    process: Process | None


def is_of_process(namespace: str) -> bool:
    """Say whether a document names a namespace by a process id, alone or in a path such as `/proc/17/ns/net`."""
    return _OF_PROCESS.fullmatch(namespace) is not None


def by_revision(revision: int) -> str:
    """Return what names a process for one revision of a document."""
    return f"revision {revision}"


class Bindings:
    """The bindings of one host's endpoints, by endpoint."""

    def __init__(self) -> None:
        self._bindings: dict[str, Binding] = {}
        self._changed: set[str] = set()

    def restore(self, kept: Mapping[str, Binding], realized: Mapping[str, int]) -> None:
        """Take in what was kept on disk; `realized`: the kept documents' revisions by endpoint, where ids name it.

        A revision that was realized before and whose process nobody remembers is bound to none.
        """
        self._bindings.update(kept)
        for endpoint, revision in realized.items():
            if self._bindings.get(endpoint, Binding("", None)).meant != by_revision(revision):
                self._bindings[endpoint] = Binding(by_revision(revision), None)

    def is_unknown(self, endpoint: str, meant: str) -> bool:
        """Say whether an agent before this one attached this, and nothing is known of the process."""
        return self._bindings.get(endpoint) == Binding(meant, None)

    def fault(self, endpoint: str, meant: str, found: Process) -> str:
        """Return why `found` is not the process that was meant; empty when it is, or when none was meant so far."""
        known = self._bindings.get(endpoint)
        if known is None or known.meant != meant:
            return ""
        if known.process is None:
            return "an earlier agent realized this revision, and nothing says which process was meant"
        if known.process.boot != found.boot:
            return "the host was started again since this revision was realized, and process ids were given out anew"
        if known.process.started != found.started:
            return "the process that this revision meant has ended, and another one has its id now"
        if known.process != found:
            return "the process is in another network namespace than when this revision was realized"
        return ""

    def bind(self, endpoint: str, meant: str, process: Process) -> None:
        """Remember a process as the one that was meant."""
        if self._bindings.get(endpoint) != Binding(meant, process):
            self._bindings[endpoint] = Binding(meant, process)
            self._changed.add(endpoint)

    def forget_unless(self, wanted: Callable[[str], bool]) -> None:
        """Forget the endpoints that are not wanted any more."""
        for endpoint in [one for one in self._bindings if not wanted(one)]:
            del self._bindings[endpoint]
            self._changed.add(endpoint)

    def take_changed(self) -> dict[str, Binding | None]:
        """Return what is to be written to disk since the last call; None: nothing is bound any more."""
        changed, self._changed = self._changed, set()
        return {endpoint: self._bindings.get(endpoint) for endpoint in changed}

    def put_back(self, endpoints: Iterable[str]) -> None:
        """Take note that some were not written."""
        self._changed.update(endpoints)
