"""Numerics: arithmetic that stays finite, and the precision for it."""

import numbers
from collections.abc import Callable
from typing import Any

import jax
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


def one_by_one(
    function: Callable[..., Array], matrices: Float[Array, "groups n n"], *settings: Array
) -> Float[Array, "groups n n"]:
    """A function of every matrix, and of settings that are the same for all.

    On a CPU not of all at once: jaxlib's LAPACK calls on several matrices wait for threads of a
    pool that they run in themselves, and two such calls on two cores wait for each other forever
    (jaxlib 0.10.2).
    """
    alone = jax.custom_batching.sequential_vmap(function)  # under the caller's vmap as well

    def in_turn(matrices: Array, *settings: Array) -> Array:
        return jax.lax.map(lambda matrix: alone(matrix, *settings), matrices)

    at_once = jax.vmap(function, in_axes=(0, *(None for _ in settings)))
    return jax.lax.platform_dependent(matrices, *settings, cpu=in_turn, default=at_once)


def as_dtype(array: Array, dtype: Any) -> Array:
    """The array in a dtype. A cast that changes nothing takes time to trace all the same."""
    return array if array.dtype == dtype else array.astype(dtype)


def wide_dtype(dtype: Any) -> Any:
    """The precision of sums: float32, or float64 for float64."""
    return jnp.float64 if dtype == jnp.float64 else jnp.float32
