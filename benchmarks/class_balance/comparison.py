"""Every optimizer with every loss on one data set: tuned alike, then trained with fresh seeds."""

import time
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from benchmarks.class_balance.contenders import Balance, contenders, losses_of
from benchmarks.class_balance.data import Task
from benchmarks.class_balance.training import Program, program, recalls, trained

SEARCH_SEED = 100


class Row(NamedTuple):
    """An optimizer with a loss.

    Attributes:
      tuning: balanced validation accuracy by learning rate, on a seed of its own.
      rate: the best of these.
      validation, test: recalls in percent.
    """

    optimizer: str
    loss: str
    tuning: dict[float, float]
    rate: float
    validation: Float[np.ndarray, "seeds classes"]
    test: Float[np.ndarray, "seeds classes"]

    @property
    def name(self) -> str:
        return f"{self.optimizer}, {self.loss}"

    def as_json(self) -> dict[str, Any]:
        arrays = {"validation": self.validation.tolist(), "test": self.test.tolist()}
        return {**self._asdict(), **arrays}


def compared(task: Task, seeds: int) -> list[Row]:
    """The test images are looked at once a run, at its end, and not in tuning."""
    rows = []
    for optimizer, contender in contenders().items():
        compiled = program(task, contender)
        for loss, balance in losses_of(optimizer).items():
            start = time.perf_counter()
            tuning = _tuned(compiled, task, contender.rates(), balance)
            rate = max(tuning, key=tuning.__getitem__)
            runs = [trained(compiled, task, rate, balance, seed) for seed in range(seeds)]
            held, test = (
                np.stack([recalls(compiled, run, split) for run in runs])
                for split in (task.validation, task.test)
            )
            rows.append(Row(optimizer, loss, tuning, rate, held, test))
            seconds = time.perf_counter() - start
            print(
                f"{task.name}: {rows[-1].name} at {rate:g}: validation {held.mean():.1f}, "
                f"test {test.mean():.1f} ({len(tuning) + seeds} runs in {seconds:.0f} s)",
                flush=True,
            )
    return rows


def _tuned(
    compiled: Program, task: Task, rates: list[float], balance: Balance
) -> dict[float, float]:
    """The mean of the recalls: the validation split may be imbalanced itself."""
    found = {}
    for rate in rates:
        run = trained(compiled, task, rate, balance, SEARCH_SEED)
        found[rate] = float(recalls(compiled, run, task.validation).mean())
    return found
