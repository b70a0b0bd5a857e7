"""Which rows of a layer's input are looked at, where not all of them are."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt32

# 2**32 and 1 over the golden ratio: multiples of them, modulo 1, spread evenly.
GOLDEN_BITS, GOLDEN = 2654435769, 0.6180339887


def drawn_rows(
    number: int | None, total: int, like: Float[Array, "..."]
) -> Int[Array, " number"] | None:
    """Places of about so many rows out of all, every row equally likely; None for all rows.

    One row is drawn from each of ``number`` stretches of equal length. What decides is a hash of
    the input itself: the gradient function has no state, and needs no key for this.
    """
    if number is None or number >= total:
        return None
    bits = _hashed(like)
    scrambled = (bits ^ (bits >> 15)) * jnp.uint32(GOLDEN_BITS)
    start = (scrambled >> 8).astype(jnp.float32) / jnp.float32(1 << 24)
    stretch = np.arange(number, dtype=np.int64)
    within = (start + (stretch * GOLDEN % 1).astype(np.float32)) % 1
    # (stretch + within) * total / number, with the large part in integers.
    begin, rest = (stretch * total) // number, (stretch * total) % number / number
    offset = jnp.floor(rest.astype(np.float32) + within * np.float32(total / number))
    return jnp.minimum(begin.astype(np.int32) + offset.astype(jnp.int32), total - 1)


def _hashed(array: Float[Array, "..."]) -> UInt32[Array, ""]:
    """A hash of the numbers and their places. In integers: the same on any number of devices."""
    place = jnp.zeros(array.shape, jnp.uint32)
    for axis in range(array.ndim):
        along = jax.lax.broadcasted_iota(jnp.uint32, array.shape, axis)
        place = place * jnp.uint32(31) + along + jnp.uint32(1)
    bits = jax.lax.bitcast_convert_type(array.astype(jnp.float32), jnp.uint32)
    return jnp.sum((bits ^ (bits >> 15)) * (place * jnp.uint32(GOLDEN_BITS)), dtype=jnp.uint32)
