"""Lengths: how far a layer steps, from the size of its output and the history of its gradients.

What steps together is a `Unit`: the matrix of a layer (each group of it by itself) with its bias,
or a leaf that belongs to no layer. In the metric of the layer's inputs a unit has

    a size      U = ‖W‖_P          what the layer computes, from its weights and its inputs' history
    a power     s = ⟨u, G⟩         of its normalized gradient u = A⁻¹ G: ‖u‖² as the output sees it
    a reference v                  the largest running mean of s so far

and steps by η U m / √v, where m is the running mean of u. A gradient that fades takes smaller
steps. One that is noise takes shorter ones than one that agrees with those before it, since m is
then shorter than √v.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from insgd_optax.layout import Layout
from insgd_optax.numerics import safe_power
from insgd_optax.settings import Number


class GradientHistory(NamedTuple):
    """The history of the units' gradients, packed as the inputs' ``power_weight`` is.

    Attributes:
      power: the running mean of each group's power, before bias correction; shape (groups,).
      largest: the largest that it was so far, with its bias corrected; shape (groups,).
    """

    power: Float[Array, " groups"]
    largest: Float[Array, " groups"]


@dataclasses.dataclass(frozen=True)
class Unit:
    """Leaves that step together, each seen as ``(groups, inputs, outputs)``.

    Attributes:
      layouts: by path; a layer's weight comes first, and then its bias.
      metric: the mean power of the inputs of each of them, to broadcast against its matrices.
      place: where its groups begin in the packed vectors.
      seen: whether each group saw rows in this batch; shape (groups,).
    """

    layouts: Mapping[str, Layout]
    metric: Sequence[Float[Array, "groups _ _"]]
    place: int
    seen: Array

    @property
    def outputs(self) -> float:
        """How many outputs each group has."""
        layout = next(iter(self.layouts.values()))
        return math.prod(layout.shape) / max(1, layout.groups * layout.inputs)

    def size(
        self, weights: Mapping[str, Float[Array, "groups _ outputs"]], least: Number
    ) -> Float[Array, " groups"]:
        """The square of what each group computes of uncorrelated features, bounded from below."""
        squares = [
            jnp.sum(power * jnp.square(jnp.abs(weights[path])), axis=(1, 2))
            for path, power in zip(self.layouts, self.metric, strict=True)
        ]
        total = sum(squares[1:], squares[0])
        return jnp.maximum(total, jnp.asarray(least**2 * self.outputs, total.dtype))

    def power(
        self,
        directions: Mapping[str, Float[Array, "groups _ outputs"]],
        gradients: Mapping[str, Float[Array, "groups _ outputs"]],
    ) -> Float[Array, " groups"]:
        """The product of each group's normalized gradient with its gradient."""
        products = [
            jnp.sum(jnp.real(directions[path] * jnp.conj(gradients[path])), axis=(1, 2))
            for path in self.layouts
        ]
        return sum(products[1:], products[0])


def pack(
    units: Sequence[Unit], values: Sequence[Float[Array, " _"]], length: int
) -> Float[Array, " groups"]:
    """The values of all units as one vector, with zeros where no unit is."""
    parts, end = [], 0
    for unit, value in zip(units, values, strict=True):
        parts += [jnp.zeros(unit.place - end, value.dtype), value]
        end = unit.place + value.size
    return jnp.concatenate([*parts, jnp.zeros(length - end, parts[-1].dtype)])


def with_batch(
    history: GradientHistory,
    power: Float[Array, " groups"],
    seen: Float[Array, " groups"],
    decay: Number,
    updates: Int[Array, ""],
) -> GradientHistory:
    """The history with one more batch. Groups that saw no row keep theirs.

    >>> empty = GradientHistory(jnp.zeros(1), jnp.zeros(1))
    >>> first = with_batch(empty, jnp.array([4.0]), jnp.array([1.0]), 0.5, jnp.int32(0))
    >>> second = with_batch(first, jnp.array([1.0]), jnp.array([1.0]), 0.5, jnp.int32(1))
    >>> first.largest.tolist(), second.largest.tolist()          # 4, then (1 + 2) / 1.5 = 2
    ([4.0], [4.0])

    Args:
      history: what is kept.
      power: each group's power in this batch.
      seen: 1 for a group that saw rows, or 0.
      decay: how much of the running mean stays.
      updates: how many updates the history has taken.
    """
    kept = 1 - seen * (1 - jnp.asarray(decay, power.dtype))
    running = kept * history.power + (1 - kept) * power
    gathered = 1 - jnp.asarray(decay, power.dtype) ** (updates + 1).astype(power.dtype)
    return GradientHistory(running, jnp.maximum(history.largest, running / gathered))


def places(unit: Unit) -> np.ndarray:
    """The places of a unit's groups in the packed vectors."""
    groups = next(iter(unit.layouts.values())).groups
    return unit.place + np.arange(groups)


def ratio(size: Float[Array, " groups"], history: GradientHistory) -> Float[Array, " groups"]:
    """The size of each group over the reference of its gradients; 0 where there never was one."""
    found = jnp.sqrt(size) * safe_power(history.largest, -0.5)
    return jnp.where(jnp.isfinite(found), found, 0)
