"""Which rows of a layer's input are looked at, where not all of them are."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

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
    bits = jax.lax.bitcast_convert_type(jnp.sum(like).astype(jnp.float32), jnp.uint32)
    scrambled = (bits ^ (bits >> 15)) * jnp.uint32(GOLDEN_BITS)
    start = (scrambled >> 8).astype(jnp.float32) / jnp.float32(1 << 24)
    stretch = jnp.arange(number, dtype=jnp.float32)
    within = (start + stretch * jnp.float32(GOLDEN)) % 1
    places = jnp.floor((stretch + within) * jnp.float32(total / number))
    return jnp.minimum(places.astype(jnp.int32), total - 1)
