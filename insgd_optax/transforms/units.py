"""Units: what steps together, and those that are alike as one stack.

A network has many layers and leaves of few kinds. Each kind is gathered into one array along the
groups, so that what a step needs of them is traced, compiled and launched once:

    block_0/kernel (64, 64) ─┐
    block_1/kernel (64, 64) ─┼─ (3, 64, 64)  →  u = A⁻¹ G,  s = ⟨u, G⟩,  U²: one number a group
    block_2/kernel (64, 64) ─┘
    block_0..2/bias (64,)   ───  (3, 1, 64)
"""

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from insgd_optax.layout import Layout
from insgd_optax.moments import InputMoments
from insgd_optax.settings import Number
from insgd_optax.structures import Structure
from insgd_optax.transforms.factors import Factor
from insgd_optax.transforms.normalizer import Observed
from insgd_optax.transforms.stacks import Stack, kind_of, stacked

Matrices = Mapping[str, Float[Array, "_ _ _"]]


@dataclasses.dataclass(frozen=True)
class Units:
    """Units that are alike, stacked along their groups.

    Attributes:
      parts: the paths of the weights, and of their biases where they have one.
      layouts: of every leaf in them.
      at: where their groups are in the packed vectors, static.
      places: the first group of each unit in the stack, as `Stack` keeps it.
      seen: whether each group saw rows in this batch.
      structure, factor: of the layers; None for leaves without a layer.
    """

    parts: Sequence[Sequence[str]]
    layouts: Mapping[str, Layout]
    at: Int[np.ndarray, " groups"]
    places: Mapping[str, Int[Array, ""]]
    seen: Bool[Array, " groups"]
    structure: Structure | None
    factor: Factor | None

    def directions(self, gradients: Matrices) -> list[Float[Array, "_ _ _"]]:
        """The normalized gradients of each part. A bias has an input of 1, whose power is 1."""
        first, *rest = self._stacked(gradients)
        if self.factor is not None and self.structure is not None:
            applied = self.structure.apply(self.factor.factor, first)
            first = self.factor.scale[:, None, None] * applied
        return [first, *rest]

    def power(
        self, directions: Sequence[Float[Array, "_ _ _"]], gradients: Matrices
    ) -> Float[Array, " groups"]:
        """The product of each group's normalized gradient with its gradient."""
        pairs = zip(directions, self._stacked(gradients), strict=True)
        return _added(jnp.real(u * jnp.conj(gradient)) for u, gradient in pairs)

    def size(self, weights: Matrices, least: Number) -> Float[Array, " groups"]:
        """The square of what each group computes of uncorrelated features, bounded from below."""
        total = self.growth(self._stacked(weights))
        return jnp.maximum(total, jnp.asarray(least, total.dtype) ** 2 * self._outputs)

    def growth(self, parts: Sequence[Float[Array, "_ _ _"]]) -> Float[Array, " groups"]:
        """The square of the size of matrices in the metric of the inputs."""
        first, *rest = (jnp.square(jnp.abs(part)) for part in parts)
        return _added([first if self.factor is None else self.factor.power * first, *rest])

    def members(
        self,
        directions: Sequence[Float[Array, "_ _ _"]],
        factors: Float[Array, "groups 2"],
    ) -> Iterator[tuple[str, Array, tuple[Array, Array]]]:
        """For every leaf its path, its normalized gradient and its two factors."""
        for paths, part in zip(self.parts, directions, strict=True):
            for path, place in zip(paths, self.places.values(), strict=True):
                groups = self.layouts[path].groups
                u, factor = (
                    array if len(paths) == 1 else jax.lax.dynamic_slice_in_dim(array, place, groups)
                    for array in (part, factors)
                )
                scale, shrink = factor[:, 0], factor[:, 1]
                yield path, u, (scale[:, None, None], shrink[:, None, None])

    def _stacked(self, matrices: Matrices) -> list[Float[Array, "_ _ _"]]:
        found = [[matrices[path] for path in paths] for paths in self.parts]
        return [each[0] if len(each) == 1 else jnp.concatenate(each) for each in found]

    @property
    def _outputs(self) -> float:
        layout = self.layouts[self.parts[0][0]]
        return math.prod(layout.shape) / max(1, layout.groups * layout.inputs)


def lone_stacks(leaves: Mapping[str, Array], layers: Mapping[str, InputMoments]) -> list[Stack]:
    """The leaves that belong to no layer, those of one kind as one stack."""
    biases = {layer.bias.path for layer in layers.values() if layer.bias}
    kinds: dict[object, list[str]] = {}
    for path in sorted(leaves.keys() - layers.keys() - biases):
        kinds.setdefault(kind_of(path, None, leaves), []).append(path)
    return [stacked((), dict.fromkeys(paths, 1)) for paths in kinds.values()]


def units_of(observed: Observed, leaves: Mapping[str, Array]) -> list[Units]:
    """What steps together: each layer with its bias, and each leaf without a layer."""
    [stacks] = observed.derived
    return [_units(stack, observed, leaves) for stack in stacks]


def _units(stack: Stack, observed: Observed, leaves: Mapping[str, Array]) -> Units:
    paths = list(stack.places)
    found = [observed.moments[path] for path in paths if path in observed.moments]
    parts, structure, seen = [paths], None, jnp.ones(len(paths), bool)
    layouts = {path: Layout.pooled(leaves[path].shape) for path in paths}
    if found:
        structure = found[0].kept
        seen = jnp.concatenate([moments.count > 0 for moments in found])
        layouts = {path: moments.layout for path, moments in zip(paths, found, strict=True)}
        biases = [moments.bias for moments in found]
        if all(bias is not None and bias.path in leaves for bias in biases):
            parts.append([bias.path for bias in biases if bias])
            layouts |= {bias.path: bias.layout for bias in biases if bias}
    starts = {path: observed.slots[path].groups.start for path in paths}
    at = np.concatenate([starts[path] + np.arange(layouts[path].groups) for path in paths])
    factor = stack.whole if found else None
    return Units(parts, layouts, at, stack.places, seen, structure, factor)


def packed_values(
    units: Sequence[Units], values: Sequence[Float[Array, " _"]], length: int
) -> Float[Array, " length"]:
    """The values of all groups as one vector, with zeros where no unit is."""
    order = np.full(length, sum(value.size for value in values))
    order[np.concatenate([each.at for each in units])] = np.arange(order[0])
    return jnp.concatenate([*values, jnp.zeros(1, values[0].dtype)])[order]


def _added(parts: Iterable[Array]) -> Float[Array, " groups"]:
    sums = [jnp.sum(part, axis=(1, 2)) for part in parts]
    return sum(sums[1:], sums[0])
