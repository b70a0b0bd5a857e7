"""Gradients for each optimizer: plain, or with the input statistics."""

from collections.abc import Callable
from typing import Any

import jax
import optax

import insgd_optax as insgd


def gradient_of(
    loss_fn: Callable[..., Any], structure: insgd.Structure | None, **options: Any
) -> Callable[..., tuple[Any, Any, dict[str, Any]]]:
    """Returns loss, gradient and the extra arguments of ``update``. No structure, no extras."""

    if structure is None:
        grad_fn = jax.value_and_grad(loss_fn, has_aux=options.get("has_aux", False))
        return lambda params, *batch: (*grad_fn(params, *batch), {})
    captured_fn = insgd.value_and_grad(loss_fn, structure=structure, **options)

    def captured(params: optax.Params, *batch: Any) -> tuple[Any, optax.Updates, dict[str, Any]]:
        loss, grads, input_stats = captured_fn(params, *batch)
        return loss, grads, {"input_stats": input_stats}

    return captured


def muon_dimensions(params: optax.Params) -> Any:
    """Muon's view of every kernel: the matrix from all its inputs to its outputs.

    By default `optax.contrib.muon` orthogonalizes matrices only and leaves convolutions to Adam.
    """

    def numbers(leaf: jax.Array) -> optax.contrib.MuonDimensionNumbers | None:
        if leaf.ndim < 2:
            return None
        return optax.contrib.MuonDimensionNumbers(tuple(range(leaf.ndim - 1)), leaf.ndim - 1)

    return jax.tree.map(numbers, params)
