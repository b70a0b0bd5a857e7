"""The words, goals and columns of a report: each says what its numbers allow."""

import numpy as np
import pytest

from benchmarks.shared.trials import with_spread
from benchmarks.suite.comparison import profile, steps_to, time_to
from benchmarks.suite.goals import goals
from benchmarks.suite.methods import PLAIN
from benchmarks.suite.page import write_page
from benchmarks.suite.protocol import TUNED, USUAL, Result, Row
from benchmarks.suite.speed import Speed
from benchmarks.suite.words import in_words, outcome


def row(scores: list[float], kind: str = TUNED, schedule: str = "cosine") -> Row:
    """One run for each score, which it reaches at the fifth of ten points."""
    curve = np.array(scores) * np.minimum(np.arange(1, 11) / 5, 1)[:, None]
    recalls = np.array(scores)[:, None] * np.ones((1, 10))
    return Row(0.1, kind, schedule, PLAIN, curve, curve, curve[-1], recalls)


def text(losses: list[float], kind: str = TUNED, schedule: str = "cosine") -> Row:
    curve = np.array(losses) * np.ones((10, 1))
    recalls = np.zeros((len(losses), 0))
    return Row(0.1, kind, schedule, PLAIN, curve, -curve, curve[-1], recalls)


def result(
    tuned: list[float], usual: list[float] | None = None, make=row, step=1.0, state=1.0
) -> Result:
    scores = {TUNED: tuned, USUAL: tuned if usual is None else usual}
    rows = [
        make(each, kind, schedule)
        for kind, each in scores.items()
        for schedule in ("cosine", "constant")
    ]
    return Result("cosine", {0.01: 0.5, 0.1: 1.0, 1.0: 0.5}, rows, Speed(1e-3, step, state))


@pytest.mark.parametrize(
    ("mine", "expected"),
    [
        ([90.9, 90.9, 90.9], "tied"),
        ([89.1, 91.0, 87.2], "tied"),  # within a point, with a wide interval
        ([92.0, 92.1, 92.2], "won"),
        ([88.0, 88.1, 88.2], "lost"),
        ([80.0, 88.0, 96.0], "unclear"),
        ([84.0, 92.0, 100.0], "unclear"),
    ],
)
def test_a_gap_is_tied_within_a_point_and_unclear_beyond_it_within_its_interval(mine, expected):
    assert outcome(row(mine), row([90, 90, 90])) == expected


def test_a_single_seed_beyond_a_point_is_won_or_lost_and_shows_no_spread():
    assert outcome(row([92]), row([90])) == "won"
    assert with_spread(np.array([92.04]), 1) == "92.0"
    assert with_spread(np.array([92.0, 93.0]), 1) == "92.5 ± 0.7"


def test_the_words_count_what_is_unclear_and_explain_it():
    board = {"SGD": result([90, 90, 90]), "INSGD": result([80, 88, 96])}
    said = in_words({"one": board, "other": board})
    assert "tuned rate**, against the best tuned peer: won 0, tied 0, unclear 2, lost 0." in said
    assert "*Unclear*: further apart, but within that interval" in said


def test_no_sentence_calls_the_largest_area_the_fastest():
    board = {"SGD": result([80, 80]), "INSGD": result([100, 100])}
    said = in_words({"one": board})
    assert "**INSGD** has the largest area of the profile (1.00), then SGD (0.92)" in said


def test_the_first_goal_shows_how_often_each_main_peer_is_within_a_point_untuned():
    one = {
        "SGD": result([90, 90], [80, 80]),
        "AdamW": result([80, 80]),
        "Muon": result([89.5, 89.5]),
        "INSGD": result([90, 90]),
    }
    other = {"SGD": result([90, 90]), "AdamW": result([80, 80]), "INSGD": result([90, 90])}
    said = goals({"one": one, "other": other})
    assert "itself too: SGD 1 of 2, AdamW 0 of 2, Muon 1 of 1." in said


def test_goals_without_a_main_peer_are_said_to_be_incomplete():
    whole = {name: result([90, 90]) for name in ("SGD", "AdamW", "Muon", "INSGD")}
    lacking = {name: whole[name] for name in ("SGD", "INSGD")}
    assert "**Incomplete**" not in goals({"one": whole})
    said = goals({"one": whole, "other, text": lacking})
    assert "**Incomplete**, since main peers have not been run: other, text (AdamW, Muon)." in said


def test_the_state_goal_shows_low_rank_beside_the_default():
    board = {
        "SGD": result([90, 90]),
        "AdamW": result([90, 90], state=2.0),
        "INSGD": result([90, 90], state=1.1),
        "INSGD LowRank": result([90, 90], state=1.5),
    }
    said = goals({"one": board})
    assert "0.550 to 0.550 (INSGD LowRank: 0.750 to 0.750); goal 0.55: **met**" in said


def test_the_noise_in_the_step_of_sgd_over_itself_is_no_part_of_its_time():
    board = {"SGD": result([90, 90], step=1.18), "INSGD": result([90, 90], step=1.5)}
    assert time_to(board, "SGD", TUNED) == pytest.approx(0.5)
    assert time_to(board, "INSGD", TUNED) == pytest.approx(0.75)


def test_a_profile_in_steps_does_not_count_the_cost_of_a_step(tmp_path):
    board = {"SGD": result([90, 90]), "INSGD": result([90, 90], step=2.5)}
    assert profile({"one": board}, TUNED)["INSGD"].tolist() == [2.5]
    assert profile({"one": board}, TUNED, steps_to)["INSGD"].tolist() == [1.0]
    page = write_page({"one": board}, tmp_path / "quick")
    assert "| INSGD | 0.50 | 1 of 1 | 0.50 | 1 of 1 | 1.00 | 1.00 |" in page


@pytest.mark.parametrize(
    ("losses", "expected"),
    [([np.nan, np.inf], "diverged"), ([2.0, np.nan], "diverged in 1 of 2"), ([2.0, 2.0], "2.000")],
)
def test_a_text_that_diverged_has_no_number(losses, expected, tmp_path):
    board = {"SGD": result(losses, make=text), "INSGD": result([2.0, 2.0], make=text)}
    page = write_page({"one": board | {"Muon": board["INSGD"]}}, tmp_path / "quick")
    (line,) = (line for line in page.splitlines() if line.startswith("| SGD | 0.1 "))
    assert f"| {expected}" in line
    assert ("| – | 1.00 |" in line) == ("diverged" in expected)
    assert "1000" not in line and "99" not in line


def test_a_page_of_single_runs_shows_no_spread(tmp_path):
    board = {"SGD": result([90]), "INSGD": result([91])}
    page = write_page({"one": board}, tmp_path / "quick")
    assert "| 91.0 | 91.0 | 91.0 | 91.0 | +1.0 |" in page
    assert "nan" not in page and "±" not in page.partition("## one")[2]
