"""Linear filters driven by a transformation, through the public functions alone."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

import insgd_optax as insgd

Step = Callable[[Array, Any, Array, Array], tuple[Array, Any]]


class Path(NamedTuple):
    """The trajectory of a filter.

    Attributes:
      weights: the weights at the start and after each step.
      before: the error ``y - x w`` of every example before its batch's step (a priori).
      after: the same error after the step (a posteriori).
    """

    weights: Float[Array, "states features"]
    before: Float[Array, "steps batch"]
    after: Float[Array, "steps batch"]


def half_square(errors: Float[Array, " batch"]) -> Float[Array, ""]:
    """``e² / 2`` averaged over the batch. Its gradient is the mean of ``-e x``."""
    return jnp.mean(errors**2) / 2


def stepper(
    tx: Any,
    order: int = 2,
    loss: Callable[[Array], Array] = half_square,
    mean_square: float | None = None,
) -> Step:
    """Builds one step of a filter: weights, state, inputs, targets → new weights, new state.

    Args:
      tx: the transformation.
      order: the order of the statistic that the transformation needs.
      loss: a function of the errors ``y - x w``.
      mean_square: the known mean square of the inputs. It replaces the batch's own, like an
        endless history. Checks of theorems about an exact power then need no tolerance for the
        spread of an average.
    """

    def loss_fn(params: Any, inputs: Array, targets: Array) -> Array:
        return loss(targets - inputs @ params["w"])

    grad_fn = insgd.value_and_grad(loss_fn, structure=insgd.Scalar(order))

    def step(weights: Array, state: Any, inputs: Array, targets: Array) -> tuple[Array, Any]:
        params = {"w": weights}
        _, grads, input_stats = grad_fn(params, inputs, targets)
        moments = input_stats["w"]
        if mean_square is not None and moments is not None:
            exact = dataclasses.replace(moments, sums=mean_square * moments.count)
            input_stats = {"w": exact}
        updates, state = tx.update(grads, state, params, input_stats=input_stats)
        return weights + updates["w"], state

    return step


def filter_path(
    tx: Any,
    inputs: Float[Array, "steps batch features"],
    targets: Float[Array, "steps batch"],
    start: Float[Array, " features"],
    **options: Any,
) -> Path:
    """Runs a filter over batches. ``options`` go to `stepper`."""
    step = stepper(tx, **options)

    def record(carry: tuple[Array, Any], batch: tuple[Array, Array]) -> tuple[Any, Any]:
        (weights, state), (x, y) = carry, batch
        moved, state = step(weights, state, x, y)
        return (moved, state), (moved, y - x @ weights, y - x @ moved)

    first = start, tx.init({"w": start})
    _, (weights, before, after) = jax.lax.scan(record, first, (inputs, targets))
    return Path(jnp.concatenate([start[None], weights]), before, after)


@functools.partial(jax.jit, static_argnames=("make", "mean_square"))
def squared_errors(
    make: Callable[[Array, int], Any],
    step_size: Float[Array, ""],
    inputs: Float[Array, "runs steps batch features"],
    noise: Float[Array, "runs steps batch"],
    mean_square: float | None = None,
) -> Float[Array, "runs states"]:
    """``‖w̃‖²`` of many runs that start at length one. The best weights are zero, so ``w̃ = -w``.

    Args:
      make: builds a transformation from a step size and the number of features.
      step_size: μ.
      inputs, noise: independent draws for every run. The noise is the whole target.
      mean_square: see `stepper`.
    """
    features = inputs.shape[-1]
    start, tx = jnp.full(features, features**-0.5), make(step_size, features)

    def run(x: Array, v: Array) -> Array:
        return jnp.sum(filter_path(tx, x, v, start, mean_square=mean_square).weights ** 2, axis=1)

    return jax.vmap(run)(inputs, noise)


def normal(seed: int, *shape: int) -> Float[Array, "..."]:
    """Gaussian numbers of unit variance."""
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def heavy_tailed(seed: int, *shape: int) -> Float[Array, "..."]:
    """Student's t with three degrees of freedom. Its fourth moment does not exist."""
    return jnp.asarray(np.random.default_rng(seed).standard_t(3, size=shape))


def filtering_problem(seed: int, steps: int, features: int) -> tuple[Array, Array, Array]:
    """Heavy-tailed inputs in batches of one, noise-free targets, and the starting weights."""
    inputs = heavy_tailed(seed, steps, 1, features)
    best, start = normal(seed + 1, features), normal(seed + 2, features)
    return inputs, inputs @ best, start


def nlms(step_size: Any, features: int = 0) -> optax.GradientTransformationExtraArgs:
    """Normalized LMS with ε = 0."""
    del features
    return insgd.nlms(step_size, eps=0.0)


def running_power(
    step_size: Any, features: int, decay: float = 0.999
) -> optax.GradientTransformationExtraArgs:
    """Divides by the history of ``‖x‖²`` alone. `Scalar` divides by its share per feature."""
    return insgd.insgd(
        step_size / features,
        structure=insgd.Scalar(),
        momentum=None,
        decay=decay,
        guard=False,
        relative=0.0,
    )
