"""How long a step takes beside SGD's, in one process and in turn."""

import statistics
import time
from typing import NamedTuple

import jax
import numpy as np

from benchmarks.suite.training import Trainer, run_of

ROUNDS, SECONDS = 5, 0.2  # a round takes about as long for SGD


class Speed(NamedTuple):
    """Of one run alone, not of several together.

    Attributes:
      baseline_seconds: of a step of SGD.
      step: the median over rounds of this optimizer's step over SGD's in the same round.
      state: numbers in the optimizer's state over those in the parameters.
    """

    baseline_seconds: float
    step: float
    state: float


class Alone:
    """One run, a step at a time."""

    def __init__(self, trainer: Trainer) -> None:
        self.run = run_of(0, trainer.contender.default_rate, "cosine")
        self.carry = jax.jit(trainer.started)(self.run)
        self.step = jax.jit(trainer.step, donate_argnums=0)
        self.train, self.rows = trainer.train, trainer.task.rows(0)
        self.advance(2)

    def advance(self, steps: int) -> float:
        """The seconds that a step took."""
        begin = time.perf_counter()
        for number in range(steps):
            self.carry = self.step(self.carry, self.run, self.train, self.rows[0], number)
        jax.block_until_ready(self.carry)
        return (time.perf_counter() - begin) / steps


def speed(trainer: Trainer, baseline: Trainer) -> Speed:
    ours, theirs = Alone(trainer), Alone(baseline)
    steps = max(1, round(SECONDS / theirs.advance(3)))
    rounds = [(theirs.advance(steps), ours.advance(steps)) for _ in range(ROUNDS)]
    state, params = (
        sum(np.size(leaf) for leaf in jax.tree.leaves(part))
        for part in (ours.carry.state, ours.carry.params)
    )
    base = statistics.median(b for b, _ in rounds)
    ratio = statistics.median(a / b for b, a in rounds)
    return Speed(base, ratio, state / params)
