"""Fingerprints: identify the structure and the leaves that a packed state was made for.

A packed state is read by position. If a layer is renamed between saving and restoring, the sizes
may still fit while the values belong to other layers. So the state stores a hash of its structure
and a hash of every leaf. The latter covers the leaf's path, its shape and its layout, if given.
"""

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Int

from insgd_optax.layout import Layout
from insgd_optax.numerics import is_known
from insgd_optax.structures import Structure
from insgd_optax.transforms.copies import check_copies
from insgd_optax.trees import named_leaves

# Change this if a version stores other values in the same places.
FORMAT = 1


def fingerprints(
    structure: Structure, leaves: Sequence[tuple[str, Any]], layouts: Mapping[str, Layout]
) -> Int[np.ndarray, " fingerprints"]:
    """The fingerprint of the structure, then one per leaf in path order."""
    return np.concatenate([_of_structure(structure), _of_leaves(leaves, layouts)])


def check_fingerprints(
    kept: Any,
    structure: Structure,
    leaves: Sequence[tuple[str, Any]],
    layouts: Mapping[str, Layout],
) -> None:
    """Raises if the fingerprints are known and do not match the structure and the leaves.

    Raises:
      ValueError: with this structure, or the paths that the state was not made for.
    """
    if is_known(kept):
        made_for = np.asarray(kept)
        _check_structure(made_for[:1], structure)
        if not np.array_equal(made_for[1:], _of_leaves(leaves, layouts)):
            raise ValueError(_other_leaves(made_for[1:], leaves, layouts))


def check_state(
    state: optax.OptState,
    params: optax.Params,
    *,
    layouts: Mapping[str, Layout] | None = None,
    structure: Structure | None = None,
    pmapped: bool = False,
) -> None:
    """Raises if a state was made for other parameters or differs between devices.

    Statistics are packed in the order of the parameter paths. If a restored state happens to fit
    parameters with other names, its values would be assigned to the wrong layers. Outside of
    ``jax.jit``, every ``update`` checks this. For a step under ``jax.jit``, call this function
    after restoring.

    A step under ``jax.shard_map`` or ``jax.pmap`` must sum the statistics over the devices.
    Otherwise the states of the devices diverge. ``shard_map`` detects this from the types, and
    ``update`` raises. ``shard_map(check_vma=False)`` and ``pmap`` cannot, so call this function
    after a few steps. It compares every array that is replicated on devices of this process.

    >>> import insgd_optax
    >>> import jax.numpy as jnp
    >>> state = insgd_optax.insgd().init({"head": jnp.ones((2, 1))})
    >>> check_state(state, {"head": jnp.ones((2, 1))})
    >>> check_state(state, {"top": jnp.ones((2, 1))})    # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    ValueError: The state was made for other parameters: it has no entry for 'top' ...

    Args:
      state: an optimizer state of this library, possibly inside a chain or another wrapper.
      params: the parameters to use it with.
      layouts: the layouts given to the optimizer, if any.
      structure: the structure of the optimizer. If given, the state must have been made for it.
      pmapped: whether both have a leading device axis, as returned by ``jax.pmap``.

    Raises:
      ValueError: with the paths that the state was not made for, or the path of an array that
        differs between devices. Also if the state is not from this library, or under ``jax.jit``,
        where values are unknown.
    """
    check_copies((state, params), pmapped)
    if pmapped:
        state, params = jax.tree.map(lambda copies: copies[0], (state, params))
    kept = [leaf for path, leaf in jax.tree_util.tree_flatten_with_path(state)[0] if _is_kept(path)]
    if not kept:
        raise ValueError("The state is not from an insgd_optax optimizer: it has no fingerprints.")
    if not all(map(is_known, kept)):
        raise ValueError("check_state compares values. Call it outside of jax.jit and jax.vmap.")
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
    found = f"it has no entry for {listed}" if new else "it has entries for other leaves"
    return (
        f"The state was made for other parameters: {found}, of this name and shape. Call init() on "
        "the parameters that are updated, with the same layouts. If they were only renamed, give "
        "them their old names before you restore the state."
    )


def _check_structure(kept: Int[np.ndarray, "*members"], structure: Structure) -> None:
    if np.any(kept != _of_structure(structure)):
        raise ValueError(
            "The state was made with another structure, or by a version of insgd_optax with "
            f"another state format. This optimizer uses insgd_optax.{structure}. Use the structure "
            "that the state was made with, or start a new history with init()."
        )


def _of_structure(structure: Structure) -> Int[np.ndarray, " 1"]:
    """Hashes the format of the state. Damping and refresh interval may differ."""
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
    """Whether a leaf of a state holds fingerprints, possibly inside a framework's box.

    `nnx.state` makes mappings of named tuples, so the name may be a key.
    """
    names = {getattr(key, "name", getattr(key, "key", None)) for key in path}
    return "fingerprints" in names
