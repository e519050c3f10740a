"""Notices at once when network namespaces appear where documents name them: in /run/netns, or in any other folder.

`ip netns add` creates a file and mounts the namespace on it a moment later, which inotify does not report; a process
exists before it has a namespace of its own. So a name that appeared is checked a few times, at growing intervals.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from pathlib import Path

from agent.core.model.process_bindings import is_of_process
from agent.datapath.net.inotify import Inotify
from agent.datapath.net.namespaces import NAMED, namespace_path

_NAMED = NAMED.resolve()
LOOKS = (0.0, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64)
"""Seconds before each check of a name that appeared and is not a tenant's namespace yet."""
PROCESS_LOOKS = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2)
"""The same for a process, whose start causes no event: counted from the failure of the document that names it."""


class NamespaceWatch:
    """The namespaces that an agent waits for, and those in /run/netns that it uses, in one event loop."""

    def __init__(self, used: Callable[[], Iterable[str]]) -> None:
        """Ask `used` for the namespaces that are in use when one appears: it may be made anew under its name."""
        self._used = used
        self._waiting: dict[Path, str] = {}
        self._missing: set[Path] = set()
        """Folders that do not exist yet."""
        self._found: set[str] = set()
        self._looks: dict[str, asyncio.TimerHandle] = {}
        """The next check of each name that appeared, one at a time."""
        self._changed = asyncio.Event()
        self._inotify = Inotify()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._inotify.fileno(), self._readable)
        self._set_watches()

    def close(self) -> None:
        """End all watches."""
        for look in self._looks.values():
            look.cancel()
        self._loop.remove_reader(self._inotify.fileno())
        self._inotify.close()

    def set_waiting(self, namespaces: Iterable[str]) -> None:
        """Wait for these namespaces, as documents spell them."""
        before, self._waiting = self._waiting, {_path(one): one for one in namespaces}
        self._set_watches()
        for path in self._waiting.keys() - before.keys():
            name = self._waiting[path]
            self._look(name, PROCESS_LOOKS if is_of_process(name) else LOOKS)  # it may have appeared already

    async def wait(self) -> set[str]:
        """Wait until namespaces appear that are waited for or used, and return them."""
        await self._changed.wait()
        self._changed.clear()
        found, self._found = self._found, set()
        return found

    def _look(self, name: str, pauses: tuple[float, ...]) -> None:
        if name in self._looks:
            self._looks.pop(name).cancel()
        if pauses:
            self._looks[name] = self._loop.call_later(pauses[0], self._look_now, name, pauses[1:])

    def _look_now(self, name: str, left: tuple[float, ...]) -> None:
        del self._looks[name]
        if _is_tenants(_path(name)):
            self._found.add(name)
            self._changed.set()
        else:
            self._look(name, left)

    def _readable(self) -> None:
        names: set[str] = set()
        anew = False
        for folder, name in self._inotify.read():
            path = folder / name
            if not name or any(path == one or path in one.parents for one in self._missing):
                anew = True
            elif path in self._waiting:
                names.add(self._waiting[path])
            elif folder == _NAMED:
                names.update(one for one in self._used() if one.endswith(name) and _path(one) == path)
        if anew:
            self._set_watches()
            names.update(self._waiting.values(), self._used())
        for one in names:
            self._look(one, LOOKS)

    def _set_watches(self) -> None:
        """Watch every folder, or its nearest existing parent."""
        self._missing = set()
        for folder in {_NAMED, *(path.parent for path, name in self._waiting.items() if not is_of_process(name))}:
            while not self._inotify.watch(folder):
                self._missing.add(folder)
                above = next((one for one in folder.parents if self._inotify.watch(one)), None)
                if above is None or not folder.is_dir():
                    break  # else it was created between the two watches


def _path(namespace: str) -> Path:
    """Return where a namespace appears, with one path per folder, as the kernel watches each folder once."""
    try:
        path = namespace_path(namespace)
    except OSError:
        return _NAMED
    return path if is_of_process(namespace) else path.parent.resolve() / path.name


def _is_tenants(path: Path) -> bool:
    """Return whether a path leads to a namespace other than the agent's own: all are files of one file system."""
    try:
        found, own = path.stat(), Path("/proc/self/ns/net").stat()
    except OSError:
        return False
    return found.st_dev == own.st_dev and found.st_ino != own.st_ino
