"""What documents ask of the kernel: map entries, endpoints' veths, functions' programs, and where transit XDP is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

from agent.core.model.map_layout import MapName
from agent.core.model.offloads import NO_GSO, Sending
from protocol.documents import FunctionProgram


@dataclass(frozen=True, slots=True)
class Veth:
    """One endpoint's veth pair, as it should be.

    `ifindex` is chosen by the plan (host side). `namespace` is a name under /run/netns, an absolute path, or a pid in
    decimal digits. Addresses are text with a prefix length; MACs are 6 bytes. `mtu` is that of the endpoint's side.
    The host side's is as large as the tenant could make the endpoint's: the kernel silently drops frames longer than
    the receiving side's MTU (net/core/dev.c: is_skb_forwardable), but the program has to see and answer them.
    `revision` is the document's if the namespace is named by a process id, which each revision states anew; else 0.
    `sending` decides which offloads the endpoint's side has.
    """

    endpoint: str
    ifname: str
    ifindex: int
    namespace: str
    peer_name: str
    peer_mac: bytes
    mtu: int
    addresses: tuple[str, ...]
    gateways: tuple[str, ...]
    revision: int = 0
    sending: Sending = NO_GSO


class FunctionBuild(NamedTuple):
    """Programs of a function as they are loaded: see `Function` for the fields."""

    content: str
    closed: bool
    vpc: str = ""


@dataclass(frozen=True, slots=True)
class Function:
    """One function's program in its slot of a stage point, with its configuration.

    `point` is a number of `agent.core.functions.stages.Point`, `slot` is 0 to 7. `content` is the hash of the program:
    the same program has the same everywhere; empty if a file could not be read. With `on_fault_closed`, a packet with
    which the program fails is dropped. With a `vpc`, it is limited to that VPC, and learns no underlay addresses.
    `retained` is the build of the version before, which stays loaded beside it.
    """

    id: str
    point: int
    slot: int
    content: str
    program: FunctionProgram
    configuration: bytes = b""
    on_fault_closed: bool = False
    vpc: str = ""
    retained: FunctionBuild | None = None

    @property
    def build(self) -> FunctionBuild:
        """What tells its programs in the kernel from those of another version."""
        return FunctionBuild(self.content, self.on_fault_closed, self.vpc)

    def same_version(self, other: Function) -> bool:
        """Return whether two functions do the same with packets."""
        return (self.build, self.configuration) == (other.build, other.configuration)

    @property
    def place(self) -> FunctionPlace:
        """What tells it from others: where a function moves to another point, it is at both for a moment."""
        return self.id, self.point


FunctionPlace: TypeAlias = tuple[str, int]
"""A function's id and the number of a stage point."""


@dataclass(frozen=True, slots=True)
class RolledBack:
    """A version of a function that failed soon after it had replaced another one, which runs in its place.

    `revision` is that of its document, `digest` tells it from other versions; it failed for `faults` packets within
    `seconds`.
    """

    revision: int
    digest: str
    content: str
    faults: int
    seconds: float


@dataclass(frozen=True, slots=True)
class FunctionHistory:
    """The last version of a function that did not fail soon, and the newer one in whose place it runs, if any."""

    fallback: Function
    rolled_back: RolledBack | None = None


Entries = dict[MapName, dict[bytes, bytes]]


@dataclass(slots=True)
class DesiredEntries:
    """The map entries, veths and programs that documents ask for. Keys and values are packed by `map_layout`."""

    entries: Entries = field(default_factory=dict)
    veths: dict[str, Veth] = field(default_factory=dict)
    transit: frozenset[int] = frozenset()
    """The interfaces that transit XDP belongs on, by ifindex."""
    functions: dict[FunctionPlace, Function] = field(default_factory=dict)

    def add(self, other: DesiredEntries) -> None:
        """Add the entries of other documents."""
        if other is self:
            return
        for name, entries in other.entries.items():
            self.map(name).update(entries)
        self.veths.update(other.veths)
        self.transit |= other.transit
        self.functions.update(other.functions)

    def map(self, name: MapName) -> dict[bytes, bytes]:
        """Return one map's entries, to be filled."""
        return self.entries.setdefault(name, {})
