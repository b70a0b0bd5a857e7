"""Sharding: arrays whose type says how they lie on the devices of an Explicit mesh."""

from typing import Any

import jax
from jax import Array
from jax.sharding import PartitionSpec


def taken(array: Array, at: Any) -> Array:
    """``array[at]``, on every device where the array is sharded in its type."""
    if _is_explicit(array):
        return array.at[at].get(out_sharding=PartitionSpec())
    return array[at]


def everywhere(array: Array) -> Array:
    """The whole array, on every device where it is sharded in its type."""
    return jax.sharding.reshard(array, PartitionSpec()) if _is_explicit(array) else array


def _is_explicit(array: Array) -> bool:
    return bool(jax.typeof(array).sharding.mesh.explicit_axes)
