"""Configuration documents: the objects that the management plane describes, and the document that lists them.

A document is the newest message on one subject. It owns the objects that it lists, and is applied whole or not at all.
Fields that are not listed here are refused on decoding (`protocol.codec.decode_document`).
"""

from __future__ import annotations

from typing import Annotated, Literal, get_args

import msgspec

from protocol.addresses import MAC_PATTERN, MAX_VNI
from protocol.drop_reasons import DROP_REASONS

MAX_MEMBERS = 16
"""Bouncers of one network, dividers of one VPC."""
LARGEST_LABEL = (1 << 32) - 1
MAX_SCOPE = 1000
"""Ids of each kind in one function's scope."""
MAX_QUEUES = 16
"""Queues of one function in a process."""
MAX_SOURCE, MAX_OBJECT, MAX_CONFIGURATION = 64 << 10, 256 << 10, 4096
"""Bytes of a function's source, object file and configuration in a document; files of a host may be longer."""

NAME_PATTERN = r"[a-z0-9][a-z0-9._-]{0,62}"
_NAME_WORDS = "Lower-case letters, digits, dots, dashes and underscores; at most 63."
_MAC_WORDS = "A unicast Ethernet address in lower case."

Name = Annotated[str, msgspec.Meta(pattern=rf"^{NAME_PATTERN}$(?!\n)", description=_NAME_WORDS)]
Referred = Annotated[str, msgspec.Meta(min_length=1, max_length=63, description="The id of an object.")]
Host = Annotated[
    str,
    msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$(?!\n)", description="A host's name: one token of a subject."),
]
Address = Annotated[
    str, msgspec.Meta(max_length=45, description="An IPv4 or IPv6 address in canonical spelling (RFC 5952).")
]
CidrText = Annotated[str, msgspec.Meta(max_length=49, description="ADDRESS/PREFIX without host bits.")]

# Endpoints come by the hundred thousand: `protocol.rules` holds their texts to these patterns, many at a time.
EndpointName = Annotated[str, msgspec.Meta(extra_json_schema={"pattern": f"^{NAME_PATTERN}$"}, description=_NAME_WORDS)]
EndpointReferred = Annotated[
    str, msgspec.Meta(extra_json_schema={"minLength": 1, "maxLength": 63}, description="The id of an object.")
]
EndpointAddress = Annotated[
    str, msgspec.Meta(extra_json_schema={"maxLength": 45}, description="An IPv4 or IPv6 address in canonical spelling.")
]
EndpointMac = Annotated[str, msgspec.Meta(extra_json_schema={"pattern": f"^{MAC_PATTERN}$"}, description=_MAC_WORDS)]
Vni = Annotated[int, msgspec.Meta(ge=1, le=MAX_VNI, description="A Geneve VNI: 24 bits.")]
Members = Annotated[tuple[Referred, ...], msgspec.Meta(max_length=MAX_MEMBERS, description="Ids of droplets.")]
Scope = Annotated[tuple[Referred, ...], msgspec.Meta(max_length=MAX_SCOPE, description="Ids of objects.")]
OnePerFamily = Annotated[tuple[CidrText, ...], msgspec.Meta(min_length=1, max_length=2)]


class _Object(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """The field that all objects share: an id, unique within its kind."""

    id: Name


class Droplet(_Object, frozen=True, forbid_unknown_fields=True, gc=False):
    """A host's address in the underlay, on one of its uplinks.

    `udp_checksum` says whether tunnel packets to and from it carry UDP's checksum over IPv6 (RFC 6936); over IPv4 they
    go without (RFC 8926, section 3.3), and `zero` may not be said there.
    """

    host: Host
    address: Address
    udp_checksum: Literal["full", "zero"] = "full"


class Vpc(_Object, frozen=True, forbid_unknown_fields=True, gc=False):
    """A tenant's flat address space. `dividers` are droplets that know every network of it."""

    vni: Vni
    cidrs: OnePerFamily
    dividers: Members = ()


class Network(_Object, frozen=True, forbid_unknown_fields=True, gc=False):
    """A subnet of a VPC. `bouncers` are droplets that know every endpoint of it.

    `gateways` holds one address per CIDR, in the same order; when it is empty, each CIDR's first host address. None may
    be the first address of its CIDR, or over IPv4 the last, where there are more than two.
    `encapsulation` is that of the tunnels to its endpoints' droplets: `vxlan` is for peers that speak only that.
    `routing` says how packets between it and the VPC's other networks go: straight, or always through a divider.
    `labels` asks other hosts to send the labels of endpoints with their packets to this network; not for `vxlan`.
    """

    vpc: Referred
    cidrs: OnePerFamily
    bouncers: Members = ()
    gateways: Annotated[tuple[Address, ...], msgspec.Meta(max_length=2)] = ()
    encapsulation: Literal["geneve", "vxlan"] = "geneve"
    routing: Literal["direct", "divider"] = "direct"
    labels: bool = False


class Attachment(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """What an endpoint is attached to on its host.

    `kind` `veth`: the agent makes an interface in a network namespace. `namespace`, which is required then, is a name
    under /run/netns, an absolute path, or a process id in decimal digits. `kind` `function`: a function endpoint, whose
    packets go to its functions at `to_endpoint`; it has no interface, so no other field is allowed.
    """

    namespace: Annotated[
        str, msgspec.Meta(pattern=r"^(/[^\x00]+|[A-Za-z0-9][A-Za-z0-9._-]*)$(?!\n)", max_length=255)
    ] = ""
    interface: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,14}$(?!\n)")] = "eth0"
    kind: Literal["veth", "function"] = "veth"

    @property
    def is_function(self) -> bool:
        """Whether the endpoint is a function endpoint."""
        return self.kind == "function"


class Endpoint(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """A tenant's interface in a network, on one droplet, with one address of each family at most.

    `attachment` is needed on that droplet's host.
    `dscp` is its class: the DSCP of the tunnel packets that carry what it sends (RFC 2983, the pipe model).
    `label` says to functions at receivers what it is, 0 for nothing; networks with `labels` get it.
    """

    id: EndpointName
    network: EndpointReferred
    droplet: EndpointReferred
    addresses: Annotated[tuple[EndpointAddress, ...], msgspec.Meta(min_length=1, max_length=2)]
    mac: EndpointMac
    attachment: Attachment | None = None
    dscp: Annotated[int, msgspec.Meta(ge=0, le=63)] = 0
    label: Annotated[int, msgspec.Meta(ge=0, le=LARGEST_LABEL)] = 0


class FunctionScope(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """Whose packets a function gets: those of any of these. Empty: of its whole VPC if it names one, else of the host.

    Endpoints count while they are on this host; they need not exist yet.
    """

    vpcs: Scope = ()
    networks: Scope = ()
    endpoints: Scope = ()


class FunctionProcess(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """A process that is a function: whichever one runs as this user (a name or a number of the host's) and asks first.

    It asks at a Unix socket of the agent's, `NAME.sock` in the folder of the host's settings, with the function's id.
    It gets so many `queues`; all packets of a flow go to one. At `dropped` it sees packets that are dropped for one of
    the `reasons`, or all if there are none. If `handed` is set, it gets only packets that a program before it in the
    chain handed over.
    """

    user: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    queues: Annotated[int, msgspec.Meta(ge=1, le=MAX_QUEUES)] = 1
    reasons: Annotated[
        tuple[Annotated[str, msgspec.Meta(extra_json_schema={"enum": list(DROP_REASONS)})], ...],
        msgspec.Meta(max_length=len(DROP_REASONS), description="Reasons for drops, as telemetry names them."),
    ] = ()
    handed: bool = False


class FunctionProgram(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """A function's program, in exactly one form; `bpf/stage.h` is its contract.

    `source`: C source of `stage_function`. `object`: a BPF object file (ELF) with that function. `file`: the name of
    either in the host's folder of functions, `NAME.c` or `NAME.o`. `process`: no program but a process,
    which gets the packets over AF_XDP sockets. Each host's settings say which forms it accepts.
    """

    source: Annotated[str, msgspec.Meta(max_length=MAX_SOURCE)] = ""
    object: Annotated[bytes, msgspec.Meta(max_length=MAX_OBJECT)] = b""
    file: Annotated[str, msgspec.Meta(max_length=255)] = ""
    process: FunctionProcess | None = None


class Function(_Object, frozen=True, forbid_unknown_fields=True, gc=False):
    """A program of the user's that packets in its scope pass at one stage point.

    Functions of one point run by `order`, then by id. `vpc` limits it to packets of that VPC. `configuration` is what
    the program reads, and can change while it runs. `on_fault` says what becomes of a packet with which the program
    fails: `open` lets it go on, `closed` drops it.
    """

    point: Literal["from_endpoint", "to_endpoint", "forwarded", "from_underlay", "passed", "dropped"]
    program: FunctionProgram
    order: Annotated[int, msgspec.Meta(ge=0, le=1000)] = 0
    vpc: Annotated[str, msgspec.Meta(max_length=63, description="The id of a VPC; empty for none.")] = ""
    scope: FunctionScope = FunctionScope()
    configuration: Annotated[bytes, msgspec.Meta(max_length=MAX_CONFIGURATION)] = b""
    on_fault: Literal["open", "closed"] = "open"


class Objects(msgspec.Struct, frozen=True):
    """Objects by kind, in the order in which one kind refers to another: what documents and replies list."""

    droplets: tuple[Droplet, ...] = ()
    vpcs: tuple[Vpc, ...] = ()
    networks: tuple[Network, ...] = ()
    endpoints: tuple[Endpoint, ...] = ()
    functions: tuple[Function, ...] = ()


class Document(Objects, frozen=True, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """The content of one configuration subject: the objects that it owns, by kind."""


def object_types(listing: type[Objects]) -> dict[str, type[msgspec.Struct]]:
    """Return the type of the objects in each field of a document's type, in the order of the fields."""
    return {field.name: get_args(field.type)[0] for field in msgspec.structs.fields(listing)}


KINDS = tuple(object_types(Document))
"""The kinds of object, in the order in which one refers to another."""
