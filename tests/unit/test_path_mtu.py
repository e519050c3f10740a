"""Path MTU discovery: in virtual time, over an underlay with loss, delay and MTUs."""

from __future__ import annotations

import pytest
from underlay_model import Model

from agent.core.probe.icmp_errors import Problem, TunnelError
from agent.core.probe.paths import Rules


def test_long_probes_get_a_quarter_of_the_rate_on_top() -> None:
    model = Model(Rules(per_second=200))
    model.add(1000)
    model.run(10)
    assert len([1 for _, probe in model.sent if probe.size == 1500]) <= 50 * 10 + 5


@pytest.mark.parametrize("reports_mtu", [True, False])
@pytest.mark.parametrize("mtu", [576, 1280, 1400, 1499])
def test_a_narrow_path_is_found_reported_and_restored(reports_mtu: bool, mtu: int) -> None:
    model = Model()
    (path,) = model.add(mtu=mtu, reports_mtu=reports_mtu)
    model.run(2 if reports_mtu else 60)
    assert model.kinds() == ["narrow_path"]
    found = model.events[0][1]
    assert (found.path, found.size, found.carries) == (path, 1500, mtu)
    assert model.view(path).usable == mtu
    model.run(200)
    assert model.kinds() == ["narrow_path"], "the same again is no news"
    model.far[path].mtu = 1500
    model.run(62)
    assert model.kinds() == ["narrow_path", "path_restored"]
    assert model.view(path).usable == 1500


def test_a_path_below_the_minimum_is_reported_with_the_minimum() -> None:
    model = Model()
    (path,) = model.add(mtu=300)
    model.run(30)
    assert model.view(path).carries == 576


@pytest.mark.parametrize(("paths", "seconds"), [(1, 10), (100, 10), (1000, 80), (9000, 600)])
def test_few_paths_are_checked_often_and_many_seldom(paths: int, seconds: float) -> None:
    model = Model()
    model.add(paths)
    assert model.probing._path_mtu._check_period() == pytest.approx(seconds)


def test_a_link_that_begins_to_drop_long_packets_is_found_within_seconds() -> None:
    model = Model()
    (path,) = model.add()
    model.run(5)
    model.far[path].mtu = 1300
    model.run(20)
    assert (model.view(path).carries, model.kinds()) == (1300, ["narrow_path"])


@pytest.mark.parametrize("seconds", [0.4, 0.7, 1.2])
def test_a_peer_that_is_silent_for_a_moment_makes_no_path_narrow(seconds: float) -> None:
    """A switch that learns anew, a machine that is paused: all long probes of a moment are lost."""
    model = Model(Rules(check_every=2))
    (path,) = model.add()
    model.run(3.05)
    for _ in range(20):
        model.far[path].silent = True
        model.run(seconds)
        model.far[path].silent = False
        model.run(5.13)
    assert "narrow_path" not in model.kinds()
    assert model.view(path).usable == 1500


def test_a_path_that_becomes_narrow_is_found_at_the_next_check() -> None:
    model = Model(Rules(check_every=20))
    (path,) = model.add()
    model.run(5)
    model.far[path].mtu = 1300
    model.run(60)
    assert model.view(path).carries == 1300


def test_loss_alone_makes_no_path_narrow() -> None:
    model = Model(Rules(check_every=5))
    model.add(5, loss=0.02)
    model.run(300)
    assert "narrow_path" not in model.kinds()


def test_an_uplink_with_another_mtu_has_its_paths_checked_at_once() -> None:
    model = Model()
    (path,) = model.add(mtu=1500)
    model.run(5)
    model.probing.set_paths({path: 9000}, model.now)
    model.run(60)
    assert model.view(path).usable == 1500
    model.probing.set_paths({path: 1400}, model.now)
    assert model.view(path).usable == 1400
    assert model.view(path).carries is None


def test_a_smaller_interface_mtu_ends_the_search() -> None:
    model = Model()
    (path,) = model.add()
    model.far[path].mtu = 0
    model.run(0.05)
    nonce = model.sent[-1][1].nonce
    model.probing.answered(path, nonce, model.now)
    for _ in range(100):
        model.now += 0.01
        for probe in model.probing.due(model.now):
            if probe.size > 1450:
                model.probing.too_long(probe.nonce, model.now)
            else:
                model.probing.answered(path, probe.nonce, model.now)
    assert model.view(path).carries == 1450


# What ICMP says


def packet_too_big(path, mtu: int) -> TunnelError:
    return TunnelError(path, Problem.TOO_LARGE, mtu)


def test_a_true_ptb_is_used_at_once_and_verified() -> None:
    model = Model()
    (path,) = model.add()
    model.run(5)
    model.far[path].mtu = 1400
    model.probing.on_icmp_error(packet_too_big(path, 1400), model.now)
    assert model.view(path).usable == 1400
    model.run(10)
    assert (model.view(path).carries, model.kinds()) == (1400, ["narrow_path"])


def test_a_forged_ptb_is_corrected_within_a_second_and_then_ignored() -> None:
    model = Model()
    (path,) = model.add()
    model.run(5)
    model.probing.on_icmp_error(packet_too_big(path, 100), model.now)
    assert model.view(path).usable == 576, "the floor holds"
    model.run(1)
    assert model.view(path).usable == 1500
    for _ in range(50):
        model.probing.on_icmp_error(packet_too_big(path, 600), model.now)
        assert model.view(path).usable == 1500
        model.run(0.1)
    assert model.events == []


def test_a_forged_ptb_is_corrected_on_a_narrow_path_too() -> None:
    model = Model()
    (path,) = model.add(mtu=1400, reports_mtu=True)
    model.run(5)
    model.probing.on_icmp_error(packet_too_big(path, 700), model.now)
    assert model.view(path).usable == 700
    model.run(1)
    assert model.view(path).usable == 1400
    assert model.kinds() == ["narrow_path"]


def test_a_false_ptb_right_after_a_true_one_is_checked_as_soon_as_the_rate_allows() -> None:
    model = Model()
    (path,) = model.add(reports_mtu=True)
    model.run(5)
    model.far[path].mtu = 1400
    model.probing.on_icmp_error(packet_too_big(path, 1400), model.now)
    model.run(0.3)
    assert model.view(path).carries == 1400
    model.probing.on_icmp_error(packet_too_big(path, 700), model.now)
    model.run(1.1)
    assert model.view(path).usable == 1400
    assert model.kinds() == ["narrow_path"]


def test_a_true_ptb_counts_after_a_false_one() -> None:
    model = Model()
    (path,) = model.add(reports_mtu=True)
    model.run(5)
    model.probing.on_icmp_error(packet_too_big(path, 700), model.now)
    model.run(15)
    model.far[path].mtu = 1400
    model.probing.on_icmp_error(packet_too_big(path, 1400), model.now)
    model.run(1)
    assert model.view(path).usable == 1400


def test_no_ptb_raises_the_mtu() -> None:
    model = Model()
    (path,) = model.add(mtu=1400, reports_mtu=True)
    model.run(5)
    for mtu in (1400, 1450, 1500, 65535):
        model.probing.on_icmp_error(packet_too_big(path, mtu), model.now)
        assert model.view(path).usable == 1400


def test_a_ptb_about_a_peer_that_answers_no_probes_lasts_ten_minutes() -> None:
    model = Model()
    (path,) = model.add(silent=True)
    model.run(3)
    model.probing.on_icmp_error(packet_too_big(path, 1400), model.now)
    model.run(590)
    assert model.view(path).usable == 1400
    model.run(12)
    assert model.view(path).usable == 1500


def test_ptbs_beyond_what_can_be_verified_are_ignored() -> None:
    model = Model(Rules(per_second=40))
    paths = model.add(100)
    model.run(40)
    for path in paths:
        model.probing.on_icmp_error(packet_too_big(path, 576), model.now)
    assert len([1 for view in model.probing.views() if view.usable == 576]) <= 10
    model.run(15)
    assert all(view.usable == 1500 for view in model.probing.views())


def test_a_flood_of_ptbs_costs_a_bounded_number_of_probes() -> None:
    model = Model()
    paths = model.add(5)
    model.run(5)
    before = len(model.sent)
    for number in range(1000):
        for path in paths:
            model.probing.on_icmp_error(packet_too_big(path, 576 + number % 900), model.now)
        model.run(0.01)
    assert len(model.sent) - before <= 5 * 10 + 5 * 4


def test_no_record_is_written_while_nothing_changes() -> None:
    model = Model(Rules(check_every=2, narrow_every=2))
    model.add(5)
    model.add(2, mtu=1400, reports_mtu=True)
    model.run(3)
    before = model.probing.version
    model.run(20)
    assert model.probing.version == before
