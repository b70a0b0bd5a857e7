"""scale_by_input: keeps the history of the inputs' power and divides the gradient by it."""

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

    where :math:`P` is what ``structure`` keeps of the second moment of this batch's input. A
    layer that saw no rows keeps its history. If a gradient or a statistic is not finite, the
    whole step is zero, the history stays what it was, and ``state.skipped`` counts it.

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
      exponent: from -1, which divides by the power, to 0, which changes nothing; -1/2 divides by
        its root.
      layouts: the parameters' layouts, ``explain(...).layouts``. Only needed for a leaf whose
        layout its shape does not suggest (an error says so), or to save the last bytes.

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
        if is_off(exponent):  # to the last bit
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
    """What `scale_by_input` and the presets have in common: one normalized step from the history.

    Args:
      structure: what is kept of each layer's input.
      decay_at: how much of the history stays, from the weight that it has gathered so far.
      derive: from the history to what the gradients need, by path.
      apply: from a layer's moments, what was derived for it, and its gradient, to its update.
        A layer that nothing was derived for keeps its gradient.
      layouts: the parameters' layouts, if their shapes do not suggest them.
    """
    history = History(structure, decay_at, layouts or {}, derive)

    def update_fn(
        updates: Any,
        state: Any,
        params: Any = None,
        *,
        input_stats: Mapping[str, InputMoments | None] | None = None,
        **extra_args: Any,
    ) -> tuple[Any, ScaleByInputState]:
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
    """The gradient times a factor that broadcasts against it."""
    del moments
    return gradient * factor


def for_each(factor_of: Callable[[Seen], Array]) -> Derive:
    """A rule for one layer, from what is known of it to its factor, for all layers."""

    def derive(seen: Mapping[str, Seen], packed: Packed) -> Derived:
        alone = [stacked(factor_of(layer), {path: layer.groups}) for path, layer in seen.items()]
        return [alone], packed.factors

    return derive


def check_decay(decay: Number) -> None:
    """Raises a ValueError for a decay outside [0, 1)."""
    # Traced values (optax.inject_hyperparams) cannot be looked at here.
    if isinstance(decay, int | float) and not 0 <= decay < 1:
        raise ValueError(f"decay must be in [0, 1), not {decay}; 0 uses the current batch alone.")


def zero_unless_finite() -> optax.GradientTransformation:
    """Zero for all leaves if one is not finite, so that no buffer after it is ever poisoned."""

    def update(updates: Any, params: Any) -> Any:
        del params
        leaves = jax.tree.leaves(updates)
        return zero_unless(all_finite(leaves, widest_dtype(leaves)), updates)

    return optax.stateless(update)
