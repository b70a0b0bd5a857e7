"""Counting: the group membership of a batch, and sums over each group."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from insgd_optax.sharding import everywhere


class GroupSums(NamedTuple):
    """Sums over examples. They add, ``a + b``, over micro-batches, scan steps and devices.

    Attributes:
      count: number of examples of each group; shape (K,).
      power: sum of their squared gradient norms; shape (K,).
      measured: number of examples of each group with a known, finite gradient norm; shape (K,).
      outside: number of examples in no group, without those marked by -1; shape ().
    """

    count: Float[Array, " K"]
    power: Float[Array, " K"]
    measured: Float[Array, " K"]
    outside: Float[Array, ""]

    def __add__(self, other: "GroupSums") -> "GroupSums":  # type: ignore[override]
        """Adds two sums."""
        return GroupSums(*map(jnp.add, self, other))


class OneGroup(NamedTuple):
    """Examples that belong to one group each, or to none.

    Attributes:
      index: the group of each example, or K for none.
      size: K.
    """

    index: Int[Array, "*examples"]
    size: int

    def known(self) -> Bool[Array, "*examples"]:
        return self.index < self.size

    def total(self, values: Float[Array, "*examples"]) -> Float[Array, " K"]:
        """The sum over each group's examples."""
        sums = jnp.zeros(self.size, jnp.float32)
        return sums.at[self.index.ravel()].add(values.ravel(), mode="drop")

    def of_each(self, by_group: Float[Array, " K"]) -> Float[Array, "*examples"]:
        """The value of each example's group; 0 for examples in no group."""
        return by_group.at[self.index].get(mode="fill", fill_value=0)


class ManyGroups(NamedTuple):
    """Examples that can belong to several groups.

    Attributes:
      shares: the share of each example in each group.
      counted: which examples count.
    """

    shares: Float[Array, "*examples K"]
    counted: Bool[Array, "*examples"]

    def known(self) -> Bool[Array, "*examples"]:
        return self.counted

    def total(self, values: Float[Array, "*examples"]) -> Float[Array, " K"]:
        """The sum over each group's examples."""
        return jnp.einsum("...k,...->k", self.shares, values)

    def of_each(self, by_group: Float[Array, " K"]) -> Float[Array, "*examples"]:
        """The mean value over each example's groups; 1 for examples without a label."""
        labels = self.shares.sum(axis=-1)
        mean = self.shares @ by_group / jnp.where(labels > 0, labels, 1)
        return jnp.where(self.counted, jnp.where(labels > 0, mean, 1), 0)


def group_sums(
    groups: Any, num_groups: int, gradient_norms: Any = None, mask: Any = None
) -> GroupSums:
    """Counts a batch's groups.

    >>> sums = group_sums(jnp.array([0, 2, 2, -1]), 3, gradient_norms=jnp.array([1.0, 2, 4, 9]))
    >>> sums.count.tolist(), sums.power.tolist()
    ([1.0, 0.0, 2.0], [1.0, 0.0, 20.0])

    Args:
      groups: integers of any shape from 0 to ``num_groups - 1``. -1 leaves an example out
        (padding). If examples can have several labels, pass their share in each group as booleans
        or floats of shape ``(examples, num_groups)``, possibly with more axes. Such an example
        counts for every label it has. Integers are always labels, so cast zeros and ones to bool.
      num_groups: K.
      gradient_norms: the norm of every example's gradient, of shape ``(...)``. Those whose square
        is not finite are left out.
      mask: of shape ``(...)``. Examples with a false mask are left out.

    Raises:
      TypeError: if the groups are neither, or if the norms are a dict.
      ValueError: if shapes do not fit.
    """
    members, outside = membership(groups, num_groups, mask)
    known = members.known()
    count = members.total(known.astype(jnp.float32))
    if gradient_norms is None:
        return GroupSums(count, jnp.zeros_like(count), jnp.zeros_like(count), outside)
    if isinstance(gradient_norms, dict):
        raise TypeError(
            "gradient_norms is a dict, as returned by example_gradient_norms. Pass one norm for "
            "each example: jnp.sqrt(sum(norm**2 for norm in norms.values()))."
        )
    norms = _of_shape("gradient_norms", gradient_norms, known.shape)
    norms = jax.lax.stop_gradient(norms).astype(jnp.float32)
    finite = jnp.isfinite(jnp.square(norms))
    power = members.total(jnp.square(jnp.where(finite, norms, 0)))
    return GroupSums(count, power, members.total(finite.astype(jnp.float32)), outside)


def membership(
    groups: Any, num_groups: int, mask: Any = None
) -> tuple[OneGroup | ManyGroups, Float[Array, ""]]:
    """The group membership of every example, and the number of examples outside of all groups.

    Raises:
      TypeError, ValueError: as in `group_sums`.
    """
    groups = everywhere(jnp.asarray(groups))
    single = jnp.issubdtype(groups.dtype, jnp.integer)
    several = groups.dtype == bool or jnp.issubdtype(groups.dtype, jnp.floating)
    if not single and not (several and groups.ndim > 1 and groups.shape[-1] == num_groups):
        raise TypeError(
            f"groups have type {groups.dtype} and shape {groups.shape}. They must be integers from "
            f"0 to {num_groups - 1} (-1 for padding), or booleans or floats of shape "
            f"(..., {num_groups}) if an example can have several labels."
        )
    shape = groups.shape if single else groups.shape[:-1]
    kept = jnp.ones(shape, bool) if mask is None else _of_shape("mask", mask, shape).astype(bool)
    if single:
        groups = groups.astype(jnp.int32) if groups.dtype.itemsize < 4 else groups
        inside = (groups >= 0) & (groups < num_groups)
        outside = kept & ~inside & (groups != -1)
        index = jnp.where(kept & inside, groups, num_groups).astype(jnp.int32)
        return OneGroup(index, num_groups), jnp.sum(outside, dtype=jnp.float32)
    shares = groups.astype(jnp.float32)
    valid = jnp.all(jnp.isfinite(jnp.square(shares)) & (shares >= 0), axis=-1)
    shares = jnp.where((kept & valid)[..., None], shares, 0)
    return ManyGroups(shares, kept & valid), jnp.sum(kept & ~valid, dtype=jnp.float32)


def _of_shape(name: str, array: Any, shape: tuple[int, ...]) -> Array:
    array = everywhere(jnp.asarray(array))
    if array.shape != shape:
        raise ValueError(f"{name} has shape {array.shape}, but the examples have shape {shape}.")
    return array
