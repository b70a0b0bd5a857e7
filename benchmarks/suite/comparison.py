"""Paired differences, times to a target and the performance profile of the results."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import stats

from benchmarks.shared.contender import OURS
from benchmarks.suite.contenders import BASELINE, WHITE, everyone
from benchmarks.suite.methods import PLAIN
from benchmarks.suite.protocol import TUNED, USUAL, Result, Row, settled

POINTS, SHARE = 1.0, 0.03  # smaller differences of accuracy and of loss do not count
SLOWEST = 4.0  # times the fastest. Anything slower counts as never.
KINDS = (TUNED, USUAL)

# The results of one workload, by optimizer.
Board = Mapping[str, Result]


class Difference(NamedTuple):
    """The mean difference of paired runs and half of its 95 % interval (NaN for one seed)."""

    mean: float
    half: float


def ours(board: Board) -> list[str]:
    """The library's optimizers. `paper` and `released` count neither as ours nor as peers."""
    return [name for name in board if name.startswith(OURS) or name.endswith(WHITE)]


def peers(board: Board) -> list[str]:
    """The optimizers that do not look at inputs."""
    return [name for name in board if everyone()[name].structure is None]


def row_of(result: Result, kind: str, schedule: str = "", method: str = PLAIN) -> Row:
    """The row of a result, by default with the schedule that the optimizer is designed for."""
    wanted = kind, schedule or result.headline, method
    for row in result.rows:
        if (row.kind, row.schedule, row.method) == wanted:
            return row
    raise LookupError(
        f"A result has no row with the {kind} rate, the schedule '{wanted[1]}' and the method "
        f"'{method}'. Make its file again: python -m benchmarks run --again --workload NAME"
    )


def is_text(row: Row) -> bool:
    return row.test_recalls.shape[-1] == 0


def diverged(row: Row) -> int:
    """How many runs of a text are not finite. Their scores are a large placeholder.

    An accuracy needs none: a run that is not finite has 0.
    """
    return int((~np.isfinite(row.test_loss)).sum()) if is_text(row) else 0


def tested(row: Row) -> Float[np.ndarray, "seeds"]:
    """Test scores, settled."""
    return settled(row.test_score, is_text(row))


def validated(row: Row) -> Float[np.ndarray, "points"]:
    """Mean validation scores, settled."""
    return settled(row.scores, is_text(row)).mean(axis=1)


def best(board: Board, names: list[str]) -> str:
    """The one with the best validation score at the tuned rate."""
    return max(names, key=lambda name: float(validated(row_of(board[name], TUNED))[-1]))


def best_peer(board: Board) -> str:
    return best(board, peers(board))


def difference(one: Row, other: Row) -> Difference:
    """Points of balanced test accuracy, or percent of the loss. Above 0 ``one`` is better."""
    gaps = tested(one) - tested(other)
    unit = 100 / abs(float(tested(other).mean())) if is_text(one) else 1.0
    seeds = len(gaps)
    if seeds < 2:
        return Difference(unit * float(gaps.mean()), float("nan"))
    half = stats.t.ppf(0.975, seeds - 1) * gaps.std(ddof=1) / seeds**0.5
    return Difference(unit * float(gaps.mean()), unit * float(half))


def tolerance(row: Row) -> float:
    """The largest difference that does not count, in the unit of `difference`."""
    return 100 * SHARE if is_text(row) else POINTS


def within(one: Row, other: Row) -> bool:
    """Whether a row is behind by at most a point, or by at most three percent of the loss."""
    return difference(one, other).mean >= -tolerance(one)


def target(board: Board) -> float:
    """The final validation score of the best tuned peer, less the tolerance."""
    row = row_of(board[best_peer(board)], TUNED)
    end = float(validated(row)[-1])
    return end * (1 + SHARE) if is_text(row) else end - POINTS


def steps_to(board: Board, name: str, kind: str) -> float:
    """The share of a run until the mean validation score reaches the target."""
    row = row_of(board[name], kind)
    reached = np.flatnonzero(validated(row) >= target(board))
    return (reached[0] + 1) / len(row.scores) if len(reached) else float("inf")


def step_ratio(board: Board, name: str) -> float:
    """The time of a step over SGD's. SGD's own measured ratio is noise around 1."""
    return 1.0 if name == BASELINE else board[name].speed.step


def time_to(board: Board, name: str, kind: str) -> float:
    """The time until the mean validation score reaches the target, in SGD's whole runs."""
    return steps_to(board, name, kind) * step_ratio(board, name)


def profile(
    found: Mapping[str, Board], kind: str, cost: Callable[[Board, str, str], float] = time_to
) -> dict[str, Float[np.ndarray, "workloads"]]:
    """Each optimizer's time (or other cost) on each workload, relative to the fastest.

    Infinite if the optimizer is too slow or was not run.
    """
    names = dict.fromkeys(name for board in found.values() for name in board)
    ratios: dict[str, list[float]] = {name: [] for name in names}
    for board in found.values():
        times = {name: cost(board, name, kind) for name in board}
        fastest = min(times.values())
        for name, values in ratios.items():
            ratio = times.get(name, np.inf) / fastest if np.isfinite(fastest) else np.inf
            values.append(ratio if ratio <= SLOWEST else np.inf)
    return {name: np.array(values) for name, values in ratios.items()}


def area(ratios: Float[np.ndarray, "workloads"]) -> float:
    """The area of the profile from 1 to `SLOWEST`, as a share of the largest possible area."""
    return float(np.mean(np.clip((SLOWEST - ratios) / (SLOWEST - 1), 0, 1)))
