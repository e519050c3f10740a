"""The kinds of object agree with the protocol and with one another, and the machinery around them names none."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest
from test_render import DOCUMENT

from agent.core.config.ownership import Claim, OwnershipIndex, keys
from agent.core.kinds import catalogue
from agent.core.kinds.catalogue import Kinds
from agent.core.kinds.kind import Kind, key_of
from agent.core.model.desired_entries import DesiredEntries
from agent.core.model.resolved_state import ResolvedState
from agent.core.plan.render import pieces
from protocol.asyncapi import describe
from protocol.documents import KINDS, Document, Droplet, object_types
from protocol.rpc import METHODS
from protocol.rules import RULES
from protocol.status import ObjectCounts

ROOT = Path(__file__).parents[2]
LISTED = dict(catalogue.KINDS.listed(DOCUMENT))
SAMPLES = [pytest.param(kind, LISTED[kind], id=kind.name) for kind in catalogue.KINDS]

KIND_MODULES = {f"agent.core.kinds.{name}": name for name in KINDS}
OF_KINDS = "agent/core/kinds"
"""Modules of the kinds, and of what they share: only the catalogue and the interface are scanned."""
PROTOCOL = ("protocol/codec.py", "protocol/json_schema.py", "protocol/rpc.py")
"""Modules outside of the agent to which a new kind means no change."""

MAY_NAME = {
    "agent/core/kinds/catalogue.py": ("droplets endpoints functions networks vpcs", "lists the kinds"),
    "agent/core/model/map_layout.py": ("droplets endpoints networks vpcs", "names of maps in the C sources"),
    "agent/core/model/resolved_state.py": (
        "droplets endpoints functions networks vpcs",
        "typed access for the rest of this list",
    ),
    "agent/core/nexthop/peers.py": ("droplets", "next hops lead to droplets"),
    "agent/core/probe/paths.py": ("droplets", "paths are probed between droplets"),
    "agent/core/probe/unanswered.py": ("droplets networks vpcs", "finds the probed droplets that serve tenants here"),
    "agent/core/uplinks/narrow_uplinks.py": ("droplets endpoints", "compares the MTU of an endpoint and its uplink"),
    "agent/probe/peer_states.py": ("droplets", "names the droplets of probed paths"),
    "agent/reconcile/function_versions.py": ("functions", "versions of functions"),
    "agent/reconcile/shortfalls.py": (
        "droplets endpoints",
        "an uplink lacks the address of one or the MTU of the other",
    ),
    "agent/reconcile/underlay.py": (
        "droplets functions",
        "publishes the droplets in force for prober and next hops; a section of the settings",
    ),
    "agent/core/config/registry.py": ("functions", "documents whose programs are compiled again"),
    "agent/core/functions/quotas.py": ("functions", "limits of functions"),
    "agent/core/functions/chains.py": (
        "droplets endpoints functions networks vpcs",
        "chains of functions are those of endpoints, of VPCs and of the host",
    ),
    "agent/core/config/desired_state.py": ("functions", "verdicts about programs concern functions"),
    "agent/core/model/desired_entries.py": ("functions", "programs are desired beside entries and interfaces"),
    "agent/core/model/features.py": ("functions", "a feature of the programs"),
    "agent/core/plan/attribution.py": ("functions", "actions on programs"),
    "agent/core/plan/diff.py": ("functions", "compares programs"),
    "agent/core/plan/planner.py": ("functions", "plans programs"),
    "agent/datapath/bpf/compiler.py": ("functions", "a feature of the programs"),
    "agent/reconcile/kernel_diff.py": ("functions", "observes programs again"),
    "agent/reconcile/program_verdicts.py": ("functions", "has the kernel check their programs"),
    "agent/reconcile/restore.py": ("functions", "the slots of programs in the kernel"),
    "agent/settings.py": ("functions", "a section of the settings"),
    "agent/store/process_bindings.py": ("endpoints", "only endpoints are attached to a process"),
    "agent/report/queries.py": ("endpoints networks vpcs", "the path of a packet begins at an endpoint in a network"),
    "agent/cli/host_commands.py": ("endpoint functions", "the path of a packet begins at an endpoint; counters"),
    "agent/cli/function_commands.py": ("functions", "commands for functions"),
    "agent/cli/tables.py": ("droplets endpoint endpoints functions", "columns of the host's status, paths and traffic"),
    "agent/report/function_queries.py": ("functions", "answers requests about functions"),
    "agent/report/status_reporter.py": ("functions", "counters of functions"),
    "agent/daemon.py": (
        "droplets endpoints functions networks vpcs",
        "settings of map sizes and of functions; the observable of droplets",
    ),
    "agent/datapath/check/machine.py": ("droplets", "a setting of a map's size"),
    "agent/datapath/check/host.py": ("endpoints", "the name of a check"),
    "agent/datapath/check/interfaces.py": ("endpoints", "the name of a check"),
    "agent/core/uplinks/hook_choice.py": ("endpoints", "the hook of programs on endpoints' interfaces"),
    "agent/datapath/check/hooks.py": ("endpoints", "the hook of programs on endpoints' interfaces"),
    "agent/datapath/attach/transit_agent.py": ("endpoints", "the mode of programs on endpoints' interfaces"),
    "agent/datapath/attach/attach_modes.py": ("endpoints", "the mode of programs on endpoints' interfaces"),
    "agent/datapath/mode_follower.py": ("endpoints", "the mode of programs on endpoints' interfaces"),
    "agent/datapath/observe.py": ("endpoint endpoints functions", "reads the interfaces of endpoints, and programs"),
    "agent/core/model/endpoint_slots.py": ("droplet", "the product's name, in marks"),
    "agent/datapath/bpf/pins.py": ("droplet functions", "the product's name, in paths; the pins of functions"),
    "agent/datapath/function_loading.py": ("functions", "puts functions' parts together"),
    "agent/datapath/processes/messages.py": ("function", "a field of the messages to processes"),
    "agent/datapath/functions/compile.py": ("functions", "part of a path"),
    "agent/datapath/functions/program_store.py": ("functions", "part of a path"),
    "agent/datapath/kernel.py": ("functions", "has functions among its parts"),
}
"""Modules of the agent that name kinds: which, and why. A new kind means no change to any other."""


def test_a_kind_has_its_rules_its_count_its_field_in_replies_and_its_schema() -> None:
    assert tuple(kind.name for kind in catalogue.KINDS) == tuple(RULES) == KINDS
    assert set(KINDS) < set(ObjectCounts.__struct_fields__)
    assert set(KINDS) < set(METHODS["get"].reply.__struct_fields__)
    schemas = describe()["components"]["schemas"]
    assert tuple(schemas["Document"]["properties"]) == KINDS
    assert tuple(schemas["GetReply"]["properties"]) == (*KINDS, "next")
    assert tuple(schemas["GetRequest"]["properties"]["kind"]["enum"]) == KINDS


def test_kinds_in_another_order_than_the_documents_fields_are_refused() -> None:
    with pytest.raises(TypeError, match="in their order"):
        Kinds(Document, *reversed(tuple(catalogue.KINDS)))


def test_names_and_maps_are_of_one_kind_each() -> None:
    for names in ([kind.singular for kind in catalogue.KINDS], list(catalogue.KINDS.maps)):
        assert len(set(names)) == len(names)


@pytest.mark.parametrize(("kind", "objects"), SAMPLES)
def test_each_kind_names_its_keys_and_their_places(kind: Kind, objects: tuple) -> None:
    assert (kind.keys[0].space, kind.keys[0].field) == (kind.singular, "id")
    for key in kind.keys:
        assert len(key.of_all(objects)) == len(list(key.places(objects))) >= len(objects)


@pytest.mark.parametrize(("kind", "objects"), SAMPLES)
def test_each_kind_refers_to_kinds_before_it(kind: Kind, objects: tuple) -> None:
    before = KINDS[: KINDS.index(kind.name)]
    assert set(kind.references(objects)) <= set(before)
    assert all(catalogue.KINDS.by_name[name].referable for name in kind.references(objects))


@pytest.mark.parametrize(("kind", "objects"), SAMPLES)
def test_each_kind_shows_its_objects_in_a_table(kind: Kind, objects: tuple) -> None:
    for item in objects:
        assert isinstance(item, object_types(Document)[kind.name])
        cells = [column.cell(item) for column in kind.columns]
        assert cells[0] == item.id
        assert all(isinstance(cell, str) and cell for cell in cells)
    assert sum(column.spare for column in kind.columns) <= 1


def test_keys_come_object_by_object() -> None:
    droplets = tuple(Droplet(f"d{n}", "h1", f"10.0.0.{n}") for n in (1, 2))
    assert [path for path, _, _ in keys(catalogue.KINDS.listed(Document(droplets=droplets)))] == [
        "droplets[0].id",
        "droplets[0].address",
        "droplets[1].id",
        "droplets[1].address",
    ]
    assert [path for path, space, _ in keys(catalogue.KINDS.listed(DOCUMENT)) if space == "address"] == [
        "endpoints[0].addresses[0]",
        "endpoints[0].addresses[1]",
        "endpoints[1].addresses[0]",
    ]


class Namesake(Kind[Droplet]):
    """A kind whose ids compete with those of droplets."""

    name = "namesakes"
    singular = "namesake"
    keys = (key_of("droplet", "id"),)

    def render(self, objects: Sequence[Droplet], resolved: ResolvedState, into: DesiredEntries, revision: int) -> None:
        """Render nothing: only ids matter here."""


def test_a_kind_without_a_rendering_cannot_be_made() -> None:
    class Unfinished(Kind[Droplet]):
        name = "unfinished"

    with pytest.raises(TypeError, match="render"):
        Unfinished()  # type: ignore[abstract]


def test_kinds_with_a_common_key_space_compete_for_its_keys() -> None:
    droplets, *_ = catalogue.KINDS
    objects = [Droplet("d1", "h1", "10.0.0.1")]
    index = OwnershipIndex()
    index.add(Claim("a", 1), [(droplets, objects)])
    index.add(Claim("b", 2), [(Namesake(), objects)])
    assert index.owner("droplet", "d1") == "a"
    assert index.conflicts("b", [(Namesake(), objects)]) == [("namesakes[0].id", "droplet", "d1", ("a",))]


def test_one_document_may_list_two_kinds_with_a_common_key_space() -> None:
    droplets, *_ = catalogue.KINDS
    both = [(droplets, [Droplet("d1", "h1", "10.0.0.1")]), (Namesake(), [Droplet("d2", "h1", "10.0.0.2")])]
    index = OwnershipIndex()
    index.add(Claim("a", 1), both)
    assert (index.owner("droplet", "d1"), index.owner("droplet", "d2")) == ("a", "a")


def test_pieces_are_of_bounded_size_and_list_each_object_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.core.plan.render.PIECE", 2)
    droplets = tuple(Droplet(f"d{n}", "h1", f"10.0.0.{n}") for n in range(5))
    listed = catalogue.KINDS.listed(msgspec.structs.replace(DOCUMENT, droplets=droplets))
    found = list(pieces(listed))
    assert [[len(objects) for _, objects in piece] for piece in found] == [[2, 1, 1, 2, 1], [2], [1]]
    for kind, objects in listed:
        assert tuple(item for piece in found for item in dict(piece).get(kind, ())) == objects


def scanned() -> list[str]:
    """Return the agent's modules, without those that belong to a kind."""
    paths = [str(path.relative_to(ROOT)) for path in (ROOT / "agent").rglob("*.py")]
    general = (f"{OF_KINDS}/catalogue.py", f"{OF_KINDS}/kind.py")
    return [path for path in paths if path in general or not path.startswith(f"{OF_KINDS}/")]


def named(path: str) -> set[str]:
    """Return the kinds that a module names: as an attribute, as a text of its own, or by importing the kind."""
    nodes = list(ast.walk(ast.parse((ROOT / path).read_text())))
    found = {node.attr for node in nodes if isinstance(node, ast.Attribute)} & set(KINDS)
    texts = {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    found |= texts & {*KINDS, *(kind.singular for kind in catalogue.KINDS)}
    modules = {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
    return found | {KIND_MODULES[module] for module in modules & KIND_MODULES.keys()}


def test_no_module_of_the_agent_names_a_kind_without_a_reason() -> None:
    expected = {path: set(names.split()) for path, (names, _) in MAY_NAME.items()}
    assert {path: names for path in scanned() if (names := named(path))} == expected


@pytest.mark.parametrize("path", PROTOCOL)
def test_a_module_of_the_protocol_that_iterates_over_the_kinds_names_none(path: str) -> None:
    assert not named(path)
