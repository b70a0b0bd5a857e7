"""Every optimizer with every loss on one data set: tuned alike, then trained with fresh seeds."""

import time
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from benchmarks.class_balance.contenders import Balance, contenders, losses_of
from benchmarks.class_balance.data import Cut, Task
from benchmarks.class_balance.training import Program, program, recalls, trained
from benchmarks.trials import searched

SEARCH_SEED = 100


class Row(NamedTuple):
    """An optimizer with a loss.

    Attributes:
      tuning: balanced validation accuracy by learning rate, on a seed of its own, for each cut.
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
    """An optimizer with each of its losses.

    The test images are looked at once a run, at its end, and not in tuning, which every cut of the
    data has for itself: what one cut tests on, others train on.
    """
    contender, rows = contenders()[optimizer], []
    compiled, cuts = program(task, contender), task.cuts[:seeds]
    for loss, balance in losses_of(optimizer).items():
        start = time.perf_counter()
        tuning = [_tuned(compiled, task, cut, contender.center, balance) for cut in cuts]
        rates = [max(tried, key=tried.__getitem__) for tried in tuning]
        held, test = [], []
        for seed in range(seeds):
            cut, rate = cuts[seed % len(cuts)], rates[seed % len(cuts)]
            run = trained(compiled, task, cut.train, rate, balance, seed)
            held.append(recalls(compiled, run, cut.validation))
            test.append(recalls(compiled, run, cut.test))
        rows.append(Row(optimizer, loss, tuning, rates, np.stack(held), np.stack(test)))
        seconds = time.perf_counter() - start
        print(
            f"{task.name}: {rows[-1].name} at {rates}: validation {np.mean(held):.1f}, "
            f"test {np.mean(test):.1f} ({seconds:.0f} s)",
            flush=True,
        )
    return rows


def _tuned(
    compiled: Program, task: Task, cut: Cut, center: float, balance: Balance
) -> dict[float, float]:
    """The mean of the recalls: the validation split may be imbalanced itself."""

    def score(rate: float) -> float:
        run = trained(compiled, task, cut.train, rate, balance, SEARCH_SEED)
        return float(recalls(compiled, run, cut.validation).mean())

    return searched(center, score)
