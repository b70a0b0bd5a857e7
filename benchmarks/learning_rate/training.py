"""Training on scikit-learn's digits, and the validation accuracy after it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

import insgd_optax as insgd
from benchmarks.gradient import gradient_of
from benchmarks.learning_rate.contenders import Contender
from benchmarks.shared.data import Digits

STEPS, BATCH = 300, 64


class Training(NamedTuple):
    """A run in three parts, so that a caller can loop in the way that is fast for its model.

    Attributes:
      start: the first carry (parameters and optimizer state) and a key for each step, of a seed,
        which draws the weights and the batches.
      step: the next carry, from one and a key, in the form of `jax.lax.scan`.
      accuracy: validation accuracy in percent, of a carry.
    """

    start: Callable[[Any], tuple[Any, Array]]
    step: Callable[[Any, Array], tuple[Any, None]]
    accuracy: Callable[[Any], Float[Array, ""]]


def training(
    model: nn.Module, contender: Contender, rate: optax.ScalarOrSchedule, data: Digits
) -> Training:
    """`STEPS` batches of `BATCH`, each drawn without replacement."""
    optimizer = contender.make(rate)

    def loss_fn(params: Any, images: Array, labels: Array) -> Array:
        logits = jnp.asarray(model.apply({"params": params}, images))
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    def start(seed: Any) -> tuple[Any, Array]:
        params = model.init(jax.random.key(seed), data.images[:1])["params"]
        keys = jax.random.split(jax.random.key(seed + 1000), STEPS)
        return (params, optimizer.init(params)), keys

    def step(carry: Any, key: Array) -> tuple[Any, None]:
        rows = jax.random.choice(key, len(data.images), (BATCH,), replace=False)
        batch = data.images[rows], data.labels[rows]
        return _step(loss_fn, optimizer, contender.structure, carry, *batch), None

    def accuracy(carry: Any) -> Array:
        logits = jnp.asarray(model.apply({"params": carry[0]}, data.validation_images))
        return 100 * jnp.mean(logits.argmax(-1) == data.validation_labels)

    return Training(start, step, accuracy)


def _step(
    loss_fn: Any,
    optimizer: optax.GradientTransformationExtraArgs,
    structure: insgd.Structure | None,
    carry: tuple[Any, Any],
    *batch: Array,
) -> tuple[Any, Any]:
    params, state = carry
    _, grads, extra = gradient_of(loss_fn, structure)(params, *batch)
    updates, state = optimizer.update(grads, state, params, **extra)
    return optax.apply_updates(params, updates), state
