"""Lengths: how far a layer steps, from the size of its output and the history of its gradients.

A unit is what steps together: a matrix of a layer with its bias, or a leaf that belongs to no
layer. In the metric P of the layer's inputs a unit has

    a size       U = ‖W‖_P       what the layer computes of uncorrelated features
    a length     L               the size, or that of outputs of ``least`` if that is larger
    a power      s = ⟨u, G⟩      of its normalized gradient u = A⁻¹ G, as the layer's output sees it
    a reference  v               the largest that the running mean of s ever was; under a schedule
                                 down to today's (see `reference`)

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
    """What a step needs to know of the units, packed as the inputs' ``power_weight`` is.

    Attributes:
      power: each unit's power s in this batch.
      growth: the square of the size that its normalized gradient has, in the metric P.
      size: the square of the size of its weights.
      length: the same, bounded from below: what a step is a share of.
      seen: 1 for a unit that saw rows, or 0.
    """

    power: Float[Array, " groups"]
    growth: Float[Array, " groups"]
    size: Float[Array, " groups"]
    length: Float[Array, " groups"]
    seen: Float[Array, " groups"]


class GradientHistory(NamedTuple):
    """The history of the units' gradients, packed in the same way.

    Attributes:
      gradient_power: the running mean of each unit's power, before bias correction.
      largest_gradient_power: the largest that it ever was, with its bias corrected.
      growth: the running mean of the square of the size of its normalized gradient.
    """

    gradient_power: Float[Array, " groups"]
    largest_gradient_power: Float[Array, " groups"]
    growth: Float[Array, " groups"]


def with_batch(
    history: GradientHistory, sizes: Sizes, decay: Number, updates: Int[Array, ""]
) -> GradientHistory:
    """The history with one more batch. Units that saw no row keep theirs.

    >>> empty, one = GradientHistory(*jnp.zeros((3, 1))), jnp.ones(1)
    >>> first = with_batch(empty, Sizes(4 * one, one, one, one, one), 0.5, jnp.int32(0))
    >>> second = with_batch(first, Sizes(one, one, one, one, one), 0.5, jnp.int32(1))
    >>> first.largest_gradient_power.tolist(), second.gradient_power.tolist()   # 2 / 0.5, 1 + 0.5
    ([4.0], [1.5])

    Args:
      history: what is kept.
      sizes: of this batch.
      decay: how much of the running mean stays.
      updates: how many updates the history has taken.
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
    """v: the power of gradients that a step's length is measured against; 0 where none came yet.

    At a constant rate it is the largest power, so that steps fade with their gradients. A schedule
    makes steps short by itself, and both together would stop a network that learns fast. So as the
    rate falls, v falls with its square: steps are those that the largest rate would take, unless
    they are longer than steps of today's rate with gradients of today's size.

    >>> history = GradientHistory(*jnp.array([[1.0], [4.0], [1.0]]))
    >>> [float(reference(history, 0.0, jnp.int32(1), jnp.array(s))[0]) for s in (1.0, 0.75, 0.25)]
    [4.0, 2.25, 1.0]

    Args:
      history: with this batch.
      decay, updates: as in `with_batch`.
      share: the learning rate over the largest so far.
    """
    running = history.gradient_power / _gathered(decay, updates, share.dtype)
    return jnp.maximum(running, jnp.square(share) * history.largest_gradient_power)


def _gathered(decay: Number, updates: Int[Array, ""], dtype: DTypeLike) -> Float[Array, ""]:
    """How much a running mean from zero has gathered, this batch included."""
    return 1 - jnp.asarray(decay, dtype) ** (updates + 1).astype(dtype)


def factors(
    sizes: Sizes,
    history: GradientHistory,
    power: Float[Array, " groups"],
    rate: Float[Array, ""],
    momentum: Number,
    relative: Number,
) -> Float[Array, "groups 2"]:
    """What each unit multiplies its momentum by, and its weights for the decay.

    Args:
      power: the `reference`.
      rate: the learning rate.
    """
    scale = ((1 - momentum) * ratio(sizes, power)) ** relative
    shrink = relative * rate / 2 * balance(history, power)
    return jnp.stack([scale, shrink.astype(scale.dtype)], axis=1)


def ratio(sizes: Sizes, power: Float[Array, " groups"]) -> Float[Array, " groups"]:
    """The length of each unit over the root of its reference; 0 where that is 0.

    >>> nine = jnp.array([9.0, 9.0])
    >>> ratio(Sizes(nine, nine, nine, nine, nine), jnp.array([4.0, 0.0])).tolist()           # 3 / 2
    [1.5, 0.0]
    """
    return jnp.sqrt(sizes.length) * safe_power(power, -0.5)


def balance(history: GradientHistory, power: Float[Array, " groups"]) -> Float[Array, " groups"]:
    """How fast pure noise of this size would make each unit's weights grow, over η² / 2.

    Steps of noise add their squares: the square of the weights' size U grows by η² U² growth / v a
    step. A decay of the weights by half of that leaves their size as it is. Weights that are
    smaller than their length can grow up to it.
    """
    return history.growth * safe_power(power, -1)
