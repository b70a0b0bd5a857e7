"""Who counts as good as the best other optimizer, on numbers made by hand."""

import numpy as np
import pytest

from benchmarks.robustness.cell import Result
from benchmarks.robustness.comparison import Case, case, tally, verdict

PLACE = ("net", 8, "constant")
POOR = [50.0, 50.0, 50.0]


def accuracies(**scores: list[list[float]]) -> Case:
    """By optimizer: for each of three learning rates the accuracy of each seed."""
    return _case(10.0, [10.0] * 3, scores)


def losses(**scores: list[list[float]]) -> Case:
    return _case(None, [6.0] * 3, scores)


def _case(chance: float | None, start: list[float], scores: dict[str, list[list[float]]]) -> Case:
    found = {name: Result(np.array(start), np.array([s]), 0.0, 0.0) for name, s in scores.items()}
    return case(PLACE, found, 0, chance)


@pytest.mark.parametrize(
    ("ours", "outcome"),
    [([95.5, 95.5, 95.5], "win"), ([93.5, 93.5, 93.5], "tie"), ([92.5, 92.5, 92.5], "loss")],
)
def test_a_gap_of_more_than_one_point_is_no_tie(ours: list[float], outcome: str):
    found = accuracies(INSGD=[POOR, ours, POOR], Adam=[POOR, [94.0, 94.0, 94.0], POOR])
    assert verdict(found, "INSGD").outcome == outcome


@pytest.mark.parametrize(("loss", "outcome"), [(1.95, "tie"), (1.90, "win"), (2.1, "loss")])
def test_a_gap_of_more_than_three_percent_of_the_loss_is_no_tie(loss: float, outcome: str):
    found = losses(INSGD=[[3.0] * 3, [loss] * 3, [3.0] * 3], Adam=[[2.0] * 3, [2.5] * 3, [4.0] * 3])
    assert verdict(found, "INSGD").outcome == outcome
    assert verdict(found, "INSGD").gain == pytest.approx(50 * (2.0 - loss))


def test_two_standard_errors_of_the_paired_difference_are_a_tie():
    """Differences of -6, -2 and 2: mean -2, standard deviation 4, two errors 8 / √3 = 4.6."""
    found = accuracies(
        INSGD=[POOR, [84.0, 92.0, 92.0], POOR], Adam=[POOR, [90.0, 94.0, 90.0], POOR]
    )
    judged = verdict(found, "INSGD")
    assert (judged.gain, judged.outcome) == (-2, "tie")
    assert judged.tolerance == pytest.approx(8 / 3**0.5)


def test_a_common_difficulty_of_a_seed_does_not_widen_the_tolerance():
    found = accuracies(
        INSGD=[POOR, [60.0, 75.0, 90.0], POOR], Adam=[POOR, [62.0, 77.0, 92.0], POOR]
    )
    assert verdict(found, "INSGD") == (-2, 1, "loss")


def test_rivals_are_tuned_and_the_judged_optimizer_is_not():
    found = accuracies(
        INSGD=[POOR, [90.0] * 3, [99.0] * 3], Adam=[[97.0] * 3, POOR, POOR], SGD=[POOR, POOR, POOR]
    )
    assert found.best_rival("INSGD") == "Adam"
    assert verdict(found, "INSGD").gain == -7
    assert verdict(found, "Adam").gain == 50 - 99


@pytest.mark.parametrize("last", [np.nan, 14.9])
def test_one_diverged_seed_is_a_loss_although_it_widens_the_tolerance(last: float):
    found = accuracies(INSGD=[POOR, [94.0, 94.0, last], POOR], Adam=[POOR, [94.0] * 3, POOR])
    judged = verdict(found, "INSGD")
    assert judged.gain > -judged.tolerance
    assert judged.outcome == "loss"
    assert tally([found], "INSGD") == (1, 0, 0, 1, 1)


@pytest.mark.parametrize("last", [np.nan, np.inf, 6.1, 1e21])
def test_a_loss_that_is_not_finite_or_ends_above_its_start_has_diverged(last: float):
    found = losses(INSGD=[[2.0] * 3, [2.0, 2.0, last], [2.0] * 3], Adam=[[2.0] * 3] * 3)
    assert found.diverged_at_default("INSGD")
    assert found.at_default("INSGD").tolist() == [2, 2, 6]


def test_shares_count_wins_and_ties_over_all_cases():
    adam = [POOR, [94.0] * 3, POOR]
    cases = [
        accuracies(INSGD=[POOR, [mean] * 3, POOR], Adam=adam) for mean in (97.0, 94.0, 93.5, 20.0)
    ]
    found = tally(cases, "INSGD")
    assert found == (4, 1, 2, 1, 0)
    assert found.within == 0.75
