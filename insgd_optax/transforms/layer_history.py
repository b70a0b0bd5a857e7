"""layer_histories: reads each layer's history from an optimizer state, for logging."""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from insgd_optax.layout import Layout
from insgd_optax.moments import InputMoments
from insgd_optax.numerics import safe_power
from insgd_optax.transforms.history import Slot, slots_for, unpack
from insgd_optax.transforms.lengths import GradientHistory
from insgd_optax.transforms.normalizer import ScaleByInputState
from insgd_optax.transforms.scale_by_insgd import ScaleByInsgdState
from insgd_optax.trees import named_leaves, only_state


class LayerHistory(NamedTuple):
    """The history of one layer.

    Attributes:
      mean: running mean of the structure's statistics after bias correction; shape (groups, ...),
        zero where nothing was seen.
      feature_power: mean square of each group's features, computed from ``mean``; shape (groups,).
      largest_gradient_power: the largest running mean of the squared normalized gradient so far;
        shape (groups,). It sets the length of a step at a constant rate. None if the state keeps
        no gradient history.
    """

    mean: Float[Array, "groups ..."]
    feature_power: Float[Array, " groups"]
    largest_gradient_power: Float[Array, " groups"] | None


def layer_histories(
    state: optax.OptState,
    params: optax.Params,
    input_stats: Mapping[str, InputMoments | None],
    *,
    layouts: Mapping[str, Layout] | None = None,
) -> dict[str, LayerHistory]:
    """Reads the history of every layer from the state of `insgd` or of a wrapper around it.

    >>> import insgd_optax
    >>> loss_fn = lambda params, inputs: jnp.sum(inputs @ params["kernel"])
    >>> params, inputs = {"kernel": jnp.ones((2, 1))}, jnp.array([[3.0, 1.0], [1.0, 1.0]])
    >>> _, grads, input_stats = insgd_optax.value_and_grad(loss_fn)(params, inputs)
    >>> optimizer = insgd_optax.insgd()
    >>> _, state = optimizer.update(grads, optimizer.init(params), params, input_stats=input_stats)
    >>> history = layer_histories(state, params, input_stats)["kernel"]
    >>> history.mean.round(4).tolist()                         # means 2, 1; squares (9 + 1) / 2, 1
    [[2.0, 1.0, 5.0, 1.0]]
    >>> history.feature_power.round(4).tolist()                                       # (5 + 1) / 2
    [3.0]

    Args:
      state: the optimizer state, possibly inside ``optax.chain`` or other wrappers.
      params: the parameters that it was made for.
      input_stats: the statistics of any batch, for their layouts and structures.
      layouts: the layouts given to the optimizer.

    Returns:
      The history of every path that has statistics.

    Raises:
      ValueError: if the state holds no input history or several.
    """
    moments = {path: layer for path, layer in input_stats.items() if layer is not None}
    if not moments:
        return {}
    structure = next(iter(moments.values())).structure
    slots = slots_for(named_leaves(params), structure, layouts or {})
    inputs, lengths = _found(state)

    def history(slot: Slot, layer: InputMoments) -> LayerHistory:
        weight = unpack(inputs.power_weight, slot.groups, layer.count)
        power = unpack(inputs.power, slot.numbers, layer.sums)
        mean = power * safe_power(weight, -1).reshape(-1, *(1,) * (power.ndim - 1))
        features = jnp.mean(layer.kept.feature_power(mean), axis=(1, 2))
        largest = lengths and unpack(lengths.largest_gradient_power, slot.groups, layer.count)
        return LayerHistory(mean, features, largest)

    return {path: history(slots[path], layer) for path, layer in moments.items()}


def _found(state: optax.OptState) -> tuple[ScaleByInputState, GradientHistory | None]:
    """The input history in a state, and the gradient history if it has one."""
    leaves = jax.tree.leaves(state, is_leaf=lambda part: isinstance(part, ScaleByInsgdState))
    if any(isinstance(part, ScaleByInsgdState) for part in leaves):
        whole = only_state(state, ScaleByInsgdState, "insgd()")
        return whole.inputs, whole.gradients
    return only_state(state, ScaleByInputState, "insgd()"), None
