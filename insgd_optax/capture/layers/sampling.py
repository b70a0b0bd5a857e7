"""Which rows of a layer's input are looked at, where not all of them are."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, UInt32

# 2**32 and 1 over the golden ratio: multiples of them, modulo 1, spread evenly.
GOLDEN_BITS, GOLDEN = 2654435769, 0.6180339887


@jax.jit  # traced once for batches of one shape, and without jit one program instead of many
def seed_of(arrays: Sequence[Any]) -> UInt32[Array, ""]:
    """A number that decides which rows are drawn, from what comes with every batch.

    A hash of the arrays, in integers: the same on any number of devices. The arguments of a loss
    are the same numbers wherever they lie. The inputs of a layer are not: how a product or a sum
    is shared among devices changes their last bits.
    """
    seed = jnp.zeros((), jnp.uint32)
    for array in arrays:
        for part in _integers(array):
            seed = _scrambled(seed) + _hashed(part)
    return seed


def drawn_rows(number: int | None, total: int, seed: Any) -> Int[Array, " number"] | None:
    """Places of about so many rows out of all, every row equally likely; None for all rows.

    One row is drawn from each of ``number`` stretches of equal length. The gradient function has
    no state, and needs no key for this: the seed comes from the batch.
    """
    if number is None or number >= total:
        return None
    start = (_scrambled(jnp.uint32(seed)) >> 8).astype(jnp.float32) / jnp.float32(1 << 24)
    stretch = np.arange(number, dtype=np.int64)
    within = (start + (stretch * GOLDEN % 1).astype(np.float32)) % 1
    # (stretch + within) * total / number, with the large part in integers.
    begin, rest = (stretch * total) // number, (stretch * total) % number / number
    offset = jnp.floor(rest.astype(np.float32) + within * np.float32(total / number))
    return jnp.minimum(begin.astype(np.int32) + offset.astype(jnp.int32), total - 1)


def _scrambled(bits: UInt32[Array, ""]) -> UInt32[Array, ""]:
    return (bits ^ (bits >> 15)) * jnp.uint32(GOLDEN_BITS)


def _integers(array: Any) -> list[UInt32[Array, "..."]]:
    """The array's numbers, or a key's, as integers of 32 bits."""
    array = jax.lax.stop_gradient(jnp.asarray(array))
    if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
        return [jax.random.key_data(array)]
    if jnp.iscomplexobj(array):
        return _integers(array.real) + _integers(array.imag)
    if jnp.issubdtype(array.dtype, jnp.floating):
        return [jax.lax.bitcast_convert_type(array.astype(jnp.float32), jnp.uint32)]
    return [array.astype(jnp.uint32)]


def _hashed(bits: UInt32[Array, "..."]) -> UInt32[Array, ""]:
    """A hash of the numbers and their places."""
    place = jnp.ones(bits.shape, jnp.uint32)
    for axis in range(bits.ndim):
        along = jax.lax.broadcasted_iota(jnp.uint32, bits.shape, axis)
        place = place * jnp.uint32(31) + along + jnp.uint32(1)
    return jnp.sum((bits ^ (bits >> 15)) * (place * jnp.uint32(GOLDEN_BITS)), dtype=jnp.uint32)
