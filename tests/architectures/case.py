"""A network and its data, and the loss that it reaches."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits

STEPS, BATCH = 100, 32


@dataclasses.dataclass(frozen=True)
class Case:
    """A network with its data.

    Attributes:
      params: its parameters.
      state: what else it keeps, such as running averages; or what is frozen.
      loss_fn: from both and a batch to the loss and the new state.
      batches: one for each step, stacked.
    """

    params: Any
    state: Any
    loss_fn: Callable[[Any, Any, Any], tuple[jax.Array, Any]]
    batches: Any


def digits() -> tuple[jax.Array, jax.Array]:
    """Batches of scikit-learn's digits: images of 8 x 8 pixels and their classes."""
    images, labels = load_digits(return_X_y=True)
    drawn = np.random.default_rng(0).integers(0, len(images), (STEPS, BATCH))
    pixels = images[drawn].reshape(STEPS, BATCH, 8, 8) / 16
    return jnp.asarray(pixels, jnp.float32), jnp.asarray(labels[drawn])


def tokens(vocabulary: int, length: int) -> jax.Array:
    """Batches of sequences in which three of four tokens follow from the one before."""
    rng = np.random.default_rng(1)
    drawn = rng.integers(0, vocabulary, (STEPS, BATCH, length))
    follows = rng.random(drawn.shape) < 0.75
    for place in range(1, length):
        next_token = (3 * drawn[..., place - 1] + 1) % vocabulary
        drawn[..., place] = np.where(follows[..., place], next_token, drawn[..., place])
    return jnp.asarray(drawn)


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def last_loss(step: Callable[[Any, Any], tuple[Any, jax.Array]], start: Any, case: Case) -> Any:
    """The mean loss of the last ten steps."""
    return jnp.mean(jax.lax.scan(step, start, case.batches)[1][-10:])
