"""Sharding: arrays whose type shows their placement on a mesh."""

from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import AbstractMesh, NamedSharding, PartitionSpec

from insgd_optax.compat import varying_axes

Tree = TypeVar("Tree")
AxisName = str | Sequence[str]  # of `jax.shard_map`, `jax.pmap` or `jax.vmap`


def taken(array: Array, at: Any) -> Array:
    """``array[at]``, replicated if the array's type has an explicit sharding."""
    if _is_explicit(array):
        return array.at[at].get(out_sharding=_replicated(array))
    return array[at]


def everywhere(array: Array) -> Array:
    """The array, replicated if its type has an explicit sharding."""
    return jax.sharding.reshard(array, _replicated(array)) if _is_explicit(array) else array


def _replicated(array: Array) -> NamedSharding:
    """On the array's mesh. A specification alone needs a mesh in the context."""
    return NamedSharding(jax.typeof(array).sharding.mesh, PartitionSpec())


def explicit_mesh(arrays: Iterable[Any]) -> AbstractMesh | None:
    """The explicit mesh that some of the arrays lie on."""
    meshes = (jax.typeof(array).sharding.mesh for array in arrays)
    return next((mesh for mesh in meshes if mesh.explicit_axes), None)


def on_current_mesh(array: Any, otherwise: AbstractMesh | None = None) -> Any:
    """Moves an array to the current mesh, into or out of ``auto_axes``.

    Without a current mesh it moves to the one given.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if not mesh.axis_names and otherwise is not None:
        mesh = otherwise
    made_on = jax.typeof(array).sharding.mesh
    explicit = mesh.explicit_axes or made_on.explicit_axes
    if made_on == mesh or not mesh.axis_names or not explicit:
        return array
    return jax.sharding.reshard(array, NamedSharding(mesh, PartitionSpec()))


def axes_apart(arrays: Any, kept: Any) -> list[str]:
    """The ``shard_map`` axes that some array varies over, but the kept arrays do not.

    Each device would then keep a history of its part of the batch, instead of one for all.
    """
    varying = [frozenset().union(*map(varying_axes, jax.tree.leaves(t))) for t in (arrays, kept)]
    return sorted(varying[0] - varying[1])


def is_typed(axis: str) -> bool:
    """Whether an array's type shows here if the array varies over this axis."""
    return axis in varying_axes(jax.lax.axis_index(axis))


def split_over(arrays: Sequence[Any], axes: Sequence[str]) -> tuple[str, ...]:
    """The axes that some array varies over, and those that types do not show."""
    varying = frozenset().union(*map(varying_axes, arrays))
    return tuple(axis for axis in axes if axis in varying or not is_typed(axis))


def counted_once(sums: Tree, axes: Sequence[str]) -> Tree:
    """For sums that are equal along these axes: zeros on all devices but the first."""
    if not axes:
        return sums
    is_first = jax.lax.axis_index(tuple(axes)) == 0
    return jax.tree.map(lambda each: jnp.where(is_first, each, jnp.zeros_like(each)), sums)


def names_of(axis_name: object) -> tuple[str, ...]:
    """The names of the axes: none, one or several.

    Raises:
      TypeError: if one is not a string; JAX would take a number as an axis of the array.
      ValueError: if one occurs twice.
    """
    names: tuple[Any, ...] = () if axis_name is None else (axis_name,)
    if isinstance(axis_name, tuple | list):
        names = tuple(axis_name)
    if not all(isinstance(name, str) for name in names):
        raise TypeError(f"axis_name must be a name or a tuple of names, not {axis_name!r}.")
    if len(set(names)) < len(names):
        raise ValueError(f"axis_name={axis_name!r} names an axis twice.")
    return names


def in_a_call(axes: Sequence[str]) -> str:
    """The names of axes as written in a call."""
    return repr(axes[0] if len(axes) == 1 else tuple(axes))


def _is_explicit(array: Array) -> bool:
    return bool(jax.typeof(array).sharding.mesh.explicit_axes)
