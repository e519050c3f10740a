"""Requests to a host, and its replies. An error is a NATS service error with a code and one line."""

from __future__ import annotations

from typing import Annotated, NamedTuple, TypeAlias

import msgspec

from protocol.acknowledgements import Acknowledgement
from protocol.documents import KINDS, Address, Name, Objects
from protocol.status import Counters, Status

MAX_PAGE = 1000
ROUTES = ("same_host", "direct", "bouncer", "divider", "gateway", "none")
PEER_STATES = ("up", "down", "unknown")
ENCAPSULATIONS = ("geneve", "vxlan", "")

Limit = Annotated[int, msgspec.Meta(ge=1, le=MAX_PAGE)]
KindName = Annotated[str, msgspec.Meta(extra_json_schema={"enum": KINDS})]
RouteName = Annotated[str, msgspec.Meta(extra_json_schema={"enum": ROUTES})]
PeerState = Annotated[str, msgspec.Meta(extra_json_schema={"enum": PEER_STATES})]
EncapsulationName = Annotated[str, msgspec.Meta(extra_json_schema={"enum": ENCAPSULATIONS})]


FieldValue: TypeAlias = int | str | list[int]
MapValue: TypeAlias = FieldValue | dict[str, FieldValue]
"""A key or value of a function's map."""


class GetRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Objects of one kind that are in force, `limit` at most: from the beginning, or from a reply's `next` on.

    They come by id; endpoints by the names of their documents, then by id.
    """

    kind: KindName
    after: str = ""
    limit: Limit = 500


class GetReply(Objects, frozen=True):
    """One page; `next` is the `after` of the next one, empty at the end."""

    next: str = ""


class DocumentsRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Documents by name, after `after`."""

    after: str = ""
    limit: Limit = 500


class DocumentsReply(msgspec.Struct, frozen=True):
    """One page of the newest acknowledgement of each document."""

    documents: tuple[Acknowledgement, ...]
    next: str = ""


class PathRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Ask for the path that a packet of this local endpoint would take."""

    endpoint: Name
    destination: Address


class PathFunction(msgspec.Struct, frozen=True):
    """A function that gets the packet, and its stage point."""

    function: str
    point: str


class PathReply(msgspec.Struct, frozen=True):
    """The path according to the maps now.

    `route` is `same_host`, `direct`, `bouncer`, `divider`, `gateway` (which answers on this host) or `none`; `reason`
    says why there is no route: `outside_vpc`, `no_address` (the endpoint has none of that family), or what the packet
    would be dropped for. `hosts` are the droplets' addresses that may be sent to (one is chosen by the flow's hash), by
    tunnels of `encapsulation`: `geneve` or `vxlan`, empty where nothing leaves the host. `age` is the seconds since a
    learnt direct path was last confirmed. `droplets` are the ids of `hosts`, in the same order, and `down` those of
    `hosts` that do not answer now: what is sent there is lost. `functions` are those that get the packet on this host,
    in their order; what they do with it is not foreseen.
    """

    route: RouteName
    hosts: tuple[str, ...] = ()
    learnt: bool = False
    age: float | None = None
    reason: str = ""
    encapsulation: EncapsulationName = ""
    droplets: tuple[str, ...] = ()
    down: tuple[str, ...] = ()
    functions: tuple[PathFunction, ...] = ()


class PeersRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The other hosts' droplets and the paths to them, after `after`."""

    after: str = ""
    limit: Limit = 500


class PeerPath(msgspec.Struct, frozen=True):
    """The state of one path according to its probes.

    `droplet` and `address` are the other end's, `by` is this host's droplet that it starts from. `state` is `up`,
    `down`, or `unknown` for one that never answered; `since` is seconds since the epoch. `round_trip` is in seconds and
    includes the agent's own delay. `configured` is the longest packet that should pass, `carries` the longest that is
    sent, in bytes of the outer IP packet.
    """

    droplet: str
    address: str
    by: str
    state: PeerState
    since: float
    configured: int
    carries: int
    round_trip: float | None = None


class PeersReply(msgspec.Struct, frozen=True):
    """One page, by droplet; `next` is the `after` of the next one."""

    peers: tuple[PeerPath, ...]
    next: str = ""


class PlanReply(msgspec.Struct, frozen=True):
    """What a resync would change in the kernel now, one action per line."""

    actions: tuple[str, ...]


class SweepRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Remove documents that the host keeps though its last complete snapshot did not list them.

    All of `documents` or none: when one of them is not missing from the stream, the answer is an error with code 409.
    With `objects`, what an earlier agent left in the kernel and no document explains is removed too. A request with
    neither is an error with code 400.
    """

    documents: tuple[str, ...] = ()
    objects: bool = False


class SweepReply(msgspec.Struct, frozen=True):
    """The documents that were removed; each is acknowledged as removed, too."""

    documents: tuple[str, ...]


class FunctionMapsRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A function's own maps, and, if `map` names one of them, its entries from the first or from `after` on."""

    function: Name
    map: Annotated[str, msgspec.Meta(max_length=64)] = ""
    after: Annotated[bytes, msgspec.Meta(max_length=256)] = b""
    limit: Limit = 100


class FunctionMap(msgspec.Struct, frozen=True):
    """A map of a function: its type as in its source (`hash`, `lru_hash`, ...), and sizes in bytes.

    `per_cpu` maps have a value for each possible CPU.
    """

    name: str
    type: str
    key_size: int
    value_size: int
    max_entries: int
    per_cpu: bool = False


class FunctionMapEntry(msgspec.Struct, frozen=True):
    """An entry: `values` has one value, or one for each CPU.

    A key or value is a number, a map of fields by name where the program describes them (such as `address.low`; of an
    array of numbers all of them), or bytes as hexadecimal digits.
    """

    key: MapValue
    values: tuple[MapValue, ...]


class FunctionMapsReply(msgspec.Struct, frozen=True):
    """All maps, and one page of entries; `next` is the `after` of the next one, empty at the end.

    In arrays, entries of zeros are left out, so a page may be empty and have a `next`. Entries that come or go
    meanwhile may be missing or come twice.
    """

    maps: tuple[FunctionMap, ...]
    entries: tuple[FunctionMapEntry, ...] = ()
    next: bytes = b""


class FunctionLogRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Ask for what is known of a function's programs."""

    function: Name


class FunctionLogReply(msgspec.Struct, frozen=True):
    """What is known of a function's programs, as text for people.

    `document` lists the function, `revision` is its newest revision with it. `installed` describes what runs now, empty
    if nothing does. `refused` is the output of the compiler or the verifier for the newest revision's program, empty
    if it is not refused, or was refused before the agent's start; a long one is cut at its beginning.
    """

    document: str
    revision: int
    point: str
    installed: str = ""
    refused: str = ""


class Method(NamedTuple):
    """The request and reply types of one verb.

    `request` is None where nothing is asked for. At least one of the fields `needs` must be given and not be empty.
    """

    request: type[msgspec.Struct] | None
    reply: type[msgspec.Struct]
    needs: tuple[str, ...] = ()

    @property
    def takes_an_empty_body(self) -> bool:
        """Return whether a request without a body is complete."""
        if self.request is None:
            return True
        return not self.needs and not any(field.required for field in msgspec.structs.fields(self.request))


METHODS = {
    "status": Method(None, Status),
    "get": Method(GetRequest, GetReply),
    "documents": Method(DocumentsRequest, DocumentsReply),
    "counters": Method(None, Counters),
    "path": Method(PathRequest, PathReply),
    "peers": Method(PeersRequest, PeersReply),
    "plan": Method(None, PlanReply),
    "sweep": Method(SweepRequest, SweepReply, needs=("documents", "objects")),
    "function_maps": Method(FunctionMapsRequest, FunctionMapsReply),
    "function_log": Method(FunctionLogRequest, FunctionLogReply),
}
"""Every verb of `subjects.RPC_VERBS`."""
ERRORS = {
    400: "the request is wrong: the text names the field and what it may be",
    403: "the request came out of a stream or on another subject: ask the host directly",
    404: "there is no such method or object",
    409: "nothing was removed: a document that is to be swept is not missing, or no snapshot is complete yet",
    413: "the answer is larger than a message can be: ask for a smaller page",
    500: "the host could not answer: the text or the host's log says why",
}
"""Codes of `Nats-Service-Error-Code`, and what each means."""
