"""The time of a step relative to SGD's. Both take turns in one process."""

import statistics
import time
from typing import NamedTuple

import jax
import numpy as np

from benchmarks.suite.training import Trainer, run_of

ROUNDS, SECONDS = 7, 0.2  # about the length of a round for SGD


class Speed(NamedTuple):
    """The speed of a single run.

    Attributes:
      baseline_seconds: the seconds of a step of SGD.
      step: this optimizer's step over SGD's in the same round, as a median over rounds.
      state: the numbers in the optimizer's state relative to those in the parameters.
    """

    baseline_seconds: float
    step: float
    state: float


class Alone:
    """A single run with the program that trains."""

    def __init__(self, trainer: Trainer) -> None:
        self.run = run_of(0, trainer.contender.default_rate, "cosine")
        self.carry = jax.jit(trainer.started)(self.run)
        self.program = jax.jit(trainer.advanced, donate_argnums=0)
        self.train, self.at_once = trainer.train, trainer.steps_at_once
        self.rows = jax.device_put(trainer.task.rows(0)[: self.at_once])
        self.advance(1)

    def advance(self, calls: int) -> float:
        """Runs the program. Returns the seconds per step."""
        begin = time.perf_counter()
        for number in range(calls):
            first = np.int32(number * self.at_once)
            self.carry = self.program(self.carry, self.run, self.train, self.rows, first)
        jax.block_until_ready(self.carry)
        return (time.perf_counter() - begin) / (calls * self.at_once)


def speed(trainer: Trainer, baseline: Trainer) -> Speed:
    ours, theirs = Alone(trainer), Alone(baseline)
    calls = max(1, round(SECONDS / (theirs.advance(1) * theirs.at_once)))
    rounds = [(theirs.advance(calls), ours.advance(calls)) for _ in range(ROUNDS)]
    state, params = (
        sum(np.size(leaf) for leaf in jax.tree.leaves(part))
        for part in (ours.carry.state, ours.carry.params)
    )
    base = statistics.median(base for base, _ in rounds)
    ratio = statistics.median(ours / base for base, ours in rounds)
    return Speed(base, ratio, state / params)
