"""Users' functions on one host: checks their programs, puts them into their slots, and reads back what is there.

The kernel's part of the kind `functions`; `agent/datapath/function_port.py` is the interface.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections import OrderedDict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import structlog

from agent.core.functions.programs import UncheckedProgram, verdict_key
from agent.core.functions.stages import Point, index_of
from agent.core.model.desired_entries import Function, FunctionPlace
from agent.core.model.features import Verdict
from agent.core.model.hooks import Hook
from agent.core.plan.observed import ObservedFunction
from agent.core.plan.remedies import Step
from agent.datapath.bpf import syscall as bpf
from agent.datapath.bpf.compiler import CompiledProgram
from agent.datapath.bpf.syscall import ProgramType
from agent.datapath.functions.install import Target, finished_build, install, remove
from agent.datapath.functions.installed import Build, Slots, builds, current, folders, is_complete
from agent.datapath.functions.load import Place, load, run_on_samples, temporary_maps
from agent.datapath.functions.map_limits import bytes_of_all
from agent.datapath.functions.program_store import ProgramStore
from agent.datapath.functions.reader import FunctionReader
from agent.datapath.functions.record import MAPS, Record, folder_of
from agent.datapath.functions.refusals import CheckError, FunctionError, ObjectError, SourceError
from agent.datapath.functions.user_program import SOCKETS, UserProgram
from agent.datapath.net.threads import in_thread
from agent.errors import kernel_step

MOST_LOGS = 64
"""Programs whose compiler's or verifier's output is kept: those refused last."""
_T = TypeVar("_T")
_TYPES = {Hook.XDP: ProgramType.XDP, Hook.TC: ProgramType.SCHED_CLS}

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Host:
    """What functions need of the agent's own programs and maps: the shells by hook in the order of the points."""

    root: Path
    """The folder of the functions' pins, in a bpf file system."""
    instance: str
    slots: Slots
    shells: Mapping[Hook, Sequence[CompiledProgram]]
    processes: Mapping[Hook, CompiledProgram]
    """The program in the slot of a function in a process, by hook."""
    maps: Mapping[str, int]
    """Open descriptors by name."""
    max_instructions: int


class Functions:
    """The functions of one agent."""

    def __init__(self, host: Host, store: ProgramStore) -> None:
        self._host = host
        self._store = store
        self._logs: OrderedDict[str, str] = OrderedDict()
        self._not_checked: OrderedDict[str, Exception] = OrderedDict()
        """What was last said of programs that are refused or could not be checked, by the key of the verdict."""
        self.reader = FunctionReader(host.root, host.slots, store, self.log_of)

    async def check(self, programs: Sequence[UncheckedProgram]) -> Mapping[str, Verdict]:
        """Compile, check and load programs, and run them on sample frames; return their verdicts by key.

        One that could not be checked for another reason than itself is left out.
        """
        found: dict[str, Verdict] = {}
        for one in programs:
            self._not_checked.pop(one.key, None)
            try:
                content, program = await self._store.find(one.program)
                await in_thread(self._try, program, one)
                found[one.key] = Verdict(content, map_bytes=bytes_of_all(program.maps, bpf.possible_cpus()))
            except FunctionError as error:
                _keep(self._not_checked, one.key, error)
                _keep(self._logs, one.key, error.log)
                found[one.key] = Verdict("", str(error))
            except OSError as error:
                _keep(self._not_checked, one.key, error)
                if not one.program.file or error.errno not in (errno.ENOENT, errno.EPERM, errno.ELOOP):
                    log.warning("program_not_checked", program=one.key, reason=str(error))
                    continue
                found[one.key] = Verdict("", f"{error.strerror}: {error.filename}")
        return found

    def map_bytes(self, contents: Iterable[str]) -> dict[str, int]:
        """Return what the maps of programs take when they are full, by content, of those that are kept."""
        found, cpus = {}, bpf.possible_cpus()
        for content in contents:
            with contextlib.suppress(FunctionError, OSError):  # by rules that are newer than what is kept
                if (kept := self._store.kept(content)) is not None:
                    found[content] = bytes_of_all(kept.maps, cpus)
        return found

    def log_of(self, key: str) -> str:
        """Return the whole output of the compiler or the verifier for a refused program, by its verdict's key."""
        return self._logs.get(key, "")

    async def ensure(self, function: Function) -> None:
        """Put a function into its slot, or repair it; OSError if that fails, the slot then keeps what it had.

        Compiles nothing: EINPROGRESS if the program has to be checked again first, as it is neither loaded nor kept.
        """
        name = f"function {function.id}"
        with _as_kernel_error(name), kernel_step(Step.INSTALL_FUNCTION, name):
            wanted = _record_of(function, 0)
            target = self._target(function.point, function.slot, closed=function.on_fault_closed, peer=not function.vpc)
            program = None
            if await in_thread(finished_build, target, wanted) is None:
                key = verdict_key(function.program, Point(function.point).label)
                if (error := self._not_checked.pop(key, None)) is not None:
                    raise error
                program = await self._store.find_kept(function.program, function.content)
                wanted = _record_of(function, len(program.maps))
            await in_thread(install, target, wanted, program, function.configuration, function.retained)

    async def remove(self, id_: str, point: int, slot: int) -> None:
        """Empty a slot and remove the pins, but those of the function in another slot."""
        with kernel_step(Step.REMOVE_FUNCTION, f"function {id_}"):
            await in_thread(remove, self._host.root, self._host.slots, id_, point, slot)

    def is_filled(self, point: int, slot: int) -> bool:
        """Return whether a slot has a program at every hook in use."""
        return all(self._host.slots.programs_at(index_of(point, slot)).values())

    async def observe(self, only: Collection[FunctionPlace] | None = None) -> Mapping[FunctionPlace, ObservedFunction]:
        """Read functions back, all or some; OSError if they could not all be read."""
        return await in_thread(self._observe, only)

    def _observe(self, only: Collection[FunctionPlace] | None) -> dict[FunctionPlace, ObservedFunction]:
        root, slots = self._host.root, self._host.slots
        places = folders(root) if only is None else [folder_of(root, id_, point) for id_, point in only]
        seen = (_observed(folder, builds(folder, slots), slots) for folder in places)
        return {(one.id, one.point): one for one in seen if one is not None}

    def is_process(self, id_: str, point: int) -> bool:
        """Return whether a function that is pinned is one in a process."""
        found = current(builds(folder_of(self._host.root, id_, point), self._host.slots), self._host.slots)
        return found is not None and (found.folder / MAPS / SOCKETS).exists()

    def open_maps(self, function: Function, names: Iterable[str]) -> dict[str, int]:
        """Open maps of a function that is in its slot; the caller closes the descriptors. OSError if they are gone."""
        folder = folder_of(self._host.root, function.id, function.point)
        found = current(builds(folder, self._host.slots), self._host.slots)
        if found is None:
            raise FileNotFoundError(f"the maps of function {function.id} are not pinned")
        return {name: bpf.open_pin(found.folder / MAPS / name) for name in names}

    def _try(self, program: UserProgram, wanted: UncheckedProgram) -> None:
        """Load a program for every hook and run it on sample frames, with maps that are only for this."""
        with temporary_maps(program, wanted.configuration) as maps:
            if program.instructions:
                run_on_samples(program, wanted.point, maps)
            target = self._target(wanted.point, 0, closed=False)
            for place in target.places.values():
                os.close(load(program, place, {**target.maps, **maps}, target.max_instructions))

    def _target(self, point: int, slot: int, *, closed: bool, peer: bool = True) -> Target:
        host = self._host
        places = {
            hook: Place(shells[point - 1], _TYPES[hook], index_of(point, slot), closed, host.processes[hook], peer)
            for hook, shells in host.shells.items()
        }
        return Target(host.root, host.instance, host.slots, places, host.maps, host.max_instructions)


def _keep(known: OrderedDict[str, _T], key: str, value: _T) -> None:
    known[key] = value
    known.move_to_end(key)
    while len(known) > MOST_LOGS:
        known.popitem(last=False)


def _record_of(function: Function, maps: int) -> Record:
    closed, length = function.on_fault_closed, len(function.configuration)
    return Record(function.id, function.point, function.slot, function.content, closed, length, maps, function.vpc)


def _observed(folder: Path, found: list[Build], slots: Slots) -> ObservedFunction | None:
    build = current(found, slots)
    if build is None:
        return None
    record = build.record
    configuration, complete = b"", False
    with contextlib.suppress(FileNotFoundError):
        configuration = build.configuration()
        complete = is_complete(folder, build, found, slots)
    older = frozenset(one.version for one in found if one is not build)
    return ObservedFunction(
        *(record.id, record.point, record.slot, record.content, configuration, record.closed, complete),
        vpc=record.vpc,
        older=older,
    )


@contextlib.contextmanager
def _as_kernel_error(name: str) -> Iterator[None]:
    """Turn a refusal of a program, which was checked before, into an error with the step at which it came."""
    steps = {SourceError: Step.COMPILE_FUNCTION, ObjectError: Step.CHECK_FUNCTION, CheckError: Step.CHECK_FUNCTION}
    try:
        yield
    except FunctionError as error:
        with kernel_step(steps.get(type(error), Step.LOAD_FUNCTION), name):
            raise OSError(errno.EINVAL, str(error)) from error
