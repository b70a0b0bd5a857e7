"""Units: leaves that step together, stacked by kind.

A network has many layers and leaves but few kinds of them. Each kind is gathered into one array
along the groups, so its step is traced, compiled and launched once:

    block_0/kernel (64, 64) ─┐
    block_1/kernel (64, 64) ─┼─ (3, 64, 64)  →  u = A⁻¹ G,  s = ⟨u, G⟩,  U²: one value per group
    block_2/kernel (64, 64) ─┘
    block_0..2/bias (64,)   ───  (3, 1, 64)
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Inexact, Int, UInt

from insgd_optax.layout import Layout
from insgd_optax.structures import Structure
from insgd_optax.transforms.factors import Factor
from insgd_optax.transforms.lengths import Sizes
from insgd_optax.transforms.normalizer import Observed
from insgd_optax.transforms.stacks import Stack, opened

Matrices = Mapping[str, Inexact[Array, "_ _ _"]]
Parts = Sequence[Inexact[Array, "_ _ _"]]  # of weights, and of their biases


class LengthSettings(NamedTuple):
    """The settings of `scale_by_insgd` for the length of a step."""

    least: float
    least_of_tables: float
    vector_rate: float


@dataclasses.dataclass(frozen=True)
class Units:
    """Units of one kind, stacked along their groups.

    Attributes:
      parts: the paths of the weights, then those of their biases if they have any.
      layouts: the layout of every leaf in ``parts``.
      at: the positions of their groups in the packed vectors, static.
      places: the first group of each unit in the stack, as in `Stack`.
      seen: whether each group saw rows in this batch.
      structure, factor: those of the layers; None for leaves without a layer.
    """

    parts: Sequence[Sequence[str]]
    layouts: Mapping[str, Layout]
    at: Int[np.ndarray, " groups"]
    places: Mapping[str, UInt[Array, ""]]
    seen: Bool[Array, " groups"]
    structure: Structure | None
    factor: Factor | None

    def directions(self, gradients: Parts) -> Parts:
        """The normalized gradients. The input of a bias is 1, so its gradient stays."""
        first, *rest = gradients
        if self.factor is not None and self.structure is not None:
            applied = self.structure.apply(self.factor.factor, first)
            first = self.factor.scale[:, None, None] * applied
        return [first, *rest]

    def power(self, directions: Parts, gradients: Parts) -> Float[Array, " groups"]:
        """The inner product of each group's normalized gradient with its gradient."""
        pairs = zip(directions, gradients, strict=True)
        return _added(jnp.real(u * jnp.conj(gradient)) for u, gradient in pairs)

    def size(self, parts: Parts) -> Float[Array, " groups"]:
        """The squared size of matrices in the metric of the inputs.

        For weights, this is the squared size of each group's output if features are uncorrelated.
        """
        first, *rest = (jnp.square(jnp.abs(part)) for part in parts)
        return _added([first if self.factor is None else self.factor.power * first, *rest])

    def stacked(self, matrices: Matrices) -> Parts:
        """Concatenates the matrices of all leaves along their groups, part by part."""
        found = [[matrices[path] for path in paths] for paths in self.parts]
        return [each[0] if len(each) == 1 else jnp.concatenate(each) for each in found]

    def opened(self, parts: Parts) -> dict[str, Array]:
        """The inverse of `stacked`."""
        places = self.places.values()
        stacks = [
            Stack(part, dict(zip(paths, places, strict=True)))
            for paths, part in zip(self.parts, parts, strict=True)
        ]
        return opened(stacks, {path: layout.groups for path, layout in self.layouts.items()})

    def shortest(self, settings: LengthSettings) -> float:
        """The lower bound on the squared size that each group's step is a share of."""
        layout = self.layouts[self.parts[0][0]]
        outputs = math.prod(layout.shape) / max(1, layout.groups * layout.inputs)
        return outputs * (settings.least_of_tables if layout.one_hot else settings.least) ** 2

    def share(self, settings: LengthSettings) -> float:
        """The factor on the learning rate: below 1 for gains and shifts."""
        shape = self.layouts[self.parts[0][0]].shape
        is_vector = max(shape, default=1) == math.prod(shape)
        return settings.vector_rate if self.structure is None and is_vector else 1.0


def units_of(observed: Observed, leaves: Mapping[str, Array]) -> list[Units]:
    """Collects the units: each layer with its bias, and each leaf without a layer."""
    [stacks] = observed.derived
    return [_units(stack, observed, leaves) for stack in (*stacks, *observed.lone)]


def _units(stack: Stack, observed: Observed, leaves: Mapping[str, Array]) -> Units:
    paths = list(stack.places)
    found = [observed.moments[path] for path in paths if path in observed.moments]
    parts, structure, seen = [paths], None, jnp.ones(len(paths), bool)
    layouts = {path: Layout.pooled(leaves[path].shape) for path in paths}
    if found:
        structure = found[0].kept
        seen = jnp.concatenate([moments.count for moments in found]) > 0
        layouts = {path: moments.layout for path, moments in zip(paths, found, strict=True)}
        biases = [moments.bias for moments in found]
        if all(bias is not None and bias.path in leaves for bias in biases):
            parts.append([bias.path for bias in biases if bias])
            layouts |= {bias.path: bias.layout for bias in biases if bias}
    starts = {path: observed.slots[path].groups.start for path in paths}
    at = np.concatenate([starts[path] + np.arange(layouts[path].groups) for path in paths])
    factor = stack.whole if found else None
    return Units(parts, layouts, at, stack.places, seen, structure, factor)


def sizes_of(
    units: Sequence[Units],
    directions: Sequence[Parts],
    gradients: Sequence[Parts],
    weights: Sequence[Parts],
    settings: LengthSettings,
    like: Float[Array, " groups"],
) -> Sizes:
    """Computes the `Sizes` of all units, in vectors shaped like ``like``."""

    def packed(values: Iterable[Array]) -> Array:
        return jnp.concatenate([*values, jnp.zeros(1, like.dtype)])[order]

    order = np.full(like.size, sum(each.at.size for each in units))
    (shortest, share), start = np.zeros((2, like.size), like.dtype), 0
    for each in units:
        order[each.at] = start + np.arange(each.at.size)
        shortest[each.at], share[each.at] = each.shortest(settings), each.share(settings)
        start += each.at.size
    of_units = list(zip(units, directions, gradients, weights, strict=True))
    size = packed(each.size(parts) for each, _, _, parts in of_units)
    return Sizes(
        power=packed(each.power(u, parts) for each, u, parts, _ in of_units),
        growth=jnp.square(share) * packed(each.size(u) for each, u, _, _ in of_units),
        size=size,
        length=jnp.square(share) * jnp.maximum(size, shortest),
        seen=packed(each.seen.astype(like.dtype) for each in units),
    )


def _added(parts: Iterable[Array]) -> Float[Array, " groups"]:
    sums = [jnp.sum(part, axis=(1, 2)) for part in parts]
    return sum(sums[1:], sums[0])
