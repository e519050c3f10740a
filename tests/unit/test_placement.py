"""Placement: who bounces and divides follows from the seed, and from what is written."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from controller_sim.topology.model import Droplet, Network, Subnet, Topology, Underlay, Vpc
from controller_sim.topology.placement import place


def cloud(droplets: int = 6, bouncers: int | tuple[str, ...] = 2, networks: int = 1, seed: int = 1) -> Topology:
    return Topology(
        Underlay((Subnet("underlay", ("172.18.0.0/16",)),), ("172.18.0.1",)),
        {f"h{n}": Droplet(f"h{n}", f"172.18.1.{n}", f"h{n}") for n in range(droplets)},
        {"red": Vpc("red", 1, ("10.0.0.0/8",), 1)},
        {f"n{n}": Network(f"n{n}", "red", (f"10.{n}.0.0/16",), bouncers) for n in range(networks)},
        seed=seed,
    )


def test_the_same_seed_gives_the_same_roles():
    assert place(cloud()) == place(cloud())


def test_another_seed_gives_other_roles():
    assert place(cloud(networks=20)) != place(cloud(networks=20, seed=2))


def test_as_many_droplets_as_wanted_take_a_role():
    placement = place(cloud(bouncers=3))
    assert len(set(placement.bouncers["n0"])) == 3
    assert len(placement.dividers["red"]) == 1


def test_written_droplets_are_taken_as_they_are():
    assert place(cloud(bouncers=("h5", "h1"))).bouncers["n0"] == ("h5", "h1")


def test_a_new_droplet_takes_roles_over_and_moves_none_between_the_others():
    before, after = place(cloud(droplets=6, networks=50)), place(cloud(droplets=7, networks=50))
    for network, old in before.bouncers.items():
        assert set(after.bouncers[network]) - set(old) <= {"h6"}
    assert any("h6" in bouncers for bouncers in after.bouncers.values())


def test_roles_are_spread_over_the_droplets():
    counted = Counter(host for hosts in place(cloud(networks=200)).bouncers.values() for host in hosts)
    assert set(counted) == {f"h{n}" for n in range(6)}
    assert max(counted.values()) < 2 * min(counted.values())


def test_no_divider_is_placed_where_none_is_wanted():
    topology = cloud()
    topology = replace(topology, vpcs={"red": replace(topology.vpcs["red"], dividers=0)})
    assert place(topology).dividers["red"] == ()
