"""Mistakes: errors for wrong calls of a gradient function, each with its fix."""

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import keystr, tree_flatten_with_path

from insgd_optax.capture.arguments import is_array, positions

NNX_RECIPE = """Call the function for modules, which keeps the changes that the loss makes to them:
    loss, grads, input_stats = insgd_optax.nnx.value_and_grad(loss_fn)(model, batch)
or pass the parameters, the other variables and the batch to the loss as arguments:
    graph, params, rest = nnx.split(model, nnx.Param, ...)"""

EQUINOX_RECIPE = """Call the function for modules, which differentiates only their arrays:
    loss, grads, input_stats = insgd_optax.equinox.value_and_grad(loss_fn)(model, batch)
or pass the arrays of the model to the loss as an argument:
    params, static = eqx.partition(model, eqx.is_inexact_array)"""

RECIPE = """Put the trained parameters into a separate argument and select it with argnums:
    value_and_grad(loss_fn, argnums=...)"""

NOT_TRAINED = ("BatchStat", "Cache", "Intermediate", "RngState")


def check_parameters(
    args: tuple[Any, ...],
    argnums: int | Sequence[int],
    batch_argnums: int | Sequence[int] | None,
) -> None:
    """Raises unless the arguments to differentiate hold only real or complex arrays.

    Raises:
      TypeError: with the path and the type of a leaf that has no gradient, or if another argument
        looks like the parameters.
    """
    for place in positions("argnums", argnums, len(args)):
        _check_variables(place, args[place])
        for path, leaf in tree_flatten_with_path(args[place])[0]:
            if not _has_gradient(leaf):
                raise TypeError(
                    f"Argument {place} of the loss is differentiated, but {_named(path)} is "
                    f"{_described(leaf)}, which has no gradient.\n{_recipe(args[place])}"
                )
    if argnums == 0 and batch_argnums is None:
        _check_order(args)


def check_result(result: Any, has_aux: bool) -> None:
    """Raises unless the result of a loss agrees with ``has_aux``.

    Raises:
      TypeError: with the type of the result.
    """
    is_pair = isinstance(result, tuple) and len(result) == 2
    if has_aux and not is_pair:
        raise TypeError(
            f"With has_aux=True the loss must return (loss, aux), but it returned "
            f"{_described(result)}. Return a pair, or omit has_aux."
        )
    if not has_aux and not is_array(result) and not isinstance(result, int | float | complex):
        raise TypeError(
            f"The loss must return a number, but it returned {_described(result)}. If it returns "
            "(loss, aux), call value_and_grad(loss_fn, has_aux=True)."
        )


def check_axes(axes: Sequence[str]) -> None:
    """Raises unless the code around the call defines every axis to sum over.

    Raises:
      ValueError: with the name of an undefined axis.
    """
    for axis in axes:
        try:
            jax.lax.axis_index(axis)
        except NameError:
            raise ValueError(
                f"axis_name=... sums the statistics over {axis!r}, but there is no axis "
                "of this name here. Pass it inside jax.shard_map, or inside jax.pmap or "
                "jax.vmap with axis_name=. Omit it under jax.jit with sharded arrays, where "
                "the statistics already cover the whole batch."
            ) from None


def hidden_data(
    args: tuple[Any, ...], kwargs: Mapping[str, Any], argnums: int | Sequence[int]
) -> list[str]:
    """Sentences on why JAX may not see the data among the arguments.

    JAX does not see the arrays inside objects of unknown types. It also drops operations without
    rows: lookups, and convolutions under `jax.vmap`.
    """
    found = []
    differentiated = positions("argnums", argnums, len(args))
    for path, leaf in tree_flatten_with_path((args, dict(kwargs)))[0]:
        # The path starts with the index in (args, kwargs), then the argument.
        place = getattr(path[1], "idx", None)
        argument = f"Argument {getattr(path[1], 'key', place)}"
        if is_array(leaf):
            if 0 in jnp.shape(leaf) and place not in differentiated:
                found.append(
                    f"{argument} of the loss has no rows (shape {jnp.shape(leaf)}), and JAX "
                    "drops operations without rows. Skip batches without examples."
                )
        elif _holds_arrays(leaf):
            found.append(
                f"{argument} of the loss holds an object of type {type(leaf).__name__}, whose "
                f"arrays JAX does not see. {_registration(leaf)}"
            )
    return found


def _holds_arrays(leaf: Any) -> bool:
    inside = getattr(leaf, "__dict__", {}) if not isinstance(leaf, type) else {}
    return any(map(is_array, inside.values()))


def _registration(leaf: Any) -> str:
    if dataclasses.is_dataclass(leaf):
        return f"Decorate {type(leaf).__name__} with jax.tree_util.register_dataclass."
    return "Pass its arrays, in a dict or a tuple."


def _check_variables(place: int, argument: Any) -> None:
    """Raises for statistics and random states of an NNX model, whose updates would be lost."""
    nnx = sys.modules.get("flax.nnx")
    if nnx is None:
        return
    kinds = tuple(getattr(nnx, name) for name in NOT_TRAINED if hasattr(nnx, name))
    variables = jax.tree.leaves(argument, is_leaf=lambda leaf: isinstance(leaf, nnx.Variable))
    others = {type(each).__name__ for each in variables if isinstance(each, kinds)}
    if others:
        raise TypeError(
            f"Argument {place} of the loss is an NNX {type(argument).__name__} that holds "
            f"{', '.join(sorted(others))} in addition to its parameters. These must not be "
            f"differentiated, and the loss's updates to them would be lost.\n{NNX_RECIPE}"
        )


def _check_order(args: tuple[Any, ...]) -> None:
    """Raises if the first argument looks like the inputs and another one like the parameters.

    The inputs are an array with as many rows as the labels. The parameters are a tree of matrices,
    and no leaf of it has this number of rows.
    """
    first, others = args[0], args[1:]
    if not is_array(first) or not jnp.shape(first):
        return
    rows = jnp.shape(first)[0]
    has_labels = any(is_array(each) and jnp.shape(each)[:1] == (rows,) for each in others)
    for place, argument in enumerate(others, 1):
        if is_array(argument):
            continue
        shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(argument) if is_array(leaf)]
        matrices = [shape for shape in shapes if len(shape) >= 2]
        if has_labels and len(matrices) >= 2 and all(shape[0] != rows for shape in shapes if shape):
            raise TypeError(
                f"Argument 0 of the loss is differentiated, but it looks like the inputs (an array "
                f"of shape {jnp.shape(first)}), and argument {place} looks like the parameters. "
                f"Call value_and_grad(loss_fn, argnums={place}). If argument 0 holds the "
                "parameters, name the arguments with the batch in batch_argnums."
            )


def _has_gradient(leaf: Any) -> bool:
    if is_array(leaf):
        return jnp.issubdtype(leaf.dtype, jnp.inexact) or leaf.dtype == jax.dtypes.float0
    return isinstance(leaf, float | complex | np.inexact)


def _recipe(argument: Any) -> str:
    bases = [base.__module__.split(".") for base in type(argument).__mro__]
    if any(names[:2] == ["flax", "nnx"] for names in bases):
        return NNX_RECIPE
    return EQUINOX_RECIPE if any(names[0] == "equinox" for names in bases) else RECIPE


def _named(path: Any) -> str:
    name = keystr(path, simple=True, separator="/")
    return f"its leaf '{name}'" if name else "it"


def _described(value: Any) -> str:
    if is_array(value):
        return f"an array of dtype {value.dtype} and shape {jnp.shape(value)}"
    if isinstance(value, tuple):
        return f"a tuple of length {len(value)}"
    return f"an object of type {type(value).__name__}"
