"""Answers queries from the desired state, the kernel's maps and the ack tracker. Only `sweep` changes anything."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from agent.bus.rpc import MAX_WORD, RpcError, unknown_method
from agent.core.config import paging
from agent.core.config.desired_state import Desired
from agent.core.config.paging import Order
from agent.core.config.truncation import listed
from agent.core.kinds import catalogue
from agent.core.kinds.kind import Kind
from agent.core.model.endpoint_slots import IFINDEX_BASE
from agent.core.model.map_layout import mapped
from agent.core.plan.observed import ObservationError
from agent.datapath.kernel import Kernel
from agent.probe.prober import Prober
from agent.reconcile.acknowledgements import acknowledgement
from agent.reconcile.reconciler import Reconciler
from agent.reconcile.resync import Resync
from agent.report.function_queries import function_log, function_maps, path_functions
from agent.report.status_messages import peer_path
from agent.report.trace import TraceInput, trace
from protocol import codec
from protocol.addresses import contains, parse_address, parse_cidr
from protocol.documents import Endpoint
from protocol.errors import DocumentError
from protocol.rpc import (
    METHODS,
    DocumentsReply,
    DocumentsRequest,
    FunctionLogRequest,
    FunctionMapsRequest,
    GetRequest,
    PathFunction,
    PathReply,
    PathRequest,
    PeerPath,
    PeersReply,
    PeersRequest,
    PlanReply,
    SweepReply,
    SweepRequest,
)
from protocol.status import Counters, Status

_Request = TypeVar("_Request", bound=msgspec.Struct)


class _Nothing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A request without fields: an empty body or an empty map."""


class Queries:
    """Answers queries: `ask` dispatches to one method per verb."""

    def __init__(
        self,
        reconciler: Reconciler,
        resync: Resync,
        kernel: Kernel,
        prober: Prober,
        status: Callable[[], Status],
        counters: Callable[[], Counters],
        now: Callable[[], float],
    ) -> None:
        self._reconciler = reconciler
        self._resync = resync
        self._kernel = kernel
        self._prober = prober
        self._status = status
        self._counters = counters
        self._now = now
        self._pages: dict[str, Order] = {}

    async def ask(self, verb: str, body: bytes) -> bytes:
        """Return the answer to a query as MessagePack, or raise RpcError."""
        match verb:
            case "status":
                _decode(body, _Nothing)
                return codec.encode(self._status())
            case "counters":
                _decode(body, _Nothing)
                return codec.encode(self._counters())
            case "get":
                return codec.encode(self._get(_decode(body, GetRequest)))
            case "documents":
                return codec.encode(self._documents(_decode(body, DocumentsRequest)))
            case "path":
                return codec.encode(self._path(_decode(body, PathRequest)))
            case "peers":
                return codec.encode(self._peers(_decode(body, PeersRequest)))
            case "plan":
                _decode(body, _Nothing)
                return codec.encode(await self._plan())
            case "sweep":
                return codec.encode(await self._sweep(_decode(body, SweepRequest)))
            case "function_maps" | "function_log":
                return codec.encode(await self._of_function(verb, body))
        raise unknown_method(verb)

    @property
    def _desired(self) -> Desired:
        return self._reconciler.desired

    def _get(self, request: GetRequest) -> msgspec.Struct:
        kinds = catalogue.KINDS.by_name
        kind = kinds.get(request.kind)
        if kind is None:
            raise RpcError(400, f"kind: unknown kind {request.kind[:MAX_WORD]!r}; known kinds are {', '.join(kinds)}")
        found, following = self._page(kind, request)
        return METHODS["get"].reply(**{kind.name: tuple(found), "next": following})

    def _page(self, kind: Kind[Any], request: GetRequest) -> tuple[list[Any], str]:
        """Return one page of objects in force, and the cursor of the next one."""
        if not kind.referable:
            return paging.in_documents(kind, self._desired.documents, request.after, request.limit)
        objects = self._desired.resolved.objects.get(kind.name, {})
        order = self._pages.setdefault(kind.name, Order())
        ids, following = order.page(objects, request.after, request.limit)
        return [objects[id_] for id_ in ids], following

    def _documents(self, request: DocumentsRequest) -> DocumentsReply:
        names, following = paging.page(self._desired.documents.names(), request.after, request.limit)
        now, acknowledged_at = self._now(), self._reconciler.acknowledgements.tracker.acknowledged_at
        answers = tuple(
            acknowledgement(self._desired.status(name), acknowledged_at(name) or now, None) for name in names
        )
        return DocumentsReply(answers, next=following)

    def _path(self, request: PathRequest) -> PathReply:
        try:
            destination = parse_address(request.destination)
        except ValueError as error:
            raise RpcError(400, f"destination: {error}") from None
        source = self._local_endpoint(request.endpoint)
        resolved = self._desired.resolved
        vpc = resolved.vpcs[resolved.networks[source.network].vpc]
        if not any(contains(parse_cidr(text), destination) for text in vpc.cidrs):
            return PathReply("none", reason="outside_vpc")
        own = (parse_address(text) for text in source.addresses)
        address = next((one for one in own if len(one) == len(destination)), None)
        if address is None:
            return PathReply("none", reason="no_address")
        found = self._trace_input(source.id, vpc.vni, address, destination)
        answer = self._with_names(trace(found))
        receiver = found.destination.ifindex if found.destination and answer.route == "same_host" else 0
        return msgspec.structs.replace(answer, functions=self._functions_on(source.id, receiver))

    def _functions_on(self, source: str, receiver: int) -> tuple[PathFunction, ...]:
        """Return the functions that get an endpoint's packet; `receiver`: a local endpoint's ifindex, 0 for none."""
        resolved, lookup = self._desired.resolved, self._kernel.queries.lookup_chains
        sent = lookup(resolved.slots[source])[0]
        return path_functions(resolved, sent, lookup(receiver - IFINDEX_BASE)[1] if receiver else 0)

    def _with_names(self, answer: PathReply) -> PathReply:
        """Add the droplets that a packet is sent to, and which of them do not answer."""
        addresses = {text: parse_address(text) for text in answer.hosts}
        return msgspec.structs.replace(
            answer,
            droplets=tuple(self._prober.name(address) for address in addresses.values()),
            down=tuple(text for text, address in addresses.items() if self._prober.is_down(address)),
        )

    def _trace_input(self, source: str, vni: int, address: bytes, destination: bytes) -> TraceInput:
        """Look up the map entries that concern a packet from one address to another."""
        kernel = self._kernel
        sender = kernel.queries.lookup_interface(self._desired.resolved.slots[source])
        if sender is None:
            raise RpcError(500, f"endpoint {source!r} is not in the map of interfaces: see the host's plan")
        direct, endpoint = (
            kernel.queries.lookup_direct(vni, destination),
            kernel.queries.lookup_endpoint(vni, destination),
        )
        learnt_hop = kernel.queries.lookup_next_hop(sender.droplet, direct.host) if direct else None
        host_hop = kernel.queries.lookup_next_hop(sender.droplet, endpoint.host) if endpoint else None
        return TraceInput(
            to=mapped(destination),
            sender=sender.flags,
            direct=direct,
            learnt_hop=learnt_hop.flags if learnt_hop else None,
            destination=endpoint,
            host_hop=host_hop.flags if host_hop else None,
            source_network=kernel.queries.lookup_network(vni, address),
            destination_network=kernel.queries.lookup_network(vni, destination),
            vpc=kernel.queries.lookup_vpc(vni),
        )

    def _local_endpoint(self, id_: str) -> Endpoint:
        documents = self._desired.documents
        owner = self._desired.owner_of_veth(id_)
        held = documents.entries[owner].in_force if owner else None
        if held is None or id_ not in self._desired.resolved.local_slots():
            raise RpcError(404, f"endpoint {id_!r} is not on this host")
        return next(endpoint for endpoint in held.document().endpoints if endpoint.id == id_)

    async def _of_function(self, verb: str, body: bytes) -> msgspec.Struct:
        if verb == "function_maps":
            asked = _decode(body, FunctionMapsRequest)
            return await function_maps(self._desired, self._kernel.function_reader, asked)
        question = _decode(body, FunctionLogRequest)
        return await function_log(self._desired, self._kernel.function_reader, question)

    def _peers(self, request: PeersRequest) -> PeersReply:
        elapsed = self._now() - time.monotonic()
        paths = (peer_path(droplet, by, view, elapsed) for droplet, by, view in self._prober.views())
        found = sorted(((_place(path), path) for path in paths if _place(path) > request.after), key=lambda one: one[0])
        page = found[: request.limit]
        return PeersReply(tuple(path for _, path in page), next=page[-1][0] if len(found) > len(page) else "")

    async def _plan(self) -> PlanReply:
        try:
            return PlanReply(tuple(await self._resync.plan()))
        except ObservationError as error:
            raise RpcError(500, str(error)) from None

    async def _sweep(self, request: SweepRequest) -> SweepReply:
        if not request.documents and not request.objects:
            raise RpcError(
                400, "nothing was removed: name the documents to remove in `documents`, or set `objects` to true"
            )
        names = tuple(sorted(set(request.documents)))
        try:
            refused = await self._reconciler.sweep(names, objects=request.objects)
        except ObservationError as error:
            removed = f"documents removed: {', '.join(names)}; " if names else ""
            raise RpcError(500, f"{removed}{error}; the next resync removes the rest") from None
        if refused is None:
            raise RpcError(409, "nothing was removed: the snapshot of this host's documents is not complete")
        if refused:
            verb = "is" if len(refused) == 1 else "are"
            raise RpcError(
                409, f"nothing was removed: {listed(refused)} {verb} not among the documents that are missing"
            )
        return SweepReply(names)


def _place(path: PeerPath) -> str:
    """Return the sort key and cursor of a path; droplets' names contain no slash."""
    return f"{path.droplet}/{path.by}"


def _decode(body: bytes, into: type[_Request]) -> _Request:
    """Return a request; an empty body leaves every field at its default. Raises RpcError 400 if the body is invalid."""
    fields = msgspec.structs.fields(into)
    needed = [field.name for field in fields if field.required]
    if not body and needed:
        raise RpcError(400, f"the body is empty; send a MessagePack map with {' and '.join(needed)}")
    if not body:
        return into()
    try:
        return codec.decode(body, into)
    except DocumentError as error:
        known = ", ".join(field.name for field in fields)
        takes = f"a MessagePack map, its fields are {known}" if known else "without fields: send an empty body"
        raise RpcError(400, f"{error}; the request is {takes}") from None
