"""Lengths: how far each unit steps, from the size of its output and its gradient history.

A unit is a set of leaves that step together: a matrix of a layer with its bias, or a leaf that
belongs to no layer. In the metric P of the layer's inputs a unit has

    a size       U = ‖W‖_P       size of the layer's output if features are uncorrelated
    a length     L               the size, or that of outputs of size ``least`` if this is larger;
                                 a tenth of it (``vector_rate``) for gains and shifts of norms
    a power      s = ⟨u, G⟩      of its normalized gradient u = A⁻¹ G, measured on the output
    a reference  v               the largest running mean of s so far; a schedule lowers it to the
                                 current one (see `reference`)

and steps by η L m / √v, where m is the running mean of u:

    gradients agree, as large as ever     ‖m‖ = √v          the step is a share η of the output
    gradients are noise                   ‖m‖ = 0.23 √v     (momentum 0.9) a quarter of that
    gradients fade                        ‖m‖ → 0           the step fades with them
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from insgd_optax.numerics import safe_power
from insgd_optax.settings import Number


class Sizes(NamedTuple):
    """Quantities of each unit that determine its step, packed like ``power_weight``.

    Attributes:
      power: the unit's power s in this batch.
      growth: squared size of its normalized gradient, in the metric P. For gains and shifts times
        the square of ``vector_rate``.
      size: squared size of its weights, U².
      length: L². A step is a share of L.
      seen: 1 if the unit saw rows, else 0.
    """

    power: Float[Array, " groups"]
    growth: Float[Array, " groups"]
    size: Float[Array, " groups"]
    length: Float[Array, " groups"]
    seen: Float[Array, " groups"]


class GradientHistory(NamedTuple):
    """The gradient history of each unit, packed like `Sizes`.

    Attributes:
      gradient_power: running mean of the unit's power, before bias correction.
      largest_gradient_power: its largest value so far, after bias correction.
      growth: running mean of the squared size of its normalized gradient.
    """

    gradient_power: Float[Array, " groups"]
    largest_gradient_power: Float[Array, " groups"]
    growth: Float[Array, " groups"]


def with_batch(
    history: GradientHistory, sizes: Sizes, decay: Number, updates: Int[Array, ""]
) -> GradientHistory:
    """Adds a batch to the history. Units that saw no row keep theirs.

    >>> empty, one = GradientHistory(*jnp.zeros((3, 1))), jnp.ones(1)
    >>> first = with_batch(empty, Sizes(4 * one, one, one, one, one), 0.5, jnp.int32(0))
    >>> second = with_batch(first, Sizes(one, one, one, one, one), 0.5, jnp.int32(1))
    >>> first.largest_gradient_power.tolist(), second.gradient_power.tolist()   # 2 / 0.5, 1 + 0.5
    ([4.0], [1.5])

    Args:
      history: the history so far.
      sizes: the sizes of this batch.
      decay: the decay of the running mean.
      updates: the number of updates before this one.
    """
    decay = jnp.asarray(decay, sizes.power.dtype)
    kept = 1 - sizes.seen * (1 - decay)
    running = kept * history.gradient_power + (1 - kept) * sizes.power
    growth = kept * history.growth + (1 - kept) * sizes.growth
    gathered = _gathered(decay, updates, decay.dtype)
    largest = jnp.maximum(history.largest_gradient_power, running / gathered)
    return GradientHistory(running, largest, growth)


def reference(
    history: GradientHistory, decay: Number, updates: Int[Array, ""], share: Float[Array, ""]
) -> Float[Array, " groups"]:
    """The gradient power v that the length of a step is relative to; 0 before the first gradient.

    At a constant rate, v is the largest power so far, so steps fade with their gradients. A
    schedule shortens steps by itself, and both together would stop a network that learns fast. So
    v falls with the square of the rate, but never below the current power. Steps are then as long
    as at the largest rate, unless the current rate and the current power call for shorter ones.

    >>> history = GradientHistory(*jnp.array([[1.0], [4.0], [1.0]]))
    >>> [float(reference(history, 0.0, jnp.int32(1), jnp.array(s))[0]) for s in (1.0, 0.75, 0.25)]
    [4.0, 2.25, 1.0]

    Args:
      history: the history with this batch.
      decay, updates: as in `with_batch`.
      share: the learning rate over the largest one so far.
    """
    running = history.gradient_power / _gathered(decay, updates, share.dtype)
    return jnp.maximum(running, jnp.square(share) * history.largest_gradient_power)


def _gathered(decay: Number, updates: Int[Array, ""], dtype: DTypeLike) -> Float[Array, ""]:
    """The total weight in a running mean that starts at zero, with this batch."""
    return 1 - jnp.asarray(decay, dtype) ** (updates + 1).astype(dtype)


def factors(
    sizes: Sizes,
    history: GradientHistory,
    power: Float[Array, " groups"],
    rate: Float[Array, ""],
    momentum: Number,
    relative: Number,
) -> Float[Array, "groups 2"]:
    """The factors that multiply each unit's momentum and, for the decay, its weights.

    Args:
      sizes: the sizes of this batch.
      history: the history with this batch.
      power: the `reference`.
      rate: the learning rate.
      momentum, relative: as in `scale_by_insgd`.
    """
    scale = ((1 - momentum) * ratio(sizes, power)) ** relative
    shrink = relative * rate / 2 * balance(history, power)
    return jnp.stack([scale, shrink.astype(scale.dtype)], axis=1)


def ratio(sizes: Sizes, power: Float[Array, " groups"]) -> Float[Array, " groups"]:
    """Each unit's length over the root of its reference; 0 if the reference is 0.

    >>> nine = jnp.array([9.0, 9.0])
    >>> ratio(Sizes(nine, nine, nine, nine, nine), jnp.array([4.0, 0.0])).tolist()           # 3 / 2
    [1.5, 0.0]
    """
    return jnp.sqrt(sizes.length) * safe_power(power, -0.5)


def balance(history: GradientHistory, power: Float[Array, " groups"]) -> Float[Array, " groups"]:
    """The relative growth of each unit's weights under pure noise, over η² / 2.

    Steps of noise add in squares, so U² grows by η² U² growth / v per step. A relative weight decay
    of half of η² growth / v cancels this. Weights that are smaller than their length can grow up to
    it.
    """
    return history.growth * safe_power(power, -1)
