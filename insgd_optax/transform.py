"""scale_by_input: keeps the history of the inputs' power and divides the gradient by it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from insgd_optax.history import Powers, Slot, pack, slots_for, totals, unpack, updated
from insgd_optax.layout import Layout
from insgd_optax.matching import match_statistics
from insgd_optax.moments import InputMoments
from insgd_optax.paths import named_leaves
from insgd_optax.structures import Diagonal, Number, Structure, check_structure


class ScaleByInputState(NamedTuple):
    """State of `scale_by_input`. Packed vectors, so that no wrapper takes them for parameters.

    Attributes:
      count: updates so far; shape (), int32.
      skipped: updates that were skipped because something was not finite; shape (), int32.
      power: the history of every leaf, one after the other in the order of their paths, before
        bias correction; shape (numbers,), float32, or float64 if a parameter is.
      power_weight: the weight that every group's history has gathered, to correct its bias; shape
        (groups,), same dtype.
    """

    count: Int[Array, ""]
    skipped: Int[Array, ""]
    power: Float[Array, " numbers"]
    power_weight: Float[Array, " groups"]


def scale_by_input(
    structure: Structure = Diagonal(),  # noqa: B008 (frozen)
    decay: Number = 0.95,
    eps: Number = 1e-2,
    guard: bool = True,
    *,
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
    if isinstance(eps, int | float) and not eps >= 0:
        raise ValueError(f"eps must not be negative, and is {eps}; 0 turns the shrinkage off.")

    def divide(moments: InputMoments, power: Array, gradient: Array) -> Array:
        return moments.kept.normalize(power, gradient, jnp.asarray(eps, power.dtype))

    strongest = with_this_batch if guard else history_alone
    return normalize_by_history(structure, lambda weight: decay, strongest, divide, layouts)


def normalize_by_history(
    structure: Structure,
    decay_at: Callable[[Array], Number | Array],
    strongest: Callable[[Powers], Array],
    divide: Callable[[InputMoments, Array, Array], Array],
    layouts: Mapping[str, Layout] | None = None,
) -> optax.GradientTransformationExtraArgs:
    """What `scale_by_input` and the presets have in common: the history and who reads it.

    Args:
      structure: what is kept of each layer's input.
      decay_at: how much of the history stays, from the weight that it has gathered so far.
      strongest: what is divided by, packed, from the history and this batch.
      divide: from a layer's moments (for their layout and structure), its power and its gradient
        ``(groups, inputs, outputs)`` to the normalized gradient.
      layouts: the parameters' layouts, if their shapes do not suggest them.
    """
    known = layouts or {}

    def init_fn(params: Any) -> ScaleByInputState:
        numbers, groups = totals(slots_for(named_leaves(params), structure, known))
        dtype = widest_dtype(jax.tree.leaves(params))
        count, skipped = jnp.zeros([], jnp.int32), jnp.zeros([], jnp.int32)
        return ScaleByInputState(
            count, skipped, jnp.zeros(numbers, dtype), jnp.zeros(groups, dtype)
        )

    def update_fn(
        updates: Any,
        state: Any,
        params: Any = None,
        *,
        input_stats: Mapping[str, InputMoments | None] | None = None,
        **extra_args: Any,
    ) -> tuple[Any, ScaleByInputState]:
        del params, extra_args
        named = named_leaves(updates)
        matched = match_statistics(named, input_stats, structure)
        slots = slots_for(named, structure, known)
        _check_state(slots, state)
        batch = pack(slots, matched, state.power.dtype)
        finite = all_finite([*(leaf for _, leaf in named), batch.sums], state.power.dtype)
        decay = decay_at(state.power_weight)
        new = updated(state.power, state.power_weight, batch, decay)
        divisors = strongest(new)
        scaled = []
        for path, gradient in named:
            if (moments := matched[path]) is not None:
                power = unpack(divisors, slots[path], moments.sums)
                gradient = _normalized(gradient, moments, power, divide)
            scaled.append(jnp.where(finite, gradient, jnp.zeros_like(gradient)))
        new_state = ScaleByInputState(
            count=jnp.asarray(optax.safe_increment(state.count)),
            skipped=jnp.where(finite, state.skipped, optax.safe_increment(state.skipped)),
            power=jnp.where(finite, new.power, state.power),
            power_weight=jnp.where(finite, new.weight, state.power_weight),
        )
        return jax.tree.unflatten(jax.tree.structure(updates), scaled), new_state

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def check_decay(decay: Number) -> None:
    """Raises a ValueError for a decay outside [0, 1)."""
    # Traced values (optax.inject_hyperparams) cannot be looked at here.
    if isinstance(decay, int | float) and not 0 <= decay < 1:
        raise ValueError(f"decay must be in [0, 1), not {decay}; 0 uses the current batch alone.")


def widest_dtype(leaves: Sequence[Any]) -> Any:
    double = any(jnp.result_type(leaf) in (jnp.float64, jnp.complex128) for leaf in leaves)
    return jnp.float64 if double else jnp.float32


def _check_state(slots: Mapping[str, Slot], state: ScaleByInputState) -> None:
    numbers, groups = totals(slots)
    if (numbers, groups) != (state.power.size, state.power_weight.size):
        raise ValueError(
            f"The state holds {state.power.size} numbers, but the history of these updates takes "
            f"{numbers}: {sorted(slots)}. Call init() on parameters with the same leaves as the "
            "updates (a leaf may not be None in one of them), and with the same layouts."
        )


def all_finite(arrays: Sequence[Array], dtype: Any) -> Bool[Array, ""]:
    # A maximum carries NaN and infinity on. The check stands at the end and not at each array:
    # XLA would repeat one small combination of all arrays inside every kernel that asks for it.
    largest = [jnp.max(jnp.abs(array)).astype(dtype) for array in arrays if array.size]
    return jnp.all(jnp.isfinite(jnp.stack(largest))) if largest else jnp.array(True)


def zero_unless_finite() -> optax.GradientTransformation:
    """Zero for all leaves if one is not finite, so that no buffer after it is ever poisoned."""

    def update(updates: Any, params: Any) -> Any:
        del params
        leaves = jax.tree.leaves(updates)
        finite = all_finite(leaves, widest_dtype(leaves))
        return jax.tree.map(lambda leaf: jnp.where(finite, leaf, jnp.zeros_like(leaf)), updates)

    return optax.stateless(update)


def with_this_batch(powers: Powers) -> Array:
    return jnp.maximum(powers.history, powers.batch)


def history_alone(powers: Powers) -> Array:
    return powers.history


def _normalized(
    gradient: Array,
    moments: InputMoments,
    power: Array,
    divide: Callable[[InputMoments, Array, Array], Array],
) -> Array:
    """The gradient of a leaf divided by its layer's power, in the leaf's own dtype."""
    wide = gradient.dtype if jnp.iscomplexobj(gradient) else power.dtype
    matrices = moments.layout.split(gradient.astype(wide))
    normalized = divide(moments, power, matrices)
    if gradient.dtype == jnp.float16:  # a small power would take it past the largest number
        largest = float(jnp.finfo(jnp.float16).max)
        normalized = jnp.clip(normalized, -largest, largest)
    return moments.layout.merge(normalized).astype(gradient.dtype)
