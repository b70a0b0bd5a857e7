"""A small Flax NNX network and one train step for each kind of optimizer."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float

import insgd_optax as insgd
from digits_data import NUM_CLASSES, Digits, Split, batch_rows

Params = Any


class ConvNet(nnx.Module):
    """Two convolutions with average pooling, then a linear layer; no normalization layers."""

    def __init__(self, rngs: nnx.Rngs):
        self.conv1 = nnx.Conv(1, 16, (3, 3), rngs=rngs)
        self.conv2 = nnx.Conv(16, 32, (3, 3), rngs=rngs)
        self.head = nnx.Linear(2 * 2 * 32, NUM_CLASSES, rngs=rngs)

    def __call__(self, images: Float[Array, "batch 8 8 1"]) -> Float[Array, "batch classes"]:
        hidden = nnx.avg_pool(nnx.relu(self.conv1(images)), (2, 2), (2, 2))
        hidden = nnx.avg_pool(nnx.relu(self.conv2(hidden)), (2, 2), (2, 2))
        return self.head(hidden.reshape(len(images), -1))


GRAPHDEF, _ = nnx.split(nnx.eval_shape(lambda: ConvNet(nnx.Rngs(0))))


@jax.jit
def initial_params(seed: int) -> Params:
    return nnx.state(ConvNet(nnx.Rngs(jax.random.key(seed))))


@jax.jit
def predict(params: Params, images: Float[Array, "batch 8 8 1"]) -> Float[Array, "batch classes"]:
    return nnx.merge(GRAPHDEF, params)(images)


def loss_fn(params: Params, batch: Split) -> Float[Array, ""]:
    logits = predict(params, batch.images)
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch.labels).mean()


# The two kinds of train step, side by side: this is all that a training loop has to change.
def plain_step(optimizer, params, opt_state, batch):
    _, grads = jax.value_and_grad(loss_fn)(params, batch)
    updates, opt_state = optimizer.update(grads, opt_state, params)
    return optax.apply_updates(params, updates), opt_state


def input_normalized_step(optimizer, params, opt_state, batch):
    _, grads, input_stats = insgd.value_and_grad(loss_fn)(params, batch)
    updates, opt_state = optimizer.update(grads, opt_state, params, input_stats=input_stats)
    return optax.apply_updates(params, updates), opt_state


@dataclass(frozen=True)
class Contender:
    """An optimizer with the middle of the learning rates to try and the train step it needs."""

    name: str
    make_optimizer: Callable[[optax.Schedule], optax.GradientTransformation]
    step: Callable[..., tuple[Params, optax.OptState]]
    middle_rate: float

    def rates(self, trials: int) -> list[float]:
        """`trials` learning rates over three decades, evenly spaced in their logarithm."""
        exponents = np.linspace(-1.5, 1.5, trials) if trials > 1 else np.zeros(1)
        return [float(f"{self.middle_rate * 10**exponent:.2g}") for exponent in exponents]


CONTENDERS = (
    Contender("SGD", lambda rate: optax.sgd(rate, momentum=0.9), plain_step, 0.1),
    Contender("Adam", optax.adam, plain_step, 0.01),
    Contender("INSGD", lambda rate: insgd.insgd(rate, momentum=0.9), input_normalized_step, 0.01),
)


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
    return contender.step(optimizer, params, opt_state, batch)


def recalls(params: Params, split: Split) -> Float[np.ndarray, "classes"]:
    """For each digit, the fraction of its examples that the network recognizes."""
    hits = np.asarray(predict(params, split.images).argmax(axis=-1)) == split.labels
    return np.bincount(split.labels, weights=hits) / np.bincount(split.labels)


def balanced_accuracy(params: Params, split: Split) -> float:
    """The mean of the recalls: every digit counts the same, however rare."""
    return float(recalls(params, split).mean())


def state_size(contender: Contender, params: Params) -> int:
    """How many numbers the optimizer keeps between steps."""
    opt_state = contender.make_optimizer(lambda _: contender.middle_rate).init(params)
    return sum(leaf.size for leaf in jax.tree.leaves(opt_state))
