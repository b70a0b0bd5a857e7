"""Copies: checks that replicated arrays are equal on all devices."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer


def check_copies(trees: Sequence[Any], pmapped: bool) -> None:
    """Raises if the copies of an array on the devices of this process differ.

    Raises:
      ValueError: with the path of the first array whose copies differ and two of the devices.
    """
    for tree in trees:
        for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
            if isinstance(leaf, jax.Array) and not isinstance(leaf, Tracer):
                _check(jax.tree_util.keystr(path, simple=True, separator="/"), leaf, pmapped)


def _check(path: str, array: jax.Array, pmapped: bool) -> None:
    if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
        array = jax.random.key_data(array)
    first: dict[str, tuple[Any, np.ndarray]] = {}
    for place, device, copy in _copies(array, pmapped):
        other, expected = first.setdefault(place, (device, copy))
        if not np.array_equal(expected, copy, equal_nan=copy.dtype.kind in "fc"):
            raise ValueError(
                f"'{path}' of shape {array.shape} is not the same on {other} and on {device}. The "
                "devices have diverged. Sum the statistics over the devices and average the "
                "gradients in every step, before update():\n"
                "    grads = jax.lax.pmean(grads, axis_name)\n"
                "    input_stats = jax.lax.psum(input_stats, axis_name)\n"
                "value_and_grad(loss_fn, axis_name=axis_name) already includes the second line."
            )


def _copies(array: jax.Array, pmapped: bool) -> list[tuple[str, Any, np.ndarray]]:
    """Returns the part of the array, the device and the values of each copy."""
    if pmapped:
        parts = [(part.device, np.asarray(part.data)) for part in array.addressable_shards]
        return [("", device, copy[None]) for device, copies in parts for copy in copies]
    shards = array.addressable_shards
    if len(shards) < 2 or len({str(shard.index) for shard in shards}) == len(shards):
        return []  # nothing is replicated, so nothing is read
    return [(str(shard.index), shard.device, np.asarray(shard.data)) for shard in shards]
