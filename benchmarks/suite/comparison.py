"""What follows from the results: paired differences, times to a target, and the profile."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import stats

from benchmarks.shared.contender import OURS
from benchmarks.suite.methods import PLAIN
from benchmarks.suite.protocol import TUNED, USUAL, Cell, Result, Row

POINTS, SHARE = 1.0, 0.03  # differences of accuracy and of loss that do not count
SLOWEST = 4.0  # times the fastest: a time beyond it counts as never

# The results of one workload, by optimizer.
Board = Mapping[str, Result]


class Difference(NamedTuple):
    """Of paired runs: the mean, and half of its 95 % interval (nan for one seed)."""

    mean: float
    half: float


def boards(found: Mapping[Cell, Result]) -> dict[str, Board]:
    """By workload, in the order of the suite."""
    by_workload: dict[str, dict[str, Result]] = {}
    for cell, result in found.items():
        by_workload.setdefault(cell.workload, {})[cell.optimizer] = result
    return {workload: board for workload, board in by_workload.items()}


def is_ours(optimizer: str) -> bool:
    return optimizer.startswith(OURS)


def peers(board: Board) -> list[str]:
    return [name for name in board if not is_ours(name)]


def row_of(result: Result, kind: str, schedule: str = "cosine", method: str = PLAIN) -> Row:
    wanted = kind, schedule, method
    return next(row for row in result.rows if (row.kind, row.schedule, row.method) == wanted)


def is_text(row: Row) -> bool:
    return row.test_recalls.shape[-1] == 0


def settled(scores: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """A run that is not finite is as bad as can be, and still has a mean."""
    return np.where(np.isfinite(scores), scores, -1e3 if np.nanmax(scores, initial=-1) < 0 else 0.0)


def final(row: Row) -> float:
    """The mean test score."""
    return float(settled(row.test_score).mean())


def best_peer(board: Board) -> str:
    """The tuned peer with the best test score."""
    return max(peers(board), key=lambda name: final(row_of(board[name], TUNED)))


def difference(one: Row, other: Row) -> Difference:
    """In points of balanced test accuracy, or in percent of the loss; above 0 ``one`` is better."""
    gaps = settled(one.test_score) - settled(other.test_score)
    unit = 100 / float(np.mean(other.test_loss)) if is_text(one) else 1.0
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
    end = float(row.scores[-1].mean())
    return end * (1 + SHARE) if is_text(row) else end - POINTS


def time_to(board: Board, name: str, kind: str) -> float:
    """Until the mean validation score reaches the target, in units of SGD's whole run."""
    result, row = board[name], row_of(board[name], kind)
    reached = np.flatnonzero(settled(row.scores).mean(axis=1) >= target(board))
    if not len(reached):
        return float("inf")
    return (reached[0] + 1) / len(row.scores) * result.speed.step


def profile(found: Mapping[str, Board], kind: str) -> dict[str, Float[np.ndarray, "workloads"]]:
    """By optimizer, each workload's time over that of the fastest; infinite if too slow."""
    names = set.intersection(*(set(board) for board in found.values()))
    ratios: dict[str, list[float]] = {}
    for board in found.values():
        times = {name: time_to(board, name, kind) for name in board if name in names}
        fastest = min(times.values())
        for name, time in times.items():
            ratio = time / fastest if np.isfinite(fastest) else float("inf")
            ratios.setdefault(name, []).append(ratio if ratio <= SLOWEST else float("inf"))
    return {name: np.array(values) for name, values in ratios.items()}


def area(ratios: Float[np.ndarray, "workloads"]) -> float:
    """Of the profile between 1 and `SLOWEST`, as a share of the largest possible one."""
    return float(np.mean(np.clip((SLOWEST - ratios) / (SLOWEST - 1), 0, 1)))


KINDS = (TUNED, USUAL)
