"""Sharding: arrays whose type says how they lie on the devices of a mesh."""

from collections.abc import Sequence
from typing import Any

import jax
from jax import Array
from jax.sharding import NamedSharding, PartitionSpec

from insgd_optax.compat import varying_axes

AxisName = str | Sequence[str]  # of `jax.shard_map`, `jax.pmap` or `jax.vmap`


def taken(array: Array, at: Any) -> Array:
    """``array[at]``, on every device where the array is sharded in its type."""
    if _is_explicit(array):
        return array.at[at].get(out_sharding=PartitionSpec())
    return array[at]


def everywhere(array: Array) -> Array:
    """The whole array, on every device where it is sharded in its type."""
    return jax.sharding.reshard(array, PartitionSpec()) if _is_explicit(array) else array


def on_current_mesh(array: Any) -> Any:
    """The array for use where the code is now, if it was made outside or inside ``auto_axes``."""
    mesh = jax.sharding.get_abstract_mesh()
    made_on = jax.typeof(array).sharding.mesh
    explicit = mesh.explicit_axes or made_on.explicit_axes
    if made_on == mesh or not mesh.axis_names or not explicit:
        return array
    return jax.sharding.reshard(array, NamedSharding(mesh, PartitionSpec()))


def axes_apart(arrays: Any, kept: Any) -> list[str]:
    """The mesh axes of ``shard_map`` that one of the arrays varies over, and what is kept does not.

    Each device would go on with a history of its own part of the batch, where one is expected.
    """
    varying = [frozenset().union(*map(varying_axes, jax.tree.leaves(t))) for t in (arrays, kept)]
    return sorted(varying[0] - varying[1])


def names_of(axis_name: AxisName | None) -> tuple[str, ...]:
    """The names of the axes, of which there may be none, one or several."""
    return (axis_name,) if isinstance(axis_name, str) else tuple(axis_name or ())


def axis_names(axes: Sequence[str]) -> str:
    """The names of mesh axes as they are written in a call of `jax.lax.psum`."""
    return repr(axes[0] if len(axes) == 1 else tuple(axes))


def _is_explicit(array: Array) -> bool:
    return bool(jax.typeof(array).sharding.mesh.explicit_axes)
