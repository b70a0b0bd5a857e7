"""tap: tells the capture about a layer that an operation hides from the trace."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from insgd_optax import compat
from insgd_optax.compat import JaxprEqn


def tap(x: Array, weight: Array, operation: Callable[[Array, Array], Any] = jnp.matmul) -> Array:
    """Declares in a loss that a weight is applied to an input. Returns the input.

    A Pallas kernel, a callback or a foreign function hides from the trace how it applies a weight.
    ``operation`` does the same with JAX functions: a matrix product, an einsum, a convolution or a
    lookup. `value_and_grad` finds the layer in it. The result of ``operation`` is discarded, so it
    costs nothing under ``jax.jit``. Without `value_and_grad`, a tap does nothing.

    A tap has no effect inside a function that the loss itself differentiates, or under
    ``jax.disable_jit``. A bias that is added to the hidden result keeps its plain gradient.

    >>> from insgd_optax import value_and_grad
    >>> def on_the_host(x, w):                              # an operation that JAX does not see
    ...     like = jax.ShapeDtypeStruct((2, 1), x.dtype)
    ...     return jax.pure_callback(lambda x, w: x @ w, like, x, w)
    >>> product = jax.custom_vjp(on_the_host)
    >>> product.defvjp(
    ...     lambda x, w: (on_the_host(x, w), (x, w)),
    ...     lambda kept, gradient: (gradient @ kept[1].T, kept[0].T @ gradient))
    >>> def loss_fn(params, x):
    ...     return jnp.sum(product(tap(x, params["w"]), params["w"]))
    >>> x = jnp.array([[1.0, 2.0], [3.0, 0.0]])
    >>> _, _, input_stats = value_and_grad(loss_fn)({"w": jnp.ones((2, 1))}, x)
    >>> input_stats["w"].sums.tolist()                      # 1 + 3, 2 + 0, and 1 + 9, 4 + 0
    [[4.0, 2.0, 10.0, 4.0]]

    Args:
      x: the layer's input. Apply the layer to the returned value. A tap does not count if the loss
        does not depend on its result.
      weight: the layer's weight.
      operation: a function of ``x`` and ``weight`` that does the same in JAX. The default is the
        matrix product ``x @ weight``.

    Returns:
      ``x``.

    Raises:
      TypeError: if the operation is not hashable.
    """
    try:
        hash(operation)
    except TypeError:
        raise TypeError(
            "The operation of a tap must be hashable, like a function, but it is of type "
            f"{type(operation).__name__}. Write tap(x, weight, lambda x, weight: ...)."
        ) from None
    return _named(operation, x, weight)


def _insgd_optax_tap(operation: Callable[[Array, Array], Any], x: Array, weight: Array) -> Array:
    """Becomes an equation of this name, which holds the operation and does nothing."""
    operation(*jax.lax.stop_gradient((x, weight)))
    return x


# Compiled once per operation.
_named = jax.jit(_insgd_optax_tap, static_argnums=0)


def is_tap(equation: JaxprEqn) -> bool:
    return compat.name_of_call(equation) == _insgd_optax_tap.__name__
