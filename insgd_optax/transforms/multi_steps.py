"""multi_steps: averages gradients and sums statistics over micro-batches."""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from insgd_optax.layout import Layout
from insgd_optax.moments import InputMoments
from insgd_optax.numerics import either
from insgd_optax.structures import MeanVariances, Structure, check_structure
from insgd_optax.transforms.history import Slot, pack, slots_for, totals, unpack
from insgd_optax.transforms.matching import match_statistics
from insgd_optax.trees import named_leaves, widest_dtype, zeros_of


class MultiStepsState(NamedTuple):
    """State of `multi_steps`.

    Attributes:
      mini_step: number of micro-batches since the last step; shape (), int32.
      accumulated: mean of their gradients, with the shapes and dtypes of the parameters.
      sums, counts: sums of their statistics, packed in path order; float32, or float64 if a
        parameter is.
      inner_state: state of the wrapped transformation.
    """

    mini_step: Int[Array, ""]
    accumulated: optax.Updates
    sums: Float[Array, " numbers"]
    counts: Float[Array, " groups"]
    inner_state: optax.OptState


def multi_steps(
    tx: optax.GradientTransformation,
    every: int,
    *,
    structure: Structure = MeanVariances(),  # noqa: B008 (frozen)
    layouts: Mapping[str, Layout] | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Takes one step of ``tx`` every few micro-batches, as if they were one batch.

    ``optax.MultiSteps`` averages the gradients too, but it passes on the statistics of the last
    micro-batch alone. This wrapper sums the statistics and their counts. Updates are zero until
    the last micro-batch.

    >>> import insgd_optax as insgd
    >>> loss_fn = lambda params, inputs: jnp.mean(inputs @ params["kernel"])
    >>> params = {"kernel": jnp.zeros((2, 1))}
    >>> plain = insgd.scale_by_input(insgd.Scalar())
    >>> optimizer = multi_steps(plain, 2, structure=insgd.Scalar())
    >>> state = optimizer.init(params)
    >>> grad_fn = insgd.value_and_grad(loss_fn, structure=insgd.Scalar())
    >>> for inputs in (jnp.array([[1.0, 3.0]]), jnp.array([[3.0, 1.0]])):
    ...     _, grads, input_stats = grad_fn(params, inputs)
    ...     updates, state = optimizer.update(grads, state, params, input_stats=input_stats)
    ...     print([round(float(u), 6) for u in updates["kernel"][:, 0]])   # [2, 2] / 5
    [0.0, 0.0]
    [0.4, 0.4]

    Args:
      tx: the transformation, such as `insgd`.
      every: number of micro-batches per step.
      structure: the same as in ``tx`` and in `value_and_grad`.
      layouts: the parameters' layouts, if their shapes do not suggest them.

    Returns:
      A transformation whose ``update`` needs ``params`` and ``input_stats``. ``tx`` gets other
      extra arguments from the last micro-batch alone. If the gradient of one micro-batch is not
      finite, neither is the mean, and the transformations of this library skip the step.

    Raises:
      ValueError: if ``every`` is less than 1.
    """
    if every < 1:
        raise ValueError(f"every must be at least 1 micro-batch, not {every}.")
    check_structure(structure)
    tx, layouts = optax.with_extra_args_support(tx), layouts or {}

    def init(params: optax.Params) -> MultiStepsState:
        room = totals(slots_for(named_leaves(params), structure, layouts))
        dtype = widest_dtype(jax.tree.leaves(params))
        empty = jnp.zeros(room.numbers, dtype), jnp.zeros(room.groups, dtype)
        zeros = jax.tree.map(jnp.zeros_like, params)
        return MultiStepsState(jnp.zeros([], jnp.int32), zeros, *empty, tx.init(params))

    def update(
        updates: optax.Updates,
        state: Any,
        params: optax.Params | None = None,
        *,
        input_stats: Mapping[str, InputMoments | None] | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, MultiStepsState]:
        named = named_leaves(updates)
        matched = match_statistics(named, input_stats, structure)
        slots = slots_for(named, structure, layouts)
        batch = pack(slots, matched, state.sums.dtype)
        mean = jax.tree.map(_running_mean(state.mini_step), state.accumulated, updates)
        sums, counts = state.sums + batch.sums, state.counts + batch.count

        def step() -> tuple[optax.Updates, MultiStepsState]:
            pooled = {
                path: moments and _pooled(moments, slots[path], sums, counts)
                for path, moments in matched.items()
            }
            stepped, inner = tx.update(
                mean, state.inner_state, params, input_stats=pooled, **extra_args
            )
            filled = MultiStepsState(state.mini_step, mean, sums, counts, ())
            empty = jax.tree.map(jnp.zeros_like, filled)
            return stepped, empty._replace(inner_state=inner)

        def wait() -> tuple[optax.Updates, MultiStepsState]:
            waiting = state.mini_step + jnp.ones_like(state.mini_step)
            return zeros_of(step)[0], MultiStepsState(
                waiting, mean, sums, counts, state.inner_state
            )

        return either(state.mini_step == every - 1, step, wait)

    return optax.GradientTransformationExtraArgs(init, update)


def _running_mean(number: Int[Array, ""]) -> Any:
    # A sum would overflow in half precision.
    def with_one_more(mean: Array, gradient: Array) -> Array:
        share = 1 / (number.astype(mean.real.dtype) + jnp.ones([], mean.real.dtype))
        return mean + share * (gradient.astype(mean.dtype) - mean)

    return with_one_more


def _pooled(
    moments: InputMoments,
    slot: Slot,
    sums: Float[Array, " numbers"],
    counts: Float[Array, " groups"],
) -> InputMoments:
    whole = unpack(sums, slot.numbers, moments.sums), unpack(counts, slot.groups, moments.count)
    return dataclasses.replace(moments, sums=whole[0], count=whole[1])
