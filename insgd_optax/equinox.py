"""Equinox: value_and_grad of a loss whose first argument is a module, functions included."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax

from insgd_optax.capture import gradients
from insgd_optax.capture.gradients import InputStats
from insgd_optax.capture.per_example import PerExample
from insgd_optax.sharding import AxisName
from insgd_optax.structures import MeanVariances, Structure


def value_and_grad(
    loss_fn: Callable[..., Any],
    has_aux: bool = False,
    *,
    batch_argnums: int | Sequence[int] | None = None,
    structure: Structure = MeanVariances(),  # noqa: B008 (frozen)
    per_example: PerExample | bool = False,
    strict: bool = True,
    axis_name: AxisName | None = None,
) -> Callable[..., tuple[Any, Any, InputStats]]:
    """Like ``eqx.filter_value_and_grad``, and also returns the statistics of every layer's input.

    The first argument of the loss is a module. It may hold functions, flags and integers as well as
    parameters. Call the function under ``eqx.filter_jit``, like the rest of a step.

    >>> import jax.numpy as jnp
    >>> import insgd_optax as insgd
    >>> model = eqx.nn.Linear(2, 1, key=jax.random.key(0))
    >>> optimizer = insgd.insgd()
    >>> state = optimizer.init(eqx.filter(model, eqx.is_inexact_array))
    >>> def loss_fn(model, inputs):
    ...     return jnp.mean(jax.vmap(model)(inputs) ** 2)
    >>> inputs = jnp.array([[1.0, 2.0], [3.0, 0.0]])      # two rows of two features
    >>> loss, grads, input_stats = insgd.equinox.value_and_grad(loss_fn)(model, inputs)
    >>> input_stats["weight"].sums.tolist()               # 1 + 3, 2 + 0, and 1 + 9, 4 + 0
    [[4.0, 2.0, 10.0, 4.0]]
    >>> params = eqx.filter(model, eqx.is_inexact_array)
    >>> updates, state = optimizer.update(grads, state, params, input_stats=input_stats)
    >>> model = eqx.apply_updates(model, updates)

    Args:
      loss_fn: takes a module and other arguments, and returns a scalar, or ``(scalar, aux)`` with
        ``has_aux``. All real or complex arrays of the first argument are differentiated.
      has_aux: whether the loss also returns auxiliary data, such as an ``eqx.nn.State``.
      batch_argnums: the arguments that hold data. The default is all but the first, except PRNG
        keys and every ``eqx.nn.State`` in them.
      structure, per_example, strict, axis_name: see `insgd_optax.value_and_grad`.

    Returns:
      A function of the loss's arguments that returns ``(value, grads, input_stats)``. ``grads`` is
      a module with None for leaves that are not differentiated. ``input_stats`` maps the path of
      every other leaf to an `InputMoments` or None.

    Raises:
      ValueError, TypeError: see `insgd_optax.value_and_grad`.
    """
    options: Any = {"structure": structure, "per_example": per_example}
    options |= {"strict": strict, "axis_name": axis_name}

    def with_statistics(model: Any, *args: Any, **kwargs: Any) -> tuple[Any, Any, InputStats]:
        params, held = eqx.partition(model, eqx.is_inexact_array)
        is_passed = _is_no_state if batch_argnums is None else True
        passed, states = eqx.partition((args, kwargs), is_passed, is_leaf=_is_state)

        def of_arrays(params: Any, *args: Any, **kwargs: Any) -> Any:
            # Rebuild the states. Each can be changed only once, and without jit the loss runs
            # twice.
            model = eqx.combine(params, held)
            new = jax.tree.map(lambda leaf: leaf, states)
            args, kwargs = eqx.combine((args, kwargs), new, is_leaf=_is_state)
            return loss_fn(model, *args, **kwargs)

        grad_fn = gradients.value_and_grad(
            of_arrays, has_aux=has_aux, batch_argnums=batch_argnums, **options
        )
        args, kwargs = passed
        return grad_fn(params, *args, **kwargs)

    return functools.wraps(loss_fn)(with_statistics)


def _is_state(leaf: Any) -> bool:
    return isinstance(leaf, eqx.nn.State)


def _is_no_state(leaf: Any) -> bool:
    return not _is_state(leaf)
