"""The benchmark's traffic, between endpoints of the kernel's setups: both families, two hosts and one."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from bench.hosts import Pair, Pairs, Setup, built, set_segmentation
from bench.probe import Probe, ProbeError, build_probe
from bench.traffic import KERNEL, KERNEL_SEGMENTED, cores
from controller_sim.lab.underlay import existing_namespaces

SECONDS = 0.05


@pytest.fixture(scope="module", params=[KERNEL, KERNEL_SEGMENTED], ids=lambda setup: setup.name)
def pairs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pairs]:
    setup: Setup = request.param
    with built(setup, "n", tmp_path_factory.mktemp("cache")) as found:
        yield found
    assert not [name for name in existing_namespaces() if name.startswith(f"bench{os.getpid()}n_")]


@pytest.fixture(scope="module")
def probe(tmp_path_factory: pytest.TempPathFactory) -> Probe:
    return Probe(build_probe(tmp_path_factory.mktemp("probe")), *cores())


def test_round_trips_are_as_many_as_asked_for(pairs: Pairs, probe: Probe) -> None:
    for pair in pairs:
        trips = probe.round_trips(pair, 50)
        assert len(trips) == 50
        assert min(trips) > 0


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("streams", [1, 8])
def test_streams_arrive_over_either_family(pairs: Pairs, probe: Probe, streams: int, family: int) -> None:
    for pair in pairs:
        found = probe.stream(pair, SECONDS, streams, family)
        assert found.gbit_per_s > 0
        assert found.cpu_ns_per_byte > 0


def test_a_stream_arrives_without_segmentation_offload(pairs: Pairs, probe: Probe) -> None:
    set_segmentation(pairs.two_hosts, on=False)
    try:
        assert probe.stream(pairs.two_hosts, SECONDS).gbit_per_s > 0
    finally:
        set_segmentation(pairs.two_hosts, on=True)


def test_datagrams_of_a_flood_are_counted_at_the_receiver(pairs: Pairs, probe: Probe) -> None:
    for pair in pairs:
        found = probe.flood(pair, SECONDS)
        assert found.per_second > 0
        assert 0 <= found.lost < 1


def test_a_server_that_cannot_start_is_an_error(pairs: Pairs, probe: Probe) -> None:
    elsewhere = Pair("elsewhere", pairs.two_hosts.first, pairs.two_hosts.second, ("192.0.2.1",))
    with pytest.raises(ProbeError, match="elsewhere: the answering end did not start"):
        probe.round_trips(elsewhere, 1)
