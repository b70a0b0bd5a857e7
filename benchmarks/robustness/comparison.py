"""Compares each untuned optimizer with the best of the others, and counts divergences."""

from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from benchmarks.robustness.cell import DEFAULT, Result

POINTS, SHARE = 1.0, 0.03  # smaller differences of accuracy and of loss do not count
ABOVE_CHANCE = 5.0  # points of accuracy that any successful training reaches

Scores = Float[np.ndarray, "factors seeds"]
Seeds = Float[np.ndarray, "seeds"]
Outcome = Literal["win", "tie", "loss"]


class Case(NamedTuple):
    """All optimizers on one network, batch size and schedule.

    Attributes:
      scores: the scores of each optimizer, see `settled`.
      diverged: marks the diverged runs of each optimizer.
      chance: the accuracy of guessing in percent. None if scores are losses.
    """

    net: str
    batch: int
    schedule: str
    scores: dict[str, Scores]
    diverged: dict[str, Bool[np.ndarray, "factors seeds"]]
    chance: float | None

    @property
    def sign(self) -> int:
        return -1 if self.chance is None else 1

    def best_factor(self, name: str) -> int:
        """The index of the learning rate with the best mean. Ties go to the smallest."""
        return int(np.argmax(self.sign * self.scores[name].mean(axis=1)))

    def best(self, name: str) -> Seeds:
        return self.scores[name][self.best_factor(name)]

    def at_default(self, name: str) -> Seeds:
        return self.scores[name][DEFAULT]

    def diverged_at_default(self, name: str) -> bool:
        return bool(self.diverged[name][DEFAULT].any())

    def best_rival(self, name: str) -> str:
        """The best other optimizer, each at its best learning rate."""
        others = [other for other in self.scores if other != name]
        return max(others, key=lambda other: self.sign * self.best(other).mean())


class Verdict(NamedTuple):
    """An optimizer at its default against its best rival at the rival's best learning rate.

    Attributes:
      gain: points of accuracy or percent of the loss. Positive if the optimizer is better.
      tolerance: the largest gain that counts as a tie, in the same unit.
    """

    gain: float
    tolerance: float
    outcome: Outcome


def case(
    place: tuple[str, int, str], found: dict[str, Result], row: int, chance: float | None
) -> Case:
    """The case of one schedule, which is the ``row`` of every result."""
    scores = {name: settled(r.scores[row], r.start, chance) for name, r in found.items()}
    diverged = {name: has_diverged(r.scores[row], r.start, chance) for name, r in found.items()}
    return Case(*place, scores, diverged, chance)


def has_diverged(
    scores: Scores, start: Seeds, chance: float | None
) -> Bool[np.ndarray, "factors seeds"]:
    """Marks runs that are not finite, near chance, or at a loss above the start's."""
    learned = scores <= start if chance is None else scores >= chance + ABOVE_CHANCE
    return ~(np.isfinite(scores) & learned)


def settled(scores: Scores, start: Seeds, chance: float | None) -> Scores:
    """Scores with a finite mean. Losses are capped at the start's. NaN accuracies become chance."""
    if chance is None:
        return np.fmin(scores, start)
    return np.where(np.isfinite(scores), scores, chance)


def verdict(case: Case, name: str) -> Verdict:
    """The outcome for an optimizer at its default learning rate.

    A tie is a gap below a fixed threshold, or below two standard errors of the paired difference.
    The larger bound counts. One diverged seed of three would hide behind the standard error it
    causes, so a diverged case always counts as a loss.
    """
    rival = case.best(case.best_rival(name))
    differences = case.sign * (case.at_default(name) - rival)
    unit = 1.0 if case.chance is not None else 100 / rival.mean()
    fixed = POINTS if case.chance is not None else 100 * SHARE
    tolerance = max(fixed, 2 * unit * standard_error(differences))
    gain = float(unit * differences.mean())
    if case.diverged_at_default(name) or gain < -tolerance:
        return Verdict(gain, tolerance, "loss")
    return Verdict(gain, tolerance, "win" if gain > tolerance else "tie")


def standard_error(values: Seeds) -> float:
    """The standard error of the mean. 0 for a single value."""
    return float(values.std(ddof=1) / len(values) ** 0.5) if len(values) > 1 else 0.0


class Tally(NamedTuple):
    """Counts of cases at the default learning rate."""

    cases: int
    wins: int
    ties: int
    losses: int
    diverged: int

    @property
    def within(self) -> float:
        """The share of wins and ties."""
        return (self.wins + self.ties) / self.cases if self.cases else 0.0


def tally(cases: list[Case], name: str) -> Tally:
    outcomes = [verdict(case, name).outcome for case in cases]
    wins, ties, losses = (outcomes.count(outcome) for outcome in ("win", "tie", "loss"))
    diverged = sum(case.diverged_at_default(name) for case in cases)
    return Tally(len(cases), wins, ties, losses, diverged)
