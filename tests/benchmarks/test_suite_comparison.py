"""What the report says follows from the numbers by its rules."""

import numpy as np
import pytest

from benchmarks.suite.comparison import (
    SLOWEST,
    area,
    best_peer,
    difference,
    ours,
    peers,
    profile,
    time_to,
    within,
)
from benchmarks.suite.methods import METHODS, class_weights
from benchmarks.suite.protocol import TUNED, Result, Row
from benchmarks.suite.speed import Speed

NO_CLASSES = np.zeros((2, 0))


def _row(scores: list[float], kind: str = TUNED, losses: list[float] | None = None) -> Row:
    """Two equal seeds; of a text if losses are given."""
    curve = np.array(losses or scores)[:, None] * np.ones((1, 2))
    recalls = NO_CLASSES if losses else np.array(scores)[-1] * np.ones((2, 3))
    return Row(0.1, kind, "cosine", "none", curve, -curve if losses else curve, curve[-1], recalls)


def _result(*rows: Row, step: float = 1.0) -> Result:
    return Result("cosine", {0.1: 1.0}, list(rows), Speed(1e-3, step, 1.0))


def test_a_difference_is_in_points_of_accuracy_and_in_percent_of_a_loss():
    assert difference(_row([50, 80]), _row([60, 82])).mean == pytest.approx(-2)
    better, worse = _row([0], losses=[2.0, 0.9]), _row([0], losses=[2.0, 1.0])
    assert difference(better, worse).mean == pytest.approx(10)


@pytest.mark.parametrize(("gap", "expected"), [(0.9, True), (1.1, False)])
def test_a_point_of_accuracy_does_not_count(gap, expected):
    assert within(_row([80 - gap]), _row([80])) is expected


@pytest.mark.parametrize(("loss", "expected"), [(1.02, True), (1.04, False)])
def test_three_percent_of_a_loss_do_not_count(loss, expected):
    assert within(_row([0], losses=[loss]), _row([0], losses=[1.0])) is expected


def test_a_time_is_the_share_of_the_run_until_the_best_peers_score_times_the_step():
    slow = _result(_row([70, 80, 89, 90]), step=1.0)
    ours = _result(_row([60, 90, 92, 92]), step=1.5)
    board = {"SGD": slow, "INSGD": ours}
    assert time_to(board, "SGD", TUNED) == pytest.approx(3 / 4)  # 89 is a point below 90
    assert time_to(board, "INSGD", TUNED) == pytest.approx(2 / 4 * 1.5)


def test_who_never_reaches_the_target_or_takes_four_times_as_long_has_no_time_in_the_profile():
    board = {
        "SGD": _result(_row([80, 90])),  # at the target after its whole run
        "Muon": _result(_row([90, 90]), step=1.0),  # after half of it
        "AdamW": _result(_row([50, np.nan])),
        "INSGD": _result(_row([90, 90]), step=SLOWEST + 0.1),
    }
    found = profile({"one": board}, TUNED)
    assert {name: float(ratios[0]) for name, ratios in found.items()} == {
        "SGD": 2.0, "Muon": 1.0, "AdamW": np.inf, "INSGD": np.inf,
    }  # fmt: skip


def test_an_optimizer_that_was_not_run_on_a_workload_never_reaches_its_target():
    both = {"SGD": _result(_row([80, 90])), "INSGD": _result(_row([80, 90]))}
    found = profile({"one": both, "other": {"SGD": _result(_row([80, 90]))}}, TUNED)
    np.testing.assert_array_equal(found["INSGD"], [1, np.inf])


def test_a_peer_that_is_not_finite_is_no_best_peer_and_counts_as_zero_percent():
    board = {"SGD": _result(_row([np.nan, np.nan])), "Muon": _result(_row([40, 50]))}
    assert best_peer(board) == "Muon"
    assert difference(_row([50]), _row([np.nan])).mean == 50


def test_what_the_sources_do_is_neither_ours_nor_a_peer():
    board = {name: _result(_row([80])) for name in ("SGD", "paper", "INSGD", "INSGD Full")}
    assert peers(board) == ["SGD"]
    assert ours(board) == ["INSGD", "INSGD Full"]


def test_the_area_of_a_profile_is_one_for_who_is_always_fastest_and_zero_for_never():
    assert area(np.array([1.0, 1.0])) == 1
    assert area(np.array([np.inf])) == 0
    assert area(np.array([1.0, (1 + SLOWEST) / 2])) == pytest.approx(0.75)


def test_weights_of_classes_have_the_mean_one_over_the_examples_and_wait_for_their_start():
    log_frequency = np.log(np.array([0.8, 0.2]))
    deferred = METHODS["deferred weights"]
    late = class_weights(log_frequency, deferred, np.float32(0.8))
    np.testing.assert_allclose(late, [0.5 / 0.8, 0.5 / 0.2])
    np.testing.assert_allclose(class_weights(log_frequency, deferred, np.float32(0.6)), [1, 1])
