"""Target: the sums to collect for a leaf, and the groups that each use adds to."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from numpy.typing import NDArray

from insgd_optax.capture.parts import Places
from insgd_optax.capture.program import Use
from insgd_optax.layout import Layout

Sums = tuple[Float[Array, "..."], Float[Array, " _"]]
Found = dict[int, Sums]  # by the leaf's number


@dataclasses.dataclass(frozen=True)
class Target:
    """The sums to collect for a leaf.

    Attributes:
      layout: its layout.
      loops: the loops whose iterations are its groups.
      places: the groups of each use, if layers use the leaf slice by slice.
    """

    layout: Layout
    loops: tuple[int, ...] = ()
    places: Places | None = None

    def placed(self, sums: Sums, use: Use) -> Sums:
        """The sums of a use at its groups, with zeros for the groups that it did not see."""
        if self.places is None or self.places.blocks == 1:
            return sums
        has_seen = np.zeros(self.places.blocks, bool)
        has_seen[list(self.places.of_use[use])] = True
        return jax.tree.map(functools.partial(_placed, has_seen), sums)


def _placed(has_seen: NDArray[np.bool_], sums: Array) -> Array:
    seen = has_seen.reshape(-1, *(1,) * sums.ndim)
    return jnp.where(seen, sums[None], jnp.zeros((), sums.dtype)).reshape(-1, *sums.shape[1:])


def added(first: Found, second: Found) -> Found:
    """Adds the sums of both. Several uses of a leaf are pooled."""
    both = first.keys() & second.keys()
    return {**first, **second} | {leaf: _add(first[leaf], second[leaf]) for leaf in both}


def _add(first: Sums, second: Sums) -> Sums:
    # Uses may differ in precision, as with a float64 head on a float32 trunk.
    dtype = np.promote_types(first[0].dtype, second[0].dtype)
    sums, count = (a.astype(dtype) + b.astype(dtype) for a, b in zip(first, second, strict=True))
    return sums, count
