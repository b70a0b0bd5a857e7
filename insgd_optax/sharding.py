"""Sharding: arrays whose type says how they lie on the devices of an Explicit mesh."""

from typing import Any

import jax
from jax import Array
from jax.sharding import NamedSharding, PartitionSpec


def taken(array: Array, at: Any) -> Array:
    """``array[at]``, on every device where the array is sharded in its type."""
    if _is_explicit(array):
        return array.at[at].get(out_sharding=PartitionSpec())
    return array[at]


def everywhere(array: Array) -> Array:
    """The whole array, on every device where it is sharded in its type."""
    return jax.sharding.reshard(array, PartitionSpec()) if _is_explicit(array) else array


def on_current_mesh(array: Array) -> Array:
    """The array for use where the code is now, after it was made inside of ``auto_axes``."""
    mesh = jax.sharding.get_abstract_mesh()
    made_on = jax.typeof(array).sharding.mesh
    if made_on == mesh or not mesh.explicit_axes:
        return array
    return jax.sharding.reshard(array, NamedSharding(mesh, PartitionSpec()))


def _is_explicit(array: Array) -> bool:
    return bool(jax.typeof(array).sharding.mesh.explicit_axes)
