"""What the benchmark writes into the maps has the layout of the programs that it measures."""

from __future__ import annotations

import pytest

from agent.core.model import map_layout
from agent.core.model.map_layout import MapName
from bench.map_contents import MapContents, Place, Scale

FORMS = {
    MapName.LOCAL_DROPLETS: map_layout.LOCAL_DROPLET,
    MapName.DROPLETS: map_layout.DROPLET,
    MapName.NEXT_HOPS: map_layout.NEXT_HOP,
    MapName.VPCS: map_layout.VPC,
    MapName.NETWORKS: map_layout.NETWORK,
    MapName.ENDPOINTS: map_layout.ENDPOINT,
    MapName.INTERFACES: map_layout.INTERFACE,
}


@pytest.mark.parametrize("contents", [MapContents(), MapContents(vlan=7, scale=Scale(3, local=True))])
def test_every_entry_of_the_benchmark_has_the_size_of_its_struct(contents: MapContents) -> None:
    entries = contents.entries(Place(wire=2, mac=bytes(6), tap=3))
    assert entries.keys() == FORMS.keys()
    for name, form in FORMS.items():
        assert entries[name]
        assert {len(value) for value in entries[name].values()} == {form.size}, name
