"""How programs are to run, by what the uplinks take: on every kind of driver, on old kernels, and one after another."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from agent.core.uplinks.linux_version import Version, version_of
from agent.core.uplinks.xdp_mode import NATIVE, Decision, Device, XdpFeatures, decide, remedy_of, shows_when_attached

ALL = NATIVE | XdpFeatures.NDO_XMIT


def device(
    features: int | None,
    runs: str = "none",
    *,
    driver: str = "ixgbe",
    kind: str = "",
    mtu: int = 1500,
    kernel: Version = (6, 1),
) -> Device:
    return Device("eth0", 2, mtu, kind, (driver,), features, runs, kernel)


@dataclass(frozen=True)
class Case:
    """One uplink, and what is decided for it; `says` is part of the reason."""

    found: Device
    generic: bool
    says: str = ""


CASES = {
    "a driver that takes redirects": Case(device(ALL), False),
    "a macvlan": Case(device(0, driver="macvlan", kind="macvlan"), True, "driver macvlan takes no redirected frames"),
    "a bridge": Case(device(0, "generic", driver="bridge", kind="bridge"), True, "driver bridge takes no redirected"),
    "a veth whose peer has GRO": Case(device(ALL, driver="veth", kind="veth"), False),
    "a veth whose peer has none": Case(device(NATIVE, driver="veth", kind="veth"), True, "neither GRO nor XDP"),
    "a driver that shows it when attached": Case(device(NATIVE), False),
    "a driver that was attached and shows nothing": Case(device(NATIVE, "native"), True, "driver ixgbe takes no"),
    "a bond without members": Case(Device("bond0", 3, 1500, "bond", (), 0, "none", (6, 18)), False),
    "a bond of cards that take them": Case(Device("bond0", 3, 1500, "bond", ("ice",), ALL, "native", (6, 18)), False),
    "an old kernel and a known driver": Case(device(None), False),
    "an old kernel and a generic program": Case(device(None, "generic"), True, "does not say whether a driver that"),
    "an old kernel and another driver": Case(device(None, driver="mlx4_en"), True, "whether driver mlx4_en takes"),
    "an old kernel and a veth": Case(device(None, driver="veth", kind="veth"), False),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_what_is_decided_for_one_uplink(case: Case) -> None:
    decision = decide("auto", [case.found])
    assert (decision.generic, decision.refused) == (case.generic, "")
    assert case.says in decision.reason
    assert bool(decision.reason) == case.generic


UNABLE = {name: case for name, case in CASES.items() if case.generic and case.found.features is not None}


@pytest.mark.parametrize("case", UNABLE.values(), ids=UNABLE)
def test_native_mode_is_refused_with_a_remedy_where_it_cannot_work(case: Case) -> None:
    decision = decide("native", [case.found])
    assert not decision.generic
    assert case.says in decision.refused
    (fault,) = decision.faults
    assert (fault.kind, fault.subject, fault.detail) == ("redirects_refused", "eth0", decision.refused)
    assert "attach_mode to auto" in fault.remedy
    assert ("ethtool" in fault.remedy) == ("GRO" in case.says)


def test_a_native_mode_setting_is_trusted_if_the_kernel_reports_no_features() -> None:
    assert decide("native", [device(None, driver="mlx4_en")]) == Decision()


def test_generic_mode_needs_no_check_and_one_uplink_decides_for_all() -> None:
    unable = device(0, driver="macvlan", kind="macvlan")
    assert decide("generic", [unable]) == Decision(generic=True)
    other = Device("eth1", 3, 1500, "", ("ice",), ALL, "native", (6, 18))
    assert decide("auto", [other, unable]).generic
    assert decide("auto", [other]) == Decision()


def test_a_tried_driver_is_not_tried_again_until_it_changes() -> None:
    """Else the programs would change their mode for ever: in generic mode the driver shows nothing either."""
    first = decide("auto", [device(NATIVE)])
    assert not first.generic
    second = decide("auto", [device(NATIVE, "native")], first)
    assert second.generic
    assert decide("auto", [device(NATIVE, "generic")], second).generic
    assert not decide("auto", [device(NATIVE, "generic", mtu=9000)], second).generic
    assert not decide("auto", [device(ALL, "generic")], second).generic


def test_a_driver_that_fell_back_itself_is_not_retried_and_one_that_followed_another_is() -> None:
    assert decide("auto", [device(NATIVE, "generic")], Decision()).generic
    other = Device("mac0", 3, 1500, "macvlan", ("macvlan",), 0, "generic", (6, 18))
    both = decide("auto", [device(NATIVE, "generic"), other], Decision(generic=True))
    assert both.reason.startswith("mac0")
    assert not decide("auto", [device(NATIVE, "generic")], both).generic


def test_modes_that_only_an_attachment_can_test_are_undecided() -> None:
    assert shows_when_attached(device(NATIVE))
    assert not shows_when_attached(device(ALL))
    assert not shows_when_attached(device(0, driver="bridge", kind="bridge"))
    assert remedy_of("x").endswith("or choose another interface")


LONG_SINCE = (
    *("ena", "fsl_dpa", "fsl_dpaa2_eth", "fsl_enetc", "funeth", "i40e", "ice", "igb", "igc", "ixgbe", "mlx5_core"),
    *("mvneta", "mvpp2", "netsec", "qede", "rvu-nicpf", "sfc", "st_gmac", "st_xgmac", "tun", "veth", "vif"),
    "virtio_net",
)
SINCE_6_1 = ("atlantic", "bnxt_en", "hv_netvsc", "mana", "mtk_soc_eth", "sfc_siena")
NOT_IN_6_1 = (
    *("bridge", "cpsw", "cpsw-switch", "fec", "gve", "ixgbevf", "macvlan", "mlx4_en", "nfp", "nicvf", "unknown"),
    "vmxnet3",
)


@pytest.mark.parametrize(
    ("drivers", "oldest"),
    [(LONG_SINCE, (5, 18)), (SINCE_6_1, (6, 1)), (NOT_IN_6_1, (6, 3))],
    ids=["long since", "since 6.1", "not before 6.3"],
)
def test_on_old_kernels_a_driver_is_trusted_from_the_version_that_supports_redirects(
    drivers: tuple[str, ...], oldest: Version
) -> None:
    """Drivers with ndo_xdp_xmit in Linux 6.1, and some that run XDP or are common uplinks and have none there."""
    for kernel in [(5, 18), (5, 19), (6, 0), (6, 1), (6, 2)]:
        found = {one: decide("auto", [device(None, driver=one, kernel=kernel)]).generic for one in drivers}
        assert found == dict.fromkeys(drivers, kernel < oldest)


def test_a_bond_is_trusted_when_all_its_members_are() -> None:
    def bond(*drivers: str) -> Device:
        return Device("bond0", 3, 1500, "bond", drivers, None, "native", (6, 1))

    assert not decide("auto", [bond("mlx5_core", "hv_netvsc")]).generic
    assert "whether driver ixgbevf takes" in decide("auto", [bond("mlx5_core", "ixgbevf")]).reason


@pytest.mark.parametrize(
    ("release", "version"),
    [("6.1.0-56-amd64", (6, 1)), ("6.18.44-fc", (6, 18)), ("7.0-rc1", (7, 0)), ("5.18", (5, 18)), ("next", (0, 0))],
)
def test_a_release_of_the_kernel_is_compared_by_its_numbers(release: str, version: Version) -> None:
    assert version_of(release) == version
