"""Binds endpoints to processes, for documents that name a namespace by a process id. Pure.

A process id identifies a process only while it lives: the kernel reuses ids. The process that had the id when a
revision was first realized is remembered, and no other process is attached for that revision.
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
    """The process of an endpoint's namespace, and the name that referred to it: a revision, or one symbolic link.

    `process` is None if an earlier agent realized the revision and nothing was remembered.
    """

    meant: str
    process: Process | None


def is_of_process(namespace: str) -> bool:
    """Return whether a namespace is named by a process id, alone or in a path such as `/proc/17/ns/net`."""
    return _OF_PROCESS.fullmatch(namespace) is not None


def by_revision(revision: int) -> str:
    """Return the name that refers to a process for one revision of a document."""
    return f"revision {revision}"


class Bindings:
    """The bindings of one host's endpoints, by endpoint."""

    def __init__(self) -> None:
        self._bindings: dict[str, Binding] = {}
        self._changed: set[str] = set()

    def restore(self, kept: Mapping[str, Binding], realized: Mapping[str, int]) -> None:
        """Load the bindings from disk; `realized`: the stored documents' revisions, by endpoint named by a process id.

        A realized revision without a stored process is bound to none.
        """
        self._bindings.update(kept)
        for endpoint, revision in realized.items():
            if self._bindings.get(endpoint, Binding("", None)).meant != by_revision(revision):
                self._bindings[endpoint] = Binding(by_revision(revision), None)

    def is_unknown(self, endpoint: str, meant: str) -> bool:
        """Return whether an earlier agent attached the endpoint and the process is unknown."""
        return self._bindings.get(endpoint) == Binding(meant, None)

    def fault(self, endpoint: str, meant: str, found: Process) -> str:
        """Return why `found` is not the bound process; empty if it is, or if none is bound yet."""
        known = self._bindings.get(endpoint)
        if known is None or known.meant != meant:
            return ""
        if known.process is None:
            return "an earlier agent realized this revision, and nothing says which process was meant"
        if known.process.boot != found.boot:
            return "the host was started again since this revision was realized, and process ids were assigned anew"
        if known.process.started != found.started:
            return "the process that this revision meant has ended, and another one has its id now"
        if known.process != found:
            return "the process is in another network namespace than when this revision was realized"
        return ""

    def bind(self, endpoint: str, meant: str, process: Process) -> None:
        """Bind an endpoint to a process."""
        if self._bindings.get(endpoint) != Binding(meant, process):
            self._bindings[endpoint] = Binding(meant, process)
            self._changed.add(endpoint)

    def forget_unless(self, wanted: Callable[[str], bool]) -> None:
        """Forget the endpoints that are no longer wanted."""
        for endpoint in [one for one in self._bindings if not wanted(one)]:
            del self._bindings[endpoint]
            self._changed.add(endpoint)

    def take_changed(self) -> dict[str, Binding | None]:
        """Return the bindings that changed since the last call, to be written to disk; None: no longer bound."""
        changed, self._changed = self._changed, set()
        return {endpoint: self._bindings.get(endpoint) for endpoint in changed}

    def put_back(self, endpoints: Iterable[str]) -> None:
        """Mark bindings as changed again: they could not be written."""
        self._changed.update(endpoints)
