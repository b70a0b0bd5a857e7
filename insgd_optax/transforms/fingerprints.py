"""Fingerprints: for which structure and leaves a packed state was made.

A packed state is read by position. If a layer is renamed between saving and restoring it, the
numbers still fit, and belong to other layers. So the state has a number for what it keeps, made
from the structure, and one for every leaf, made from its path, its shape and its layout where one
was given.
"""

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from insgd_optax.layout import Layout
from insgd_optax.numerics import is_known
from insgd_optax.structures import Structure
from insgd_optax.transforms.copies import check_copies
from insgd_optax.trees import named_leaves

# Another one where a later version keeps other numbers in the same places.
FORMAT = 1


def fingerprints(
    structure: Structure, leaves: Sequence[tuple[str, Any]], layouts: Mapping[str, Layout]
) -> Int[np.ndarray, " fingerprints"]:
    """The fingerprint of what is kept, then that of every leaf in the order of paths."""
    return np.concatenate([_of_structure(structure), _of_leaves(leaves, layouts)])


def check_fingerprints(
    kept: Any,
    structure: Structure,
    leaves: Sequence[tuple[str, Any]],
    layouts: Mapping[str, Layout],
) -> None:
    """Raises if a state's fingerprints are known and those of other leaves or of another structure.

    Raises:
      ValueError: with this structure, or the paths that the state was not made for.
    """
    if is_known(kept):
        made_for = np.asarray(kept)
        _check_structure(made_for[:1], structure)
        if not np.array_equal(made_for[1:], _of_leaves(leaves, layouts)):
            raise ValueError(_other_leaves(made_for[1:], leaves, layouts))


def check_state(
    state: Any,
    params: Any,
    *,
    layouts: Mapping[str, Layout] | None = None,
    structure: Structure | None = None,
    pmapped: bool = False,
) -> None:
    """Raises if a state was made for other parameters, or is not the same on all devices.

    Statistics are packed in the order of the parameters' paths. A restored state whose sizes fit
    parameters with other names would be read as that of other layers. Outside of ``jax.jit``
    every ``update`` looks for that; for a step under ``jax.jit``, call this after restoring.

    Where a step runs device by device, under ``jax.shard_map`` or ``jax.pmap``, and the statistics
    were not added over the devices, each device's state goes its own way. ``shard_map`` knows that
    from the types, and ``update`` raises. ``shard_map(check_vma=False)`` and ``pmap`` do not: call
    this after a few steps. Every array that lies on several devices of this process is compared.

    >>> import insgd_optax
    >>> import jax.numpy as jnp
    >>> state = insgd_optax.insgd().init({"head": jnp.ones((2, 1))})
    >>> check_state(state, {"head": jnp.ones((2, 1))})
    >>> check_state(state, {"top": jnp.ones((2, 1))})    # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    ValueError: The state was made for other parameters: it has none for 'top' of shape (2, 1)...

    Args:
      state: that of an optimizer of this library, also inside a chain or another wrapper.
      params: the parameters that it is to be used for.
      layouts: those that the optimizer was made with, if any.
      structure: that of the optimizer, to look whether the state keeps the same numbers.
      pmapped: whether both have a first axis of devices, as ``jax.pmap`` returns them.

    Raises:
      ValueError: with the paths that the state was not made for, or of an array that differs from
        device to device; if it holds no such state, or under ``jax.jit``, where its numbers are
        not known.
    """
    check_copies((state, params), pmapped)
    if pmapped:
        state, params = jax.tree.map(lambda copies: copies[0], (state, params))
    kept = [leaf for path, leaf in jax.tree_util.tree_flatten_with_path(state)[0] if _is_kept(path)]
    if not kept:
        raise ValueError("The state holds no fingerprints: it is that of no insgd_optax optimizer.")
    if not all(map(is_known, kept)):
        raise ValueError("check_state compares numbers: call it outside of jax.jit and jax.vmap.")
    if structure is not None:
        for each in kept:
            _check_structure(np.asarray(each)[..., 0], structure)
    leaves, layouts = named_leaves(params), layouts or {}
    made_for = np.unique(np.concatenate([np.ravel(np.asarray(each)[..., 1:]) for each in kept]))
    if not np.isin(made_for, _of_leaves(leaves, layouts)).all():
        raise ValueError(_other_leaves(made_for, leaves, layouts))


def _other_leaves(
    kept: Int[np.ndarray, " _"], leaves: Sequence[tuple[str, Any]], layouts: Mapping[str, Layout]
) -> str:
    new = [
        f"'{path}' of shape {jnp.shape(leaf)}"
        for path, leaf in leaves
        if not np.isin(_of_leaves([(path, leaf)], layouts), kept).all()
    ]
    listed = ", ".join(new[:4]) + (f" and {len(new) - 4} more" if len(new) > 4 else "")
    found = f"it has none for {listed}" if new else "it has some for leaves that are not there"
    return (
        f"The state was made for other parameters: {found}. Call init() on the parameters that "
        "the updates are for, with the same layouts, or give the parameters their old names "
        "before the state is restored."
    )


def _check_structure(kept: Int[np.ndarray, "*members"], structure: Structure) -> None:
    if np.any(kept != _of_structure(structure)):
        raise ValueError(
            "The state was made with another structure, or by a version of insgd_optax that keeps "
            f"other numbers; this optimizer has insgd_optax.{structure}. Give it the structure "
            "that the state was made with, or start a new history with init()."
        )


def _of_structure(structure: Structure) -> Int[np.ndarray, " 1"]:
    """Of what it keeps: a damping, or how often a factor is renewed, may be another one."""
    kept = FORMAT, type(structure).__name__, structure.order, structure.shape(1, 64)
    return _numbers([kept])


def _of_leaves(
    leaves: Sequence[tuple[str, Any]], layouts: Mapping[str, Layout]
) -> Int[np.ndarray, " leaves"]:
    made_for = []
    for path, leaf in sorted(leaves, key=lambda named: named[0]):
        layout = layouts.get(path)
        given = [] if layout is None else [layout.steps, layout.matrices]
        made_for.append([path, tuple(map(int, jnp.shape(leaf))), *given])
    return _numbers(made_for)


def _numbers(facts: Sequence[Any]) -> Int[np.ndarray, " facts"]:
    return np.array([zlib.crc32(repr(each).encode()) for each in facts], np.uint32).view(np.int32)


def _is_kept(path: Any) -> bool:
    """Whether a leaf of a state is its fingerprints, also inside the box of a framework."""
    return any(getattr(key, "name", None) == "fingerprints" for key in path)
