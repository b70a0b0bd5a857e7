"""One train step for every optimizer."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import optax
from jaxtyping import Array, Float, PyTree

from benchmarks.gradient import gradient_of
from benchmarks.shared.contender import Contender

Batch = tuple[PyTree[Array], PyTree[Array]]  # inputs and targets
# From parameters, statistics, inputs and targets to the mean loss and new statistics.
Loss = Callable[..., tuple[Float[Array, ""], PyTree[Array]]]


class Carry(NamedTuple):
    """All that goes from step to step.

    Attributes:
      params: the parameters.
      state: the optimizer's state.
      statistics: arrays that the network updates without a gradient, as BatchNorm does.
    """

    params: PyTree[Array]
    state: optax.OptState
    statistics: PyTree[Array]


def train_step(
    loss_fn: Loss, contender: Contender, rate: optax.ScalarOrSchedule, carry: Carry, batch: Batch
) -> Carry:
    """The step that a user would write."""
    gradient = gradient_of(loss_fn, contender.structure, has_aux=True, batch_argnums=(2, 3))
    params, state, statistics = carry
    (_, statistics), grads, extra = gradient(params, statistics, *batch)
    updates, state = contender.optimizer(rate).update(grads, state, params, **extra)
    return Carry(optax.apply_updates(params, updates), state, jax.lax.stop_gradient(statistics))
