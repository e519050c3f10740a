"""A kind of object that Droplet does not have, in one module: beacons, which have a number on a host.

A beacon is an address in a network. The programs would find it by its number, so no two may have one number. It has
everything that a kind can have: keys, references, dependents, errors against the resolved state, entries, columns.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from enum import StrEnum
from typing import Annotated

import msgspec
import pytest

from agent.core.kinds import catalogue
from agent.core.kinds.catalogue import Kinds
from agent.core.kinds.kind import Column, Key, Kind, key_of
from agent.core.model.desired_entries import DesiredEntries
from agent.core.model.map_layout import U32
from agent.core.model.resolved_state import ResolvedState
from protocol import codec, rpc, rules
from protocol.addresses import contains, parse_address, parse_cidr
from protocol.codec import DocumentCodec
from protocol.documents import Address, Document, Name, Referred
from protocol.errors import ErrorCode, FieldError
from protocol.rpc import GetReply
from protocol.rules import Rules

# What would stand in protocol/: a type, a field in `Objects`, rules.


class Beacon(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """An address that is found by a number."""

    id: Name
    network: Referred
    number: Annotated[int, msgspec.Meta(ge=1, le=1000)]
    address: Address
    colour: str = "white"


class BeaconDocument(Document, frozen=True, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """A document that may also list beacons."""

    beacons: tuple[Beacon, ...] = ()


class BeaconReply(GetReply, frozen=True):
    """A page of objects that may also be beacons."""

    beacons: tuple[Beacon, ...] = ()


def check_beacons(beacons: tuple[Beacon, ...]) -> Iterator[FieldError]:
    for index, beacon in enumerate(beacons):
        try:
            parse_address(beacon.address)
        except ValueError as error:
            yield FieldError(f"beacons[{index}].address", ErrorCode.INVALID, str(error))


# What would stand in agent/core: the map's name and layout, the module of the kind.


class BeaconMap(StrEnum):
    BEACONS = "beacons"


BEACON = struct.Struct("=I16s")
"""struct beacon { u32 vni; address }."""


class Beacons(Kind[Beacon]):
    """A beacon is one entry of `beacons`, by its number."""

    name = "beacons"
    singular = "beacon"
    referable = False
    keys = (key_of("beacon", "id"), Key("number", "number", lambda beacons: [str(one.number) for one in beacons]))
    maps = (BeaconMap.BEACONS,)
    columns = (
        Column[Beacon]("BEACON", lambda one: one.id),
        Column[Beacon]("NETWORK", lambda one: one.network),
        Column[Beacon]("NUMBER", lambda one: str(one.number)),
        Column[Beacon]("ADDRESS", lambda one: one.address),
        Column[Beacon]("COLOUR", lambda one: one.colour, "white"),
    )

    def references(self, objects: Sequence[Beacon]) -> Mapping[str, Set[str]]:
        return {"networks": {one.network for one in objects}}

    def validate(
        self, objects: Sequence[Beacon], resolved: ResolvedState, *, was_in_force: bool
    ) -> Iterable[FieldError]:
        for index, beacon in enumerate(objects):
            cidrs = resolved.networks[beacon.network].cidrs
            if not any(contains(parse_cidr(text), parse_address(beacon.address)) for text in cidrs):
                message = f"{beacon.address} is not in network {beacon.network!r} ({', '.join(cidrs)})"
                yield FieldError(f"beacons[{index}].address", ErrorCode.OUT_OF_RANGE, message)

    def render(self, objects: Sequence[Beacon], resolved: ResolvedState, into: DesiredEntries, revision: int) -> None:
        entries = into.map(BeaconMap.BEACONS)
        for beacon in objects:
            vpc = resolved.vpcs[resolved.networks[beacon.network].vpc]
            entries[U32.pack(beacon.number)] = BEACON.pack(vpc.vni, parse_address(beacon.address).rjust(16, b"\0"))


BEACONS = Beacons()


@pytest.fixture
def beacons(monkeypatch: pytest.MonkeyPatch) -> None:
    """Add the kind: a document's type and that of a reply with one more field, its rules, its place among the kinds."""
    monkeypatch.setattr(codec, "DOCUMENTS", DocumentCodec(BeaconDocument))
    monkeypatch.setitem(rpc.METHODS, "get", rpc.METHODS["get"]._replace(reply=BeaconReply))
    monkeypatch.setitem(rules.RULES, BEACONS.name, Rules(check_beacons))
    monkeypatch.setattr(catalogue, "KINDS", Kinds(BeaconDocument, *catalogue.KINDS, BEACONS))
