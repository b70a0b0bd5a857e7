"""Matching: assigns statistics to updates and explains mismatches."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp

from insgd_optax.moments import InputMoments
from insgd_optax.sharding import axes_apart, in_a_call
from insgd_optax.structures import Structure

NO_PARAMS = """update() was called without params. Steps are relative to them, so pass them:
    updates, state = optimizer.update(grads, state, params, input_stats=input_stats)"""

RECIPE = """Compute the statistics with the gradient and pass them to update():
    grad_fn = insgd_optax.value_and_grad({arguments})
    loss, grads, input_stats = grad_fn(params, batch)
    updates, state = optimizer.update(grads, state, params, input_stats=input_stats)
With Flax NNX:
    loss, grads, input_stats = insgd_optax.nnx.value_and_grad(loss_fn)(model, batch)
    optimizer.update(model, grads, input_stats=input_stats)
Some wrappers drop extra arguments (optax.contrib.sam, optax.lookahead). Wrap
insgd_optax.bind(optimizer, input_stats=input_stats) instead. Flax's TrainState drops them too.
Use insgd_optax.linen.TrainState, whose apply_gradients takes input_stats."""


def match_statistics(
    updates: Sequence[tuple[str, Any]],
    input_stats: Mapping[str, InputMoments | None] | None,
    structure: Structure | None,
) -> dict[str, InputMoments | None]:
    """Returns the statistics of every update by path, or None for a leaf without a layer.

    If a structure is given, the statistics must be captured for it, without division by
    ``per_example``. Containers may differ. Under ``optax.masked`` or ``optax.partition`` the
    updates are a subset of the captured leaves.

    Raises:
      ValueError: if the statistics are missing, lack a path of the updates or do not fit one.
    """
    if input_stats is None:
        raise ValueError(
            f"update() was called without input_stats, for {_listed(updates)}.\n"
            + _recipe(structure)
        )
    if not isinstance(input_stats, Mapping):
        raise ValueError(
            "input_stats must be the mapping from paths to InputMoments that value_and_grad "
            f"returns, not {type(input_stats).__name__}. The updates are {_listed(updates)}.\n"
            + _recipe(structure)
        )
    missing = [(path, leaf) for path, leaf in updates if path not in input_stats]
    if missing:
        raise ValueError(
            f"input_stats has no entry for {_listed(missing)}. It has {sorted(input_stats)}.\n"
            "Call value_and_grad on the parameters that are updated. An entry may be None to keep "
            "the plain gradient of a leaf. Do not wrap this optimizer in one that reshapes or "
            "renames the updates (optax.flatten)."
        )
    matched = {path: input_stats.get(path) for path, _ in updates}
    for path, leaf in updates:
        if (moments := matched[path]) is not None:
            _check_fits(path, leaf, moments, structure)
    return matched


def check_per_example(
    updates: Sequence[tuple[str, Any]],
    input_stats: Mapping[str, InputMoments | None] | None,
    asked: Any,
) -> None:
    """Raises a ValueError unless the rows of every captured gradient were divided as asked."""
    recipe = f"""Divide the gradient of each row before the average:
    grad_fn = insgd_optax.value_and_grad(loss_fn, per_example=insgd_optax.{asked})
    loss, grads, input_stats = grad_fn(params, batch)
    updates, state = optimizer.update(grads, state, params, input_stats=input_stats)"""
    if not isinstance(input_stats, Mapping):
        raise ValueError(
            f"update() was called without input_stats, for {_listed(updates)}.\n{recipe}"
        )
    for path, leaf in updates:
        moments = input_stats.get(path)
        given = getattr(moments, "per_example", None)
        if path not in input_stats or (moments is not None and given != asked):
            raise ValueError(
                f"The rows of '{path}' of shape {jnp.shape(leaf)} were captured with "
                f"per_example={given}, but the preset needs insgd_optax.{asked}. {recipe}"
            )


def _listed(leaves: Sequence[tuple[str, Any]]) -> str:
    shown = [f"'{path}' of shape {jnp.shape(leaf)}" for path, leaf in leaves[:4]]
    rest = [f"{len(leaves) - 4} more"] if len(leaves) > 4 else []
    return ", ".join(shown + rest) or "no parameters"


def _recipe(structure: Structure | None) -> str:
    chosen = f", structure=insgd_optax.{structure}" if structure is not None else ""
    return RECIPE.format(arguments=f"loss_fn{chosen}")


def _check_fits(path: str, leaf: Any, moments: Any, structure: Structure | None) -> None:
    if not isinstance(moments, InputMoments):
        raise ValueError(
            f"input_stats['{path}'] must be InputMoments or None, not {type(moments).__name__}. "
            f"The parameter has shape {jnp.shape(leaf)}.\n" + _recipe(structure)
        )
    if structure is not None:
        _check_is_for(path, leaf, moments, structure)
    if moments.layout.shape != jnp.shape(leaf):
        raise ValueError(
            f"The statistics of '{path}' are for a parameter of shape {moments.layout.shape}, "
            f"but its update has shape {jnp.shape(leaf)}. Call value_and_grad on the parameters "
            "that are updated. Do not wrap this optimizer in one that reshapes the updates "
            "(optax.flatten)."
        )
    _check_sizes(path, moments)
    _check_devices(path, leaf, moments)


def _check_is_for(path: str, leaf: Any, moments: InputMoments, structure: Structure) -> None:
    if moments.structure != structure:
        raise ValueError(
            f"The statistics of '{path}' of shape {jnp.shape(leaf)} were captured for "
            f"{moments.structure}, but the transformation uses {structure}. Pass the same "
            "structure to both, either\n"
            f"    value_and_grad(loss_fn, structure=insgd_optax.{structure})\n"
            "or\n"
            f"    insgd(..., structure=insgd_optax.{moments.structure})\n"
            "or the call that made your transformation. Their defaults agree."
        )
    if moments.per_example is not None:
        raise ValueError(
            f"The rows of '{path}' of shape {jnp.shape(leaf)} are already divided, because "
            f"value_and_grad was called with per_example={moments.per_example}. Call it without "
            "per_example, or use insgd_optax.project_page or plain SGD, which do not divide again."
        )


def _check_sizes(path: str, moments: InputMoments) -> None:
    layout, kept = moments.layout, moments.kept
    expected = kept.shape(layout.groups, layout.inputs)
    found = jnp.shape(moments.sums), jnp.shape(moments.count)
    if found != (expected, (layout.groups,)):
        raise ValueError(
            f"The statistics of '{path}' of shape {layout.shape} have sums of shape {found[0]} "
            f"and counts of shape {found[1]}. {kept} on {layout.groups} groups of "
            f"{layout.inputs} inputs needs {expected} and {(layout.groups,)}. Pass the statistics "
            "as value_and_grad returns them. Under jax.vmap, map the update as well."
        )


def _check_devices(path: str, leaf: Any, moments: InputMoments) -> None:
    if apart := axes_apart((moments.sums, moments.count), leaf):
        raise ValueError(
            f"The statistics of '{path}' of shape {jnp.shape(leaf)} vary over the mesh axes "
            f"{apart}, but its update does not. Each device would keep a history of its part of "
            "the batch. Sum the statistics over the devices, as gradients are averaged:\n"
            f"    value_and_grad(loss_fn, axis_name={in_a_call(apart)})\n"
            "or, if they come from elsewhere,\n"
            f"    input_stats = jax.lax.psum(input_stats, {in_a_call(apart)})"
        )
