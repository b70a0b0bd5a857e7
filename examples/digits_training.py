"""Training: one contender with one learning rate and one seed at a time."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import jax
import numpy as np
import optax
from jaxtyping import Float

from digits_contenders import Contender
from digits_data import Digits, Split, batch_rows
from digits_network import Params, initial_params, predict


class Run(NamedTuple):
    """One training run: its last parameters, how it went and how long its steps took."""

    params: Params
    curve: list[float]  # validation balanced accuracy, at the trainer's `checkpoints`
    seconds: float


@dataclass(frozen=True)
class Trainer:
    """Trains one contender at a time; what all runs have in common is a field."""

    digits: Digits
    steps: int
    batch_size: int
    check_every: int
    on_steps: Callable[[int], object]  # told how many steps were just done

    @property
    def checkpoints(self) -> list[int]:
        """The numbers of steps after which a run is scored on the validation split."""
        return [*range(0, self.steps, self.check_every), self.steps]

    def run(self, contender: Contender, rate: float, seed: int) -> Run:
        """The seed decides the initial weights and the order of the data."""
        params = initial_params(seed)
        opt_state = contender.make_optimizer(lambda _: rate).init(params)
        train = jax.device_put(self.digits.train)
        rows = batch_rows(len(train.labels), self.batch_size, self.steps, seed)
        curve = [balanced_accuracy(params, self.digits.validation)]
        seconds = 0.0
        for start, stop in pairwise(self.checkpoints):
            began = time.perf_counter()
            for batch in rows[start:stop]:
                params, opt_state = train_step(
                    contender, self.steps, rate, params, opt_state, train, batch
                )
            jax.block_until_ready(params)
            seconds += time.perf_counter() - began
            curve.append(balanced_accuracy(params, self.digits.validation))
            self.on_steps(stop - start)
        return Run(params, curve, seconds)


@partial(jax.jit, static_argnames=("contender", "total_steps"))
def train_step(contender, total_steps, rate, params, opt_state, train, rows):
    """One jitted step; `rate` is an argument, so that all rates share one compilation."""
    optimizer = contender.make_optimizer(optax.cosine_decay_schedule(rate, total_steps))
    batch = Split(train.images[rows], train.labels[rows])
    similar = contender.similar(opt_state, batch)
    factors = contender.prior(opt_state), contender.weights(opt_state, similar)
    seen = {"groups": batch.labels, "similar": similar, "features": batch.images}
    return contender.step(optimizer, params, opt_state, batch, *factors, **seen)


def recalls(params: Params, split: Split) -> Float[np.ndarray, "classes"]:
    """For each digit, the fraction of its examples that the network recognizes."""
    hits = np.asarray(predict(params, split.images).argmax(axis=-1)) == split.labels
    return np.bincount(split.labels, weights=hits) / np.bincount(split.labels)


def balanced_accuracy(params: Params, split: Split) -> float:
    """The mean of the recalls: every digit counts the same, however rare."""
    return float(recalls(params, split).mean())


def state_size(contender: Contender, params: Params) -> int:
    """How many numbers the optimizer keeps between steps."""
    opt_state = contender.make_optimizer(optax.constant_schedule(contender.middle_rate)).init(
        params
    )
    return sum(leaf.size for leaf in jax.tree.leaves(opt_state))
