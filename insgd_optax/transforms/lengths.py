"""Lengths: how far a layer steps, from the size of its output and the history of its gradients.

A unit is what steps together: a matrix of a layer with its bias, or a leaf that belongs to no
layer. In the metric P of the layer's inputs a unit has

    a size       U = ‖W‖_P       what the layer computes of uncorrelated features
    a power      s = ⟨u, G⟩      of its normalized gradient u = A⁻¹ G, as the layer's output sees it
    a reference  v               the largest that the running mean of s ever was

and steps by η U m / √v, where m is the running mean of u:

    gradients agree, as large as ever     ‖m‖ = √v          the step is a share η of the output
    gradients are noise                   ‖m‖ = 0.23 √v     (momentum 0.9) a quarter of that
    gradients fade                        ‖m‖ → 0           the step fades with them
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from insgd_optax.numerics import safe_power
from insgd_optax.settings import Number


class GradientHistory(NamedTuple):
    """The history of the units' gradients, packed as the inputs' ``power_weight`` is.

    Attributes:
      power: the running mean of each unit's power, before bias correction; shape (groups,).
      largest: the largest that it ever was, with its bias corrected; shape (groups,).
    """

    power: Float[Array, " groups"]
    largest: Float[Array, " groups"]


def with_batch(
    history: GradientHistory,
    power: Float[Array, " groups"],
    seen: Float[Array, " groups"],
    decay: Number,
    updates: Int[Array, ""],
) -> GradientHistory:
    """The history with one more batch. Units that saw no row keep theirs.

    >>> empty, seen = GradientHistory(jnp.zeros(1), jnp.zeros(1)), jnp.ones(1)
    >>> first = with_batch(empty, jnp.array([4.0]), seen, 0.5, jnp.int32(0))
    >>> second = with_batch(first, jnp.array([1.0]), seen, 0.5, jnp.int32(1))
    >>> first.largest.tolist(), second.power.tolist()                # 2 / 0.5, and 2 / 2 + 1 / 2
    ([4.0], [1.5])

    Args:
      history: what is kept.
      power: each unit's power in this batch.
      seen: 1 for a unit that saw rows, or 0.
      decay: how much of the running mean stays.
      updates: how many updates the history has taken.
    """
    kept = 1 - seen * (1 - jnp.asarray(decay, power.dtype))
    running = kept * history.power + (1 - kept) * power
    gathered = 1 - jnp.asarray(decay, power.dtype) ** (updates + 1).astype(power.dtype)
    return GradientHistory(running, jnp.maximum(history.largest, running / gathered))


def ratio(size: Float[Array, " groups"], history: GradientHistory) -> Float[Array, " groups"]:
    """The size of each unit over the reference of its gradients; 0 where there never was one.

    >>> history = GradientHistory(jnp.array([1.0, 0.0]), jnp.array([4.0, 0.0]))
    >>> ratio(jnp.array([9.0, 9.0]), history).tolist()               # 3 / 2
    [1.5, 0.0]
    """
    return jnp.sqrt(size) * safe_power(history.largest, -0.5)


def share(power: Float[Array, " groups"], history: GradientHistory) -> Float[Array, " groups"]:
    """The power of this batch over the reference, at most 1."""
    return jnp.minimum(power * safe_power(history.largest, -1), 1)
