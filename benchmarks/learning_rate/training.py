"""Training on scikit-learn's digits, and the validation accuracy afterwards."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from benchmarks.shared.contender import Contender
from benchmarks.shared.data import Digits
from benchmarks.shared.step import Carry, applied, started, train_step

STEPS, BATCH = 300, 64


class Training(NamedTuple):
    """A run in three parts. The caller chooses the loop that is fast for its model.

    Attributes:
      start: maps a seed to the first carry and a key for each step. The seed draws the weights and
        the batches.
      step: maps a carry and a key to the next carry and the loss, as `jax.lax.scan` expects.
      accuracy: the validation accuracy of a carry in percent.
    """

    start: Callable[[Any], tuple[Carry, Array]]
    step: Callable[[Carry, Array], tuple[Carry, Array]]
    accuracy: Callable[[Carry], Float[Array, ""]]


def training(
    model: nn.Module, contender: Contender, rate: optax.ScalarOrSchedule, data: Digits
) -> Training:
    """Trains on `STEPS` batches of `BATCH` examples, each drawn without replacement."""

    def loss_fn(
        params: optax.Params, statistics: Any, images: Array, labels: Array
    ) -> tuple[Array, Any]:
        logits, statistics = applied(model, params, statistics, images)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return losses.mean(), statistics

    def start(seed: Any) -> tuple[Carry, Array]:
        params, statistics = started(model, jax.random.key(seed), data.images[:1])
        keys = jax.random.split(jax.random.key(seed + 1000), STEPS)
        return Carry(params, contender.optimizer(rate).init(params), statistics), keys

    def step(carry: Carry, key: Array) -> tuple[Carry, Array]:
        rows = jax.random.choice(key, len(data.images), (BATCH,), replace=False)
        batch = data.images[rows], data.labels[rows]
        return train_step(loss_fn, contender, rate, carry, batch)

    def accuracy(carry: Carry) -> Array:
        logits = jnp.asarray(model.apply({"params": carry.params}, data.validation_images))
        return 100 * jnp.mean(logits.argmax(-1) == data.validation_labels)

    return Training(start, step, accuracy)
