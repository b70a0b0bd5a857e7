"""What follows from the results: paired differences, times to a target, and the profile."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import stats

from benchmarks.shared.contender import OURS
from benchmarks.suite.contenders import WHITE, everyone
from benchmarks.suite.methods import PLAIN
from benchmarks.suite.protocol import TUNED, USUAL, Result, Row, settled

POINTS, SHARE = 1.0, 0.03  # differences of accuracy and of loss that do not count
SLOWEST = 4.0  # times the fastest: a time beyond it counts as never
KINDS = (TUNED, USUAL)

# The results of one workload, by optimizer.
Board = Mapping[str, Result]


class Difference(NamedTuple):
    """Of paired runs: the mean, and half of its 95 % interval (nan for one seed)."""

    mean: float
    half: float


def ours(board: Board) -> list[str]:
    """The library's optimizers. `paper` and `released` count neither as ours nor as peers."""
    return [name for name in board if name.startswith(OURS) or name.endswith(WHITE)]


def peers(board: Board) -> list[str]:
    """The optimizers that look at no input."""
    return [name for name in board if everyone()[name].structure is None]


def row_of(result: Result, kind: str, schedule: str = "", method: str = PLAIN) -> Row:
    """By default with the schedule that the optimizer is made for."""
    wanted = kind, schedule or result.headline, method
    return next(row for row in result.rows if (row.kind, row.schedule, row.method) == wanted)


def is_text(row: Row) -> bool:
    return row.test_recalls.shape[-1] == 0


def tested(row: Row) -> Float[np.ndarray, "seeds"]:
    """Test scores, settled."""
    return settled(row.test_score, is_text(row))


def validated(row: Row) -> Float[np.ndarray, "points"]:
    """Mean validation scores, settled."""
    return settled(row.scores, is_text(row)).mean(axis=1)


def best(board: Board, names: list[str]) -> str:
    """Of some, the one with the best validation score at the tuned rate."""
    return max(names, key=lambda name: float(validated(row_of(board[name], TUNED))[-1]))


def best_peer(board: Board) -> str:
    return best(board, peers(board))


def difference(one: Row, other: Row) -> Difference:
    """In points of balanced test accuracy, or in percent of the loss; above 0 ``one`` is better."""
    gaps = tested(one) - tested(other)
    unit = 100 / abs(float(tested(other).mean())) if is_text(one) else 1.0
    seeds = len(gaps)
    if seeds < 2:
        return Difference(unit * float(gaps.mean()), float("nan"))
    half = stats.t.ppf(0.975, seeds - 1) * gaps.std(ddof=1) / seeds**0.5
    return Difference(unit * float(gaps.mean()), unit * float(half))


def within(one: Row, other: Row) -> bool:
    """Whether a row is not behind by more than a point, or by three percent of the loss."""
    return difference(one, other).mean >= -(100 * SHARE if is_text(one) else POINTS)


def target(board: Board) -> float:
    """The validation score that the best tuned peer ends with, less what does not count."""
    row = row_of(board[best_peer(board)], TUNED)
    end = float(validated(row)[-1])
    return end * (1 + SHARE) if is_text(row) else end - POINTS


def time_to(board: Board, name: str, kind: str) -> float:
    """Until the mean validation score reaches the target, in units of SGD's whole run."""
    result, row = board[name], row_of(board[name], kind)
    reached = np.flatnonzero(validated(row) >= target(board))
    if not len(reached):
        return float("inf")
    return (reached[0] + 1) / len(row.scores) * result.speed.step


def profile(found: Mapping[str, Board], kind: str) -> dict[str, Float[np.ndarray, "workloads"]]:
    """By optimizer, each workload's time over that of the fastest.

    Infinite if it is too slow, or was not run.
    """
    names = dict.fromkeys(name for board in found.values() for name in board)
    ratios: dict[str, list[float]] = {name: [] for name in names}
    for board in found.values():
        times = {name: time_to(board, name, kind) for name in board}
        fastest = min(times.values())
        for name, values in ratios.items():
            ratio = times.get(name, np.inf) / fastest if np.isfinite(fastest) else np.inf
            values.append(ratio if ratio <= SLOWEST else np.inf)
    return {name: np.array(values) for name, values in ratios.items()}


def area(ratios: Float[np.ndarray, "workloads"]) -> float:
    """Of the profile between 1 and `SLOWEST`, as a share of the largest possible one."""
    return float(np.mean(np.clip((SLOWEST - ratios) / (SLOWEST - 1), 0, 1)))
