"""Runs one optimizer on one workload: tuning on validation data, then paired seeds and one test."""

import dataclasses
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from benchmarks.shared.schedules import SCHEDULES
from benchmarks.suite.contenders import BASELINE, everyone, trials
from benchmarks.suite.methods import METHODS, PLAIN
from benchmarks.suite.speed import Speed, speed
from benchmarks.suite.task import POINTS, Task
from benchmarks.suite.training import Scores, Trained, Trainer, run_of
from benchmarks.suite.workloads import task

TUNING_SEEDS = (100, 101, 102)
TUNED, USUAL = "tuned", "usual"
WORST_LOSS = 1e3  # for texts


@dataclasses.dataclass(frozen=True)
class Cell:
    """An optimizer on a workload.

    Attributes:
      data: the folder of data sets. None for workloads that need no folder.
      steps: the steps of a run. None for the workload's default.
      seeds: the number of runs after tuning. All optimizers share the seeds.
    """

    workload: str
    optimizer: str
    seeds: int
    data: Path | None = None
    steps: int | None = None

    @property
    def task(self) -> Task:
        chosen = task(self.workload, self.data)
        # A copy would forget its checksum, which reads all data.
        return dataclasses.replace(chosen, steps=self.steps) if self.steps else chosen

    @property
    def name(self) -> str:
        return f"{self.workload}, {self.optimizer}".replace(", ", "_").replace(" ", "-")

    def settings(self) -> dict[str, object]:
        """Results with equal settings belong to the same cell."""
        contender, chosen = everyone()[self.optimizer], self.task
        return {
            "workload": self.workload,
            "optimizer": self.optimizer,
            "seeds": self.seeds,
            "trials": trials(contender),
            "structure": repr(contender.structure),
            "schedule": contender.headline,
            "tuning": list(TUNING_SEEDS),
            "methods": {name: list(method) for name, method in METHODS.items()},
            "model": repr(chosen.model),
            "data": chosen.checksum,
            "points": POINTS,
            "batch": chosen.batch,
            "steps": chosen.steps,
            "examples": [len(part.labels) for part in chosen.data],
        }


class Row(NamedTuple):
    """Paired runs at one learning rate, with one schedule and one method for rare classes.

    Attributes:
      rate: the peak learning rate.
      kind: whether the rate is the tuned or the usual one.
      losses: validation losses.
      scores: balanced validation accuracies in percent. For texts, the negative losses.
      test_loss, test_recalls: the values at the end.
      test_accuracy, test_auc: of all test examples together. Missing in older files.
    """

    rate: float
    kind: str
    schedule: str
    method: str
    losses: Float[np.ndarray, "points seeds"]
    scores: Float[np.ndarray, "points seeds"]
    test_loss: Float[np.ndarray, "seeds"]
    test_recalls: Float[np.ndarray, "seeds classes"]
    test_accuracy: Float[np.ndarray, "seeds"] = np.zeros(0)
    test_auc: Float[np.ndarray, "seeds"] = np.zeros(0)

    @property
    def test_score(self) -> Float[np.ndarray, "seeds"]:
        return score(Scores(self.test_loss, self.test_recalls))


class Result(NamedTuple):
    """All results of a cell.

    Attributes:
      headline: the schedule used for tuning.
      tried: the final validation score of each learning rate.
    """

    headline: str
    tried: dict[float, float]
    rows: list[Row]
    speed: Speed


def score(scores: Scores) -> Float[np.ndarray, "..."]:
    """The score that compares runs. Larger is better, and NaN marks a diverged run."""
    if scores.recalls.shape[-1] == 0:
        return -np.asarray(scores.loss)
    return np.where(np.isfinite(scores.loss), np.nanmean(scores.recalls, axis=-1), np.nan)


def settled(scores: Float[np.ndarray, "..."], is_text: bool) -> Float[np.ndarray, "..."]:
    """Scores with a finite mean. A run that is not finite gets the worst score."""
    return np.where(np.isfinite(scores), scores, -WORST_LOSS if is_text else 0.0)


def run(cell: Cell) -> Result:
    """Tunes and runs a cell. Tuning uses one schedule and no method for rare classes."""
    chosen, contender = cell.task, everyone()[cell.optimizer]
    trainer, rates = Trainer(chosen, contender), trials(contender)
    headline, is_text = contender.headline, chosen.classes is None
    tried = {}
    for rate in rates:
        runs = [run_of(seed, rate, headline) for seed in TUNING_SEEDS]
        final = score(trainer.trained(runs, test=False).curve)[-1]
        tried[rate] = float(settled(final, is_text).mean())
    best = max(tried, key=tried.__getitem__)

    def row(kind: str, schedule: str, method: str = PLAIN) -> Row:
        rate = best if kind == TUNED else contender.usual_rate(schedule)
        runs = [run_of(seed, rate, schedule, method) for seed in range(cell.seeds)]
        return _row(rate, kind, schedule, method, trainer.trained(runs, test=True))

    rows = [row(kind, schedule) for kind in (TUNED, USUAL) for schedule in SCHEDULES]
    if chosen.is_imbalanced:
        rows += [row(TUNED, headline, method) for method in METHODS if method != PLAIN]
    return Result(headline, tried, rows, speed(trainer, Trainer(chosen, everyone()[BASELINE])))


def _row(rate: float, kind: str, schedule: str, method: str, found: Trained) -> Row:
    curve, test, *overall = found
    scores = curve.loss, score(curve), test.loss, test.recalls
    return Row(rate, kind, schedule, method, *scores, *overall)
