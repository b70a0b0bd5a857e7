"""Numerics: arithmetic that stays finite, precisions and branches."""

import functools
import numbers
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Float

from insgd_optax.settings import Number

T = TypeVar("T")


def safe_power(power: Float[Array, "*shape"], exponent: Number) -> Float[Array, "*shape"]:
    """``power ** exponent``, but 0 where the power is 0. Unseen inputs then take no step.

    Powers below the smallest normal number count as 0. The result is always finite.
    """
    present = power >= jnp.finfo(power.dtype).tiny
    bounded = jnp.where(present, power, 1)
    if isinstance(exponent, numbers.Real) and exponent == -1:
        return jnp.where(present, 1 / bounded, 0)
    return jnp.where(present, bounded ** jnp.asarray(exponent, power.dtype), 0)


# Compiled once for a function and shapes, even without an outer `jax.jit`.
@functools.partial(jax.jit, static_argnums=0, inline=True)
def one_by_one(
    function: Callable[..., Array], matrices: Float[Array, "groups n n"], *settings: Array
) -> Float[Array, "groups n n"]:
    """Applies a function to every matrix, with the same settings for all.

    On a CPU the matrices are processed in sequence. LAPACK calls of jaxlib on several matrices wait
    for threads of the pool that they run in. Two such calls on two cores wait for each other
    forever (jaxlib 0.10.2).
    """
    alone = jax.custom_batching.sequential_vmap(function)  # under the caller's vmap as well

    def in_turn(matrices: Array, *settings: Array) -> Array:
        return jax.lax.map(lambda matrix: alone(matrix, *settings), matrices)

    at_once = jax.vmap(function, in_axes=(0, *(None for _ in settings)))
    return jax.lax.platform_dependent(matrices, *settings, cpu=in_turn, default=at_once)


def as_dtype(array: Array, dtype: Any) -> Array:
    """Casts an array if needed. Even a cast that changes nothing takes time to trace."""
    return array if array.dtype == dtype else array.astype(dtype)


def wide_dtype(dtype: Any) -> Any:
    """The dtype of sums: float32, or float64 for float64."""
    return jnp.float64 if dtype == jnp.float64 else jnp.float32


def is_known(array: Any) -> bool:
    """Whether an array's values can be read: not traced, and held by this process."""
    if isinstance(array, Tracer) or not isinstance(array, jax.Array | np.ndarray):
        return False
    return isinstance(array, np.ndarray) or array.is_fully_addressable or array.is_fully_replicated


def either(condition: Bool[Array, ""], if_true: Callable[[], T], if_false: Callable[[], T]) -> T:
    """`jax.lax.cond`, or a plain branch if the condition is known.

    A ``cond`` is compiled again for every new function. Without ``jax.jit`` that is every update.
    """
    if is_known(condition):
        return if_true() if condition else if_false()
    return jax.lax.cond(condition, if_true, if_false)
