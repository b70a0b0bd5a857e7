"""scale_by_input: divides gradients by the running power of their inputs."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import optax
from jaxtyping import Array

from insgd_optax.layout import Layout
from insgd_optax.moments import InputMoments
from insgd_optax.settings import Number, check_between, is_off
from insgd_optax.structures import MeanVariances, Structure, check_structure
from insgd_optax.transforms.factors import Derived, Packed, Seen, applied, factors_of
from insgd_optax.transforms.normalizer import Derive, History, ScaleByInputState
from insgd_optax.transforms.stacks import stacked
from insgd_optax.trees import all_finite, merged_leaves, split_leaves, widest_dtype, zero_unless


def scale_by_input(
    structure: Structure = MeanVariances(),  # noqa: B008 (frozen)
    decay: Number = 0.95,
    eps: Number = 1e-2,
    guard: bool = True,
    *,
    exponent: Number = -1.0,
    layouts: Mapping[str, Layout] | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Normalizes every layer's gradient by the history of that layer's input.

    .. math::
      u = \max(\hat P_k, P)^{-1} G, \qquad
      P_k = \beta P_{k-1} + (1 - \beta) P, \qquad
      \hat P_k = P_k / (1 - \beta^k)

    Here :math:`P` is the second moment of this batch's input, as kept by ``structure``. A layer
    that saw no rows keeps its history. If a gradient or a statistic is not finite, the whole step
    is zero, the history does not change, and ``state.skipped`` counts the step.

    >>> import insgd_optax
    >>> import jax.numpy as jnp
    >>> loss_fn = lambda params, inputs: jnp.sum(inputs @ params["kernel"])
    >>> params = {"kernel": jnp.zeros((2, 1))}
    >>> grad_fn = insgd_optax.value_and_grad(loss_fn, structure=insgd_optax.Scalar())
    >>> _, grads, input_stats = grad_fn(params, jnp.array([[1.0, 3.0]]))
    >>> optimizer = scale_by_input(insgd_optax.Scalar())
    >>> state = optimizer.init(params)
    >>> updates, state = optimizer.update(grads, state, params, input_stats=input_stats)
    >>> [round(float(u), 6) for u in updates["kernel"][:, 0]]     # [1, 3] / ((1 + 9) / 2)
    [0.2, 0.6]

    Args:
      structure: how much of the second moment is kept; the same as in `value_and_grad`.
      decay: :math:`\beta` in [0, 1); 0 uses the current batch alone.
      eps: relative shrinkage of a feature's power to the layer's mean power (see `Diagonal`).
      guard: divide by the larger of the history and this batch's power. A running power alone
        loses the stability bound of normalized LMS when inputs are heavy-tailed.
      exponent: from -1 to 0. -1 divides by the power, -1/2 by its root, and 0 changes nothing.
      layouts: the parameters' layouts, ``explain(...).layouts``. Needed only if a leaf's shape does
        not suggest its layout (an error says so), or to save memory.

    Returns:
      A transformation whose ``update`` needs ``input_stats``, from `value_and_grad`.

    Raises:
      ValueError: at ``update``, if ``input_stats`` is missing or does not fit the updates.

    References:
      Atici, Pan, Cetin, "Input Normalized Stochastic Gradient Descent Training for Deep Neural
      Networks", TMLR 2024 (arXiv 2212.09921), with the running power of its Algorithm 1. The
      paper divides by ``log P`` and starts the average at its first value.
    """
    check_structure(structure)
    check_decay(decay)
    check_between("exponent", exponent, -1, 0)
    check_between("eps", eps, 0)

    def derive(seen: Mapping[str, Seen], packed: Packed) -> Derived:
        if is_off(exponent):  # bitwise unchanged
            return [[]], packed.factors
        return factors_of(seen, packed, [exponent], eps, guard)

    return normalize_by_history(structure, lambda weight: decay, derive, applied, layouts)


def normalize_by_history(
    structure: Structure,
    decay_at: Callable[[Array], Number | Array],
    derive: Derive,
    apply: Callable[[InputMoments, Any, Array], Array],
    layouts: Mapping[str, Layout] | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Builds a transformation that normalizes with the input history.

    Args:
      structure: how much of the second moment is kept.
      decay_at: maps the accumulated weight of the history to the decay of this update.
      derive: maps the history to the factors of all layers.
      apply: maps a layer's moments, its factor and its gradient to its update. A layer without a
        factor keeps its gradient.
      layouts: the parameters' layouts, if their shapes do not suggest them.
    """
    history = History(structure, decay_at, layouts or {}, derive)

    def update_fn(
        updates: optax.Updates,
        state: Any,
        params: optax.Params | None = None,
        *,
        input_stats: Mapping[str, InputMoments | None] | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, ScaleByInputState]:
        del params, extra_args
        observed = history.observe(updates, state, input_stats)
        moments, finite, after = observed.moments, observed.finite, observed.state
        [derived] = observed.by_path()
        layouts = {path: moments[path].layout for path in derived}
        gradients = split_leaves(updates, layouts, after.power.dtype)
        normalized = {
            path: apply(moments[path], derived[path], gradients[path]) for path in layouts
        }
        return zero_unless(finite, merged_leaves(updates, normalized, layouts)), after

    return optax.GradientTransformationExtraArgs(history.init, update_fn)


def multiplied(moments: InputMoments, factor: Array, gradient: Array) -> Array:
    """Multiplies a gradient by a factor that broadcasts against it."""
    del moments
    return gradient * factor


def for_each(factor_of: Callable[[Seen], Array]) -> Derive:
    """Lifts a rule for the factor of one layer to all layers."""

    def derive(seen: Mapping[str, Seen], packed: Packed) -> Derived:
        alone = [stacked(factor_of(layer), {path: layer.groups}) for path, layer in seen.items()]
        return [alone], packed.factors

    return derive


def check_decay(decay: Number) -> None:
    """Raises a ValueError for a decay outside [0, 1)."""
    # Traced values (optax.inject_hyperparams) cannot be compared here.
    if isinstance(decay, int | float) and not 0 <= decay < 1:
        raise ValueError(f"decay must be in [0, 1), not {decay}. 0 uses the current batch alone.")


def zero_unless_finite() -> optax.GradientTransformation:
    """Zeroes all leaves if one is not finite, so that later buffers stay finite."""

    def update(updates: optax.Updates, params: optax.Params | None) -> optax.Updates:
        del params
        leaves = jax.tree.leaves(updates)
        return zero_unless(all_finite(leaves, widest_dtype(leaves)), updates)

    return optax.stateless(update)
