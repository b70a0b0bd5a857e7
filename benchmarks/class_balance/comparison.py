"""Every optimizer with every loss on one data set: tuned with a plain loss, then fresh seeds."""

import time
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from benchmarks.class_balance.contenders import LOSSES, PLAIN, Balance, contenders, losses_of
from benchmarks.class_balance.data import Cut, Task
from benchmarks.class_balance.training import Program, program, recalls, trained
from benchmarks.shared.trials import searched

SEARCH_SEED = 100


class Row(NamedTuple):
    """An optimizer with a loss.

    Attributes:
      tuning: balanced validation accuracy by learning rate, for each cut: with a plain loss, on a
        separate seed.
      rates: the best of these.
      validation, test: recalls in percent.
    """

    optimizer: str
    loss: str
    tuning: list[dict[float, float]]
    rates: list[float]
    validation: Float[np.ndarray, "seeds classes"]
    test: Float[np.ndarray, "seeds classes"]

    @property
    def name(self) -> str:
        return f"{self.optimizer}, {self.loss}"

    def as_json(self) -> dict[str, Any]:
        arrays = {"validation": self.validation.tolist(), "test": self.test.tolist()}
        return {**self._asdict(), **arrays}


def compared(task: Task, optimizer: str, seeds: int) -> list[Row]:
    """An optimizer with each of its losses, at the learning rate that is best with a plain one.

    Each cut of the data is tuned separately, because the test images of one are training images of
    another.
    """
    contender, cuts = contenders()[optimizer], task.cuts[:seeds]
    compiled = program(task, contender)
    tuning = [_tuned(compiled, task, cut, contender.center) for cut in cuts]
    rates = [max(tried, key=tried.__getitem__) for tried in tuning]
    rows = []
    for loss, balance in losses_of(optimizer).items():
        start = time.perf_counter()
        held, test = _recalls(compiled, task, rates, balance, seeds)
        rows.append(Row(optimizer, loss, tuning, rates, held, test))
        seconds = time.perf_counter() - start
        print(
            f"{task.name}: {rows[-1].name} at {rates}: validation {held.mean():.1f}, "
            f"test {test.mean():.1f} ({seconds:.0f} s)",
            flush=True,
        )
    return rows


def _recalls(
    compiled: Program, task: Task, rates: list[float], balance: Balance, seeds: int
) -> tuple[np.ndarray, np.ndarray]:
    """On validation and on test images, after a run for every seed.

    The test images are looked at once a run, at its end.
    """
    held, test = [], []
    for seed in range(seeds):
        cut, rate = task.cuts[seed % len(rates)], rates[seed % len(rates)]
        run = trained(compiled, task, cut.train, rate, balance, seed)
        held.append(recalls(compiled, run, cut.validation))
        test.append(recalls(compiled, run, cut.test))
    return np.stack(held), np.stack(test)


def _tuned(compiled: Program, task: Task, cut: Cut, center: float) -> dict[float, float]:
    """The mean of the recalls with a plain loss: the validation split may be imbalanced itself."""

    def score(rate: float) -> float:
        run = trained(compiled, task, cut.train, rate, LOSSES[PLAIN], SEARCH_SEED)
        return float(recalls(compiled, run, cut.validation).mean())

    return searched(center, score)
