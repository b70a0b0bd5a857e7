"""Numerics: arithmetic that stays finite."""

import numbers

import jax.numpy as jnp
from jaxtyping import Array, Float

from insgd_optax.settings import Number


def safe_power(power: Float[Array, "*shape"], exponent: Number) -> Float[Array, "*shape"]:
    """``power ** exponent``, and 0 where the power is 0: what saw nothing takes no step.

    The bound is the smallest normal number, so that the result is always finite.
    """
    present = power >= jnp.finfo(power.dtype).tiny
    bounded = jnp.where(present, power, 1)
    if isinstance(exponent, numbers.Real) and exponent == -1:
        return jnp.where(present, 1 / bounded, 0)
    return jnp.where(present, bounded ** jnp.asarray(exponent, power.dtype), 0)
