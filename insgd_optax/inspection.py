"""inspect: metrics of every layer for a logger."""

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from insgd_optax.moments import InputMoments
from insgd_optax.numerics import safe_power
from insgd_optax.trees import named_leaves, split_leaves, widest_dtype


@runtime_checkable
class HasMean(Protocol):
    """A structure that keeps the mean input."""

    def squared_mean(self, power: Float[Array, "groups ..."]) -> Float[Array, " groups"]:
        """``‖E x‖²``."""
        ...


@runtime_checkable
class HasNorm(Protocol):
    """A structure that knows the size of the second moment."""

    def squared_norm(self, power: Float[Array, "groups ..."]) -> Float[Array, " groups"]:
        """``‖A‖²``, the sum of the squares of all entries."""
        ...


def inspect(
    params: optax.Params,
    input_stats: Mapping[str, InputMoments | None],
    *,
    updates: optax.Updates | None = None,
) -> dict[str, Float[Array, ""]]:
    r"""Metrics that describe each layer's input in this batch, for any logger.

    ``PATH/input_power`` is the mean square of the layer's input features. ``PATH/output_size`` is
    the root mean square of its outputs, computed as if features were uncorrelated.

    ``PATH/mean_share`` is the share of the mean in the input's power,
    :math:`\lVert m \rVert^2 / \operatorname{tr} A`. It is near 1 for inputs that hardly vary around
    a large mean, such as bright pixels.

    ``PATH/effective_rank`` is :math:`(\operatorname{tr} A)^2 / \lVert A \rVert_F^2`, the number of
    directions that share the power. It is 1 for a single direction, and the number of features if
    all are alike and uncorrelated. A structure sees only the part of ``A`` that it keeps. `Full`
    sees all of it.

    ``PATH/step`` is the size of the update over that of the weights, both measured on the layer's
    input. 0.02 changes the layer's output by two percent.

    >>> import insgd_optax
    >>> loss_fn = lambda params, inputs: jnp.sum(inputs @ params["kernel"])
    >>> params, inputs = {"kernel": jnp.ones((2, 1))}, jnp.array([[3.0, 1.0], [1.0, 1.0]])
    >>> _, _, input_stats = insgd_optax.value_and_grad(loss_fn)(params, inputs)
    >>> found = inspect(params, input_stats, updates={"kernel": jnp.array([[0.1], [0.1]])})
    >>> for name, value in found.items():                    # the mean is (2, 1), the squares 5, 1
    ...     print(f"{name} {value:.3f}")
    kernel/input_power 3.000
    kernel/output_size 2.449
    kernel/mean_share 0.833
    kernel/effective_rank 1.059
    kernel/step 0.100

    Args:
      params: the parameters.
      input_stats: the statistics of a batch, from `value_and_grad`.
      updates: the result of ``update``, for ``step``.

    Returns:
      A scalar for each name, the mean over the layer's groups (stacked layers, experts, the groups
      of a convolution). Structures that keep one value per layer have no ``mean_share`` and no
      ``effective_rank``. A bias belongs to its layer and has no entry.

    Raises:
      ValueError: if a path of the statistics is not among the parameters.
    """
    seen = {path: layer for path, layer in input_stats.items() if layer is not None}
    missing = sorted(set(seen) - {path for path, _ in named_leaves(params)})
    if missing:
        raise ValueError(
            f"input_stats has {missing}, but params does not. Pass the parameters that "
            "value_and_grad was called with."
        )
    layouts = {path: layer.layout for path, layer in seen.items()}
    dtype = widest_dtype([layer.sums for layer in seen.values()])
    weights = split_leaves(params, layouts, dtype)
    steps = {} if updates is None else split_leaves(updates, layouts, dtype)
    return {
        f"{path}/{name}": jnp.mean(values)
        for path, layer in seen.items()
        for name, values in _of_layer(layer, weights[path], steps.get(path)).items()
    }


def _of_layer(
    layer: InputMoments, weights: Array, steps: Array | None
) -> dict[str, Float[Array, " groups"]]:
    power = layer.mean()
    features = layer.kept.feature_power(power)
    squared_size = _squared_size(features, weights)
    found = {
        "input_power": jnp.mean(features, axis=(1, 2)),
        "output_size": jnp.sqrt(squared_size / weights.shape[2]),
    }
    trace = layer.layout.inputs * found["input_power"]
    if isinstance(layer.kept, HasMean):
        found["mean_share"] = layer.kept.squared_mean(power) * safe_power(trace, -1)
    if isinstance(layer.kept, HasNorm):
        squared_norm = layer.kept.squared_norm(power)
        found["effective_rank"] = trace**2 * safe_power(squared_norm, -1)
    if steps is not None:
        found["step"] = jnp.sqrt(_squared_size(features, steps) * safe_power(squared_size, -1))
    return found


def _squared_size(features: Float[Array, "groups _ 1"], weights: Array) -> Float[Array, " groups"]:
    """The squared size of the outputs of these weights if features are uncorrelated."""
    return jnp.sum(features * jnp.abs(weights) ** 2, axis=(1, 2))
