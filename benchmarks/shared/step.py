"""One train step, shared by all optimizers."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import optax
from jaxtyping import Array, Float, PyTree

from benchmarks.shared.contender import Contender
from benchmarks.shared.gradient import gradient_of

Batch = tuple[PyTree[Array], PyTree[Array]]  # inputs and targets
# Maps parameters, statistics, inputs and targets to the mean loss and new statistics.
Loss = Callable[..., tuple[Float[Array, ""], PyTree[Array]]]


class Carry(NamedTuple):
    """Everything that one step passes to the next.

    Attributes:
      params: the parameters.
      state: the optimizer's state.
      statistics: arrays that the network updates without a gradient, such as BatchNorm's.
    """

    params: PyTree[Array]
    state: optax.OptState
    statistics: PyTree[Array]


def train_step(
    loss_fn: Loss, contender: Contender, rate: optax.ScalarOrSchedule, carry: Carry, batch: Batch,
    **extra_args: PyTree[Array],
) -> tuple[Carry, Float[Array, ""]]:  # fmt: skip
    """The step that a user would write, and its loss. ``extra_args`` go to ``update``."""
    gradient = gradient_of(loss_fn, contender.structure, has_aux=True, batch_argnums=(2, 3))
    params, state, statistics = carry
    (loss, statistics), grads, extra = gradient(params, statistics, *batch)
    updates, state = contender.optimizer(rate).update(grads, state, params, **extra, **extra_args)
    params = optax.apply_updates(params, updates)
    return Carry(params, state, jax.lax.stop_gradient(statistics)), loss


def started(model: nn.Module, key: Array, inputs: Any) -> tuple[PyTree[Array], PyTree[Array]]:
    """A network's initial parameters and statistics."""
    statistics = dict(model.init(key, inputs))
    return statistics.pop("params"), statistics


def applied(
    model: nn.Module, params: PyTree[Array], statistics: PyTree[Array], inputs: Any
) -> tuple[Any, PyTree[Array]]:
    """A network's outputs on a training batch, and its new statistics."""
    if not statistics:
        return model.apply({"params": params}, inputs), statistics
    variables = {"params": params, **statistics}
    outputs, new = model.apply(variables, inputs, training=True, mutable=list(statistics))
    return outputs, dict(new)
