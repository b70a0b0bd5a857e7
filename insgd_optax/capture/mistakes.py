"""Mistakes in a call of a gradient function, and messages that name the mistake and its fix."""

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import keystr, tree_flatten_with_path

from insgd_optax.capture.arguments import is_array, positions

NNX_RECIPE = """Modules have an entry that keeps what the loss changes in them:
    loss, grads, input_stats = insgd_optax.nnx.value_and_grad(loss_fn)(model, batch)
or give the loss the parameters, the other variables and the batch as arguments:
    graph, params, rest = nnx.split(model, nnx.Param, ...)"""

EQUINOX_RECIPE = """Modules have an entry that differentiates their arrays alone:
    loss, grads, input_stats = insgd_optax.equinox.value_and_grad(loss_fn)(model, batch)
or give the loss the arrays of the model as an argument:
    params, static = eqx.partition(model, eqx.is_inexact_array)"""

RECIPE = """Put what is trained into an argument by itself, and say with argnums which one that is:
    value_and_grad(loss_fn, argnums=...)"""

NOT_TRAINED = ("BatchStat", "Cache", "Intermediate", "RngState")


def check_parameters(
    args: tuple[Any, ...],
    argnums: int | Sequence[int],
    batch_argnums: int | Sequence[int] | None,
) -> None:
    """Raises unless the arguments to differentiate hold real or complex arrays alone.

    Raises:
      TypeError: with the path and the type of a leaf that has no gradient, or if the parameters
        seem to be another argument.
    """
    for place in positions("argnums", argnums, len(args)):
        _check_variables(place, args[place])
        for path, leaf in tree_flatten_with_path(args[place])[0]:
            if not _has_gradient(leaf):
                raise TypeError(
                    f"Argument {place} of the loss is to be differentiated, and {_named(path)} is "
                    f"{_described(leaf)}, which has no gradient.\n{_recipe(args[place])}"
                )
    if argnums == 0 and batch_argnums is None:
        _check_order(args)


def check_result(result: Any, has_aux: bool) -> None:
    """Raises unless a loss returned what ``has_aux`` says.

    Raises:
      TypeError: with the type that it returned.
    """
    is_pair = isinstance(result, tuple) and len(result) == 2
    if has_aux and not is_pair:
        raise TypeError(
            f"With has_aux=True the loss must return (loss, aux), and it returned "
            f"{_described(result)}. Return a pair, or leave has_aux out."
        )
    if not has_aux and not is_array(result) and not isinstance(result, int | float | complex):
        raise TypeError(
            f"The loss must return a number, and it returned {_described(result)}. If it returns "
            "(loss, aux), call value_and_grad(loss_fn, has_aux=True)."
        )


def check_axes(axes: Sequence[str]) -> None:
    """Raises unless every axis to add over is one of the code around the call.

    Raises:
      ValueError: with the name of an axis that there is not.
    """
    for axis in axes:
        try:
            jax.lax.axis_index(axis)
        except NameError:
            raise ValueError(
                f"axis_name=... adds the statistics over {axis!r}, and there is no axis "
                "of this name here. It is for a step inside jax.shard_map, or inside jax.pmap or "
                "jax.vmap with axis_name=. Under jax.jit with sharded arrays leave it out: there "
                "the statistics are those of the whole batch."
            ) from None


def hidden_data(
    args: tuple[Any, ...], kwargs: Mapping[str, Any], argnums: int | Sequence[int]
) -> list[str]:
    """Why JAX may not see the data among the arguments, in words.

    It sees no array inside of an object that it does not know, and it drops operations that have
    no rows: lookups, and convolutions under `jax.vmap`.
    """
    found = []
    differentiated = positions("argnums", argnums, len(args))
    for path, leaf in tree_flatten_with_path((args, dict(kwargs)))[0]:
        # The path starts with (args, kwargs) and the place in them.
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
    """Raises for statistics and random states of an NNX model, which the loss would lose."""
    nnx = sys.modules.get("flax.nnx")
    if nnx is None:
        return
    kinds = tuple(getattr(nnx, name) for name in NOT_TRAINED if hasattr(nnx, name))
    variables = jax.tree.leaves(argument, is_leaf=lambda leaf: isinstance(leaf, nnx.Variable))
    others = {type(each).__name__ for each in variables if isinstance(each, kinds)}
    if others:
        raise TypeError(
            f"Argument {place} of the loss is a {type(argument).__name__} of NNX that holds "
            f"{', '.join(sorted(others))} beside its parameters. These are not to be "
            f"differentiated, and what the loss writes to them would be lost.\n{NNX_RECIPE}"
        )


def _check_order(args: tuple[Any, ...]) -> None:
    """Raises if the first argument looks like the inputs, and another one like the parameters.

    That is an array with as many rows as the labels, before a tree of matrices which have not.
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
                f"Argument 0 of the loss is to be differentiated, but it looks like the inputs (an "
                f"array of shape {jnp.shape(first)}), and argument {place} like the parameters. "
                f"Call value_and_grad(loss_fn, argnums={place}); if argument 0 is what is trained, "
                "say which arguments hold the batch with batch_argnums."
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
        return f"a tuple of {len(value)}"
    return f"of type {type(value).__name__}"
