"""Which peers are probed when, and what follows: in virtual time, over an underlay with loss, delay and MTUs."""

from __future__ import annotations

from collections import Counter

import pytest
from underlay_model import Model

from agent.core.probe.icmp_errors import Problem, TunnelError
from agent.core.probe.paths import Liveness, PathRecord, Rules
from agent.core.probe.probing import Probing

SMALL = 66


def test_a_peer_that_answers_is_up_and_its_round_trip_is_known() -> None:
    model = Model()
    (path,) = model.add(delay=0.2)
    model.run(2)
    view = model.view(path)
    assert (view.liveness, view.carries, view.usable) == (Liveness.UP, None, 1500)
    assert view.round_trip == pytest.approx(0.2, abs=0.02)
    assert model.events == []


def test_each_peer_is_probed_once_a_second_while_there_are_few() -> None:
    model = Model()
    model.add(20)
    model.run(10)
    small = Counter(probe.path for _, probe in model.sent if probe.size == SMALL)
    assert set(small.values()) <= {9, 10, 11}
    assert len(small) == 20


def test_many_peers_share_the_probes_of_a_second() -> None:
    model = Model(Rules(per_second=200))
    model.add(1000)
    model.run(20)
    small = [at for at, probe in model.sent if probe.size == SMALL]
    assert 180 * 20 <= len(small) <= 200 * 20 + 20
    per_second = Counter(int(at) for at in small)
    assert max(per_second.values()) <= 220
    assert max(Counter(probe.path for _, probe in model.sent if probe.size == SMALL).values()) <= 5


def test_a_peer_that_falls_silent_is_down_after_three_misses_and_up_with_its_first_answer() -> None:
    model = Model()
    (path,) = model.add()
    model.run(5)
    model.far[path].silent = True
    fell = model.now
    model.run(6)
    assert model.kinds() == ["droplet_down"]
    assert 3.0 <= model.events[0][0] - fell <= 4.2
    assert model.view(path).liveness is Liveness.DOWN
    model.far[path].silent = False
    model.run(2.1)
    assert model.kinds() == ["droplet_down", "droplet_up"]
    assert model.view(path).liveness is Liveness.UP


def test_two_misses_in_a_row_are_forgiven() -> None:
    model = Model()
    (path,) = model.add()
    model.run(5)
    for _ in range(20):
        model.far[path].silent = True
        model.run(1.9)
        model.far[path].silent = False
        model.run(2)
    assert model.events == []


def test_some_loss_marks_no_peer_down() -> None:
    model = Model()
    model.add(10, loss=0.02)
    model.run(300)
    assert "droplet_down" not in model.kinds()


def test_a_peer_that_never_answered_stays_unknown_and_usable() -> None:
    model = Model()
    (path,) = model.add(silent=True)
    model.run(60)
    assert model.view(path).liveness is Liveness.UNKNOWN
    assert model.events == []
    assert {probe.size for _, probe in model.sent} == {SMALL}, "no long probes to a peer that never answered"


def start_anew(model: Model) -> None:
    """Have another agent begin with what this one left."""
    model.left |= model.probing.take_unsaved()
    sizes = {view.path: view.size for view in model.probing.views()}
    model.probing = Probing(model.rules, lambda: next(model.serial).to_bytes(8, "big"))
    known = {path: known for path, known in model.left.items() if known is not None}
    model.probing.set_paths(sizes, model.now, known)


def test_a_peer_that_was_down_before_a_restart_is_down_until_it_answers() -> None:
    model = Model()
    (path,) = model.add()
    model.run(3)
    model.far[path].silent = True
    model.run(6)
    start_anew(model)
    assert model.view(path).liveness is Liveness.DOWN
    model.run(5)
    assert model.view(path).liveness is Liveness.DOWN
    model.far[path].silent = False
    model.run(2)
    assert model.view(path).liveness is Liveness.UP
    assert model.kinds() == ["droplet_down", "droplet_up"]


def test_a_peer_that_dies_while_the_agent_starts_anew_is_found() -> None:
    """It has answered before, so its silence means something, whichever agent it answered."""
    model = Model()
    (path,) = model.add()
    model.run(3)
    model.far[path].silent = True
    start_anew(model)
    model.run(6)
    assert model.view(path).liveness is Liveness.DOWN
    assert model.kinds() == ["droplet_down"]


def test_the_mtu_of_a_narrow_path_survives_a_restart() -> None:
    model = Model()
    (path,) = model.add(mtu=1400, reports_mtu=True)
    model.run(5)
    start_anew(model)
    assert (model.view(path).usable, model.view(path).carries) == (1400, 1400)
    model.run(5)
    assert model.view(path).usable == 1400
    assert model.kinds() == ["narrow_path"], "no news"
    model.far[path].mtu = 1500
    start_anew(model)
    model.run(2)
    assert model.view(path).usable == 1500
    assert model.kinds() == ["narrow_path", "path_restored"]


def test_peers_that_never_answered_or_are_gone_leave_no_record() -> None:
    model = Model()
    (silent,) = model.add(silent=True)
    (known,) = model.add()
    model.run(3)
    model.probing.unreachable([silent.peer], model.now)
    assert model.probing.take_unsaved() == {known: PathRecord()}
    assert model.probing.take_unsaved() == {}
    model.probing.set_paths({}, model.now)
    assert model.probing.take_unsaved() == {silent: None, known: None}


def test_a_peer_without_a_route_is_down_until_it_has_one() -> None:
    model = Model()
    (path,) = model.add(silent=True)
    model.run(3)
    model.probing.unreachable([path.peer], model.now)
    model.run(3)
    assert model.view(path).liveness is Liveness.DOWN
    model.probing.unreachable([path.peer], model.now)
    model.probing.unreachable([], model.now)
    model.run(3)
    assert model.view(path).liveness is Liveness.UNKNOWN
    assert model.kinds() == ["droplet_down", "droplet_up"]
    assert [one.unreachable for _, one in model.events] == [True, True]


def test_a_peer_that_was_cut_off_is_up_with_its_first_answer() -> None:
    model = Model()
    (path,) = model.add(silent=True)
    model.probing.unreachable([path.peer], model.now)
    model.far[path].silent = False
    model.run(3)
    assert model.view(path).liveness is Liveness.UP
    model.probing.unreachable([], model.now)
    assert model.view(path).liveness is Liveness.UP
    assert model.kinds() == ["droplet_down", "droplet_up"]
    model.far[path].silent = True
    model.run(6)
    assert not model.events[-1][1].unreachable


def test_a_small_probe_in_flight_when_a_cut_ends_proves_no_long_packets() -> None:
    model = Model()
    (path,) = model.add(silent=True)
    model.run(3)
    model.probing.unreachable([path.peer], model.now)
    model.run(1.5)
    small = model.sent[-1][1].nonce
    model.probing.unreachable([], model.now)
    assert model.probing.due(model.now) == [], "it is asked already"
    model.probing.answered(path, small, model.now)
    (long,) = model.probing.due(model.now + 0.1)
    assert long.size == 1500
    assert not model.probing.answered(path, small, model.now + 0.2), "once"
    assert model.probing.answered(path, long.nonce, model.now + 0.2)


def test_the_liveness_of_a_peer_follows_its_replies_alone() -> None:
    model = Model()
    (path,) = model.add()
    model.run(3)
    model.probing.unreachable([path.peer], model.now)
    model.run(3)
    assert model.view(path).liveness is Liveness.UP
    assert model.events == []


# What ICMP says


def test_an_error_with_an_unknown_nonce_is_ignored() -> None:
    model = Model()
    (path,) = model.add()
    model.run(5)
    for problem in Problem:
        model.probing.on_icmp_error(TunnelError(path, problem, 576, b"guessed!"), model.now)
    model.run(1)
    assert model.view(path).usable == 1500


def test_unreachable_about_a_tunnel_packet_only_triggers_a_probe() -> None:
    model = Model(Rules(interval=60))
    (path,) = model.add()
    model.run(5)
    before = len(model.sent)
    model.probing.on_icmp_error(TunnelError(path, Problem.UNREACHABLE), model.now)
    model.run(0.1)
    assert len(model.sent) == before + 1
    assert model.view(path).liveness is Liveness.UP


def test_unreachable_about_a_probe_is_a_miss() -> None:
    model = Model()
    (path,) = model.add(delay=0.9)
    model.run(1.3)
    open_probe = model.sent[-1][1]
    lost = model.probing.counts.lost
    model.probing.on_icmp_error(TunnelError(path, Problem.UNREACHABLE, None, open_probe.nonce), model.now)
    assert model.probing.counts.lost == lost + 1


# Who may answer


def test_a_reply_needs_an_outstanding_nonce_of_the_same_path() -> None:
    model = Model()
    first, second = model.add(2, silent=True)
    model.run(0.05)
    nonce = next(probe.nonce for _, probe in model.sent if probe.path == first)
    assert not model.probing.answered(second, nonce, model.now)
    assert not model.probing.answered(first, b"guessed!", model.now)
    assert model.probing.answered(first, nonce, model.now)
    assert not model.probing.answered(first, nonce, model.now), "once"


def test_a_late_reply_is_ignored() -> None:
    model = Model()
    (path,) = model.add(delay=1.5)
    model.run(10)
    assert model.view(path).liveness is Liveness.UNKNOWN
    assert model.probing.counts.answered == 0


def test_removed_paths_leave_no_state() -> None:
    model = Model()
    paths = model.add(10)
    model.run(5)
    model.probing.set_paths({}, model.now)
    assert model.probing.wake_at() is None
    assert model.probing.due(model.now + 100) == []
    assert not model.probing.answered(paths[0], model.sent[-1][1].nonce, model.now)


def test_the_next_wake_is_never_late() -> None:
    model = Model()
    model.add(3)
    model.run(3)
    for _ in range(200):
        at = model.probing.wake_at()
        assert at is not None
        assert not model.probing.due(min(at, model.now + 10) - 1e-6) or at <= model.now
        model.run(0.01)


def test_every_probe_is_counted_once() -> None:
    model = Model()
    model.add(10, loss=0.3)
    model.add(3, mtu=1400, reports_mtu=True)
    model.run(50)
    counts = model.probing.counts
    still_open = counts.sent - counts.answered - counts.lost - counts.refused
    assert counts.sent == len(model.sent)
    assert 0 <= still_open <= 13 * 2


def test_one_silent_peer_among_many_is_found_after_one_round_more() -> None:
    model = Model(Rules(per_second=200))
    paths = model.add(1000)
    model.run(30)
    model.far[paths[500]].silent = True
    fell = model.now
    model.run(15)
    assert model.kinds() == ["droplet_down"]
    assert model.events[0][0] - fell < 5 + 3 + 2
