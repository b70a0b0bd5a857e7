"""relative_step: steps measured by the relative change of a layer's output."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Inexact

from insgd_optax.moments import Bias, InputMoments
from insgd_optax.numerics import safe_power
from insgd_optax.settings import Number, check_between, is_off
from insgd_optax.transforms.matching import match_statistics
from insgd_optax.trees import merged_leaves, named_leaves, split_leaves, widest_dtype


def relative_step(
    power: Number = 1.0, least: Number = 0.1
) -> optax.GradientTransformationExtraArgs:
    r"""Scales every layer's step to the size of the layer's output.

    .. math::
      u \leftarrow \left(\frac{\max(\lVert W \rVert_P,\ \ell \sqrt m)}
                              {\lVert u \rVert_P}\right)^{\rho} u, \qquad
      \lVert W \rVert_P^2 = \sum_{io} P_i W_{io}^2

    ``P`` is the mean power of each of the layer's input features in this batch. So
    :math:`\lVert W \rVert_P` is the size of the layer's output for uncorrelated features. With a
    learning rate of 0.01 after this transformation, a step changes every layer's output by one
    percent. If inputs have a large mean (pixels, activations behind a ReLU), it is a few percent.
    This holds for inputs and weights of any size. Dividing by the input's power alone does not
    achieve this, because initial weights do not depend on the size of the input.

    Each matrix of a stack of layers is measured separately, together with its bias. A bias is a
    weight on an input that is always 1 (see `Bias`). Other leaves, such as the gains of norms, keep
    their update. Steps below about 1e-18 or above 1e18 leave the range of float32 and become zero.
    Put this after momentum and before weight decay and the learning rate.

    >>> import insgd_optax
    >>> loss_fn = lambda params, inputs: jnp.sum(inputs @ params["kernel"])
    >>> params, inputs = {"kernel": jnp.array([[3.0], [4.0]])}, jnp.array([[1.0, 1.0]])
    >>> _, grads, input_stats = insgd_optax.value_and_grad(loss_fn)(params, inputs)
    >>> step = relative_step()
    >>> updates, _ = step.update(grads, step.init(params), params, input_stats=input_stats)
    >>> [round(float(u), 4) for u in updates["kernel"][:, 0]]            # 5 * [1, 1] / sqrt(2)
    [3.5355, 3.5355]

    Args:
      power: :math:`\rho`. 0 changes nothing, and 1 gives every step the size of its layer's output.
      least: :math:`\ell`. If the ``m`` outputs of a layer have a mean square below :math:`\ell^2`,
        this value replaces it. So weights can leave zero, and a network on tiny inputs does not
        have to grow by a percent at a time.

    Returns:
      A transformation whose ``update`` needs ``params`` and ``input_stats``. It has no state.

    Raises:
      ValueError: if a setting is out of its range; at ``update``, if ``params`` or ``input_stats``
        is missing.

    References:
      You, Gitman, Ginsburg, "Large Batch Training of Convolutional Networks" (LARS, 2017), for
      the ratio of norms. Shazeer, Stern, "Adafactor" (ICML 2018), for the relative step and its
      least size.
    """
    check_between("power", power, 0, 1)
    check_between("least", least, 0)

    def update_fn(
        updates: optax.Updates,
        state: Any,
        params: optax.Params | None = None,
        *,
        input_stats: Mapping[str, InputMoments | None] | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, optax.EmptyState]:
        del extra_args
        if is_off(power):  # bitwise unchanged
            return updates, state
        matched = match_statistics(named_leaves(updates), input_stats, None)
        if params is None:
            raise ValueError(
                "relative_step was called without params. Its steps are relative to them, so pass "
                "them: optimizer.update(grads, state, params, input_stats=input_stats)."
            )
        moments = {path: found for path, found in matched.items() if found is not None}
        biases = _biases(named_leaves(updates), moments)
        layouts = {path: layer.layout for path, layer in moments.items()}
        layouts |= {bias.path: bias.layout for bias in biases.values()}
        dtype = widest_dtype(jax.tree.leaves(updates))
        weights = split_leaves(params, layouts, dtype)
        steps = split_leaves(updates, layouts, dtype)
        for path, layer in moments.items():
            both = [path, biases[path].path] if path in biases else [path]
            ratio = _ratio(layer, [weights[p] for p in both], [steps[p] for p in both], least)
            steps |= {p: steps[p] * ratio**power for p in both}
        return merged_leaves(updates, steps, layouts), state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update_fn)


def _biases(
    leaves: Sequence[tuple[str, Array]], moments: Mapping[str, InputMoments]
) -> dict[str, Bias]:
    """The bias of each layer that is among the updates: one more row of the layer's matrix."""
    present = {path for path, _ in leaves}
    biases = {path: layer.bias for path, layer in moments.items()}
    return {path: bias for path, bias in biases.items() if bias and bias.path in present}


def _ratio(
    moments: InputMoments,
    weights: Sequence[Inexact[Array, "groups _ outputs"]],
    steps: Sequence[Inexact[Array, "groups _ outputs"]],
    least: Number,
) -> Float[Array, "groups 1 1"]:
    """The size of each matrix's output over the size of its step's output.

    Zero if nothing was seen or a value is not finite. Sizes are relative to the mean power, so tiny
    and huge inputs stay within float32. Tiny and huge steps do not.
    """
    layout, dtype = moments.layout, jnp.real(steps[0]).dtype
    power = moments.kept.feature_power(moments.mean()).astype(dtype)
    unit = safe_power(jnp.mean(power, axis=(1, 2), keepdims=True), -1)
    shares = power * unit, unit

    def size(matrices: Sequence[Array]) -> Array:
        parts = [
            jnp.sum(share * jnp.abs(matrix) ** 2, axis=(1, 2), keepdims=True)
            for share, matrix in zip(shares, matrices, strict=False)  # a layer may have no bias
        ]
        return jnp.sum(jnp.stack(parts), axis=0)

    outputs = math.prod(layout.shape) / max(1, layout.groups * layout.inputs)
    own = jnp.maximum(size(weights), jnp.asarray(least, dtype) ** 2 * outputs * unit)
    ratio = jnp.sqrt(own) * safe_power(size(steps), -0.5)
    return jnp.where(jnp.isfinite(ratio), ratio, 0)
