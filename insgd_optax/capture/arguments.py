"""Arguments: what cannot be differentiated, and the call that takes it."""

import sys
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from insgd_optax.trees import path_name

ENTRIES = """\
    insgd_optax.nnx.value_and_grad(loss_fn)(model, batch)        # a Flax NNX module
    insgd_optax.equinox.value_and_grad(loss_fn)(model, batch)    # an Equinox module"""


def check_differentiable(args: tuple[Any, ...], argnums: int | Sequence[int]) -> None:
    """Raises if an argument to differentiate is an NNX module, or has a leaf of another kind.

    Raises:
      TypeError: with the leaf's path and the call that takes such an argument.
    """
    for number in (argnums,) if isinstance(argnums, int) else argnums:
        # Positions that are wrong are found later, with a message of their own.
        for argument in args[number : number + 1 or None]:
            _check_leaves(number, argument)


def _check_leaves(number: int, argument: Any) -> None:
    leaves = jax.tree_util.tree_flatten_with_path(argument, is_leaf=_is_nnx_module)[0]
    for path, leaf in leaves:
        if _is_nnx_module(leaf):
            raise TypeError(
                f"Argument {number} of the loss holds a Flax NNX module, {type(leaf).__name__}. "
                "value_and_grad takes pure functions, and would lose the running averages and "
                f"counts that the loss changes in it. Call the entry for modules:\n{ENTRIES}\n"
                "or take the module apart with nnx.split."
            )
        if not _is_inexact(leaf):
            kind = getattr(leaf, "dtype", type(leaf).__name__)
            raise TypeError(
                f"'{path_name(path)}' in argument {number} of the loss is of type {kind}, which "
                "has no gradient. Pass the parameters alone, as with jax.grad, and the rest as "
                f"another argument or by closing over it. Models as they are go to\n{ENTRIES}"
            )


def _is_nnx_module(leaf: Any) -> bool:
    nnx = sys.modules.get("flax.nnx")  # whoever has a module has imported it
    return nnx is not None and isinstance(leaf, nnx.Module)


def _is_inexact(leaf: Any) -> bool:
    dtype = getattr(leaf, "dtype", None)
    if dtype is None:
        return isinstance(leaf, float | complex)
    return jnp.issubdtype(dtype, jnp.inexact)
