"""Trees of parameters: leaf names, and leaves as matrices of layers."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import optax
from jax.tree_util import GetAttrKey, KeyEntry
from jaxtyping import Array, Bool

from insgd_optax.layout import Layout
from insgd_optax.numerics import as_dtype
from insgd_optax.sharding import everywhere

T = TypeVar("T")


def path_name(path: tuple[KeyEntry, ...]) -> str:
    """The leaf's key path as text, without the attribute of a box around the leaf.

    Flax wraps leaves in boxes (``nnx.Param``, ``nn.Partitioned``). Their content sits under the
    attribute ``value`` on some sides of a train step but not on others. Dropping the attribute
    gives parameters, gradients and statistics the same name.

    >>> from jax.tree_util import DictKey, GetAttrKey
    >>> path_name((DictKey("Dense_0"), DictKey("kernel"), GetAttrKey("value")))
    'Dense_0/kernel'
    >>> path_name((DictKey("attention"), DictKey("value")))
    'attention/value'
    """
    while path and isinstance(path[-1], GetAttrKey) and path[-1].name in ("value", "raw_value"):
        path = path[:-1]
    return jax.tree_util.keystr(path, simple=True, separator="/")


def named_leaves(tree: optax.Params) -> list[tuple[str, Any]]:
    """The leaves of a tree in flattening order, each with its name.

    Raises:
      ValueError: if two leaves have the same name (a dict with the keys ``1`` and ``"1"``).
    """
    flat, _ = jax.tree_util.tree_flatten_with_path(tree)
    named = [(path_name(path), leaf) for path, leaf in flat]
    names = [name for name, _ in named]
    if len(set(names)) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"Two parameters have the same path: {twice}. Rename one of them.")
    return named


def split_leaves(
    tree: optax.Updates, layouts: Mapping[str, Layout], dtype: Any
) -> dict[str, Array]:
    """Casts and splits every leaf with a layout into the matrices of its layer."""
    split = {}
    for path, leaf in named_leaves(tree):
        if path in layouts:
            wide = leaf.dtype if jnp.iscomplexobj(leaf) else dtype
            split[path] = layouts[path].split(as_dtype(leaf, wide))
    return split


def merged_leaves(
    tree: optax.Updates, matrices: Mapping[str, Array], layouts: Mapping[str, Layout]
) -> optax.Updates:
    """Replaces the leaves that have a layout, each in its own dtype."""
    leaves = []
    for path, leaf in named_leaves(tree):
        if path in layouts:
            whole = layouts[path].merge(matrices[path])
            if leaf.dtype == jnp.float16:  # dividing by a small power may overflow
                largest = float(jnp.finfo(jnp.float16).max)
                whole = jnp.clip(whole, -largest, largest)
            leaf = as_dtype(whole, leaf.dtype)
        leaves.append(leaf)
    return jax.tree.unflatten(jax.tree.structure(tree), leaves)


def where_all(condition: Bool[Array, ""], yes: T, no: T) -> T:
    """Selects one of two trees."""
    return jax.tree.map(lambda yes, no: jnp.where(condition, yes, no), yes, no)


def zero_unless(finite: Bool[Array, ""], tree: optax.Updates) -> optax.Updates:
    """The tree if ``finite``, else zeros."""
    return jax.tree.map(lambda leaf: jnp.where(finite, leaf, jnp.zeros_like(leaf)), tree)


def zeros_of(function: Callable[[], T]) -> T:
    """Zeros like the result of a function, which is traced but not run."""
    return jax.tree.map(jnp.zeros_like, jax.eval_shape(function))


def all_finite(arrays: Sequence[Array], dtype: Any) -> Bool[Array, ""]:
    """Whether every number is finite."""
    # A maximum propagates NaN and infinity. The check is at the end and not on each array, because
    # XLA would repeat a small combination of all arrays in every kernel that needs the result.
    # Vectors are concatenated first, as a network has many of them.
    vectors = [jnp.abs(everywhere(array)).astype(dtype) for array in arrays if array.ndim == 1]
    whole = [array for array in arrays if array.ndim != 1]
    whole += [jnp.concatenate(vectors)] if vectors else []
    largest = [jnp.max(jnp.abs(array)).astype(dtype) for array in whole if array.size]
    return jnp.all(jnp.isfinite(jnp.stack(largest))) if largest else jnp.array(True)


def widest_dtype(leaves: Sequence[Any]) -> Any:
    double = any(jnp.result_type(leaf) in (jnp.float64, jnp.complex128) for leaf in leaves)
    return jnp.float64 if double else jnp.float32


def only_state(opt_state: optax.OptState, kind: type[T], maker: str) -> T:
    """Returns the only part of an optimizer state with this type.

    Raises:
      ValueError: if there is none or if there are several.
    """
    parts = jax.tree.leaves(opt_state, is_leaf=lambda part: isinstance(part, kind))
    found = [part for part in parts if isinstance(part, kind)]
    if len(found) == 1:
        return found[0]
    if not found:
        raise ValueError(
            f"The optimizer's state holds no {kind.__name__}. Chain insgd_optax.{maker} with the "
            "optimizer."
        )
    shapes = [jax.tree.map(jnp.shape, part) for part in found]
    raise ValueError(
        f"The optimizer's state holds {len(found)} {kind.__name__} parts: {shapes}. Pass one of "
        "them instead of the whole state (optax.named_chain names the parts)."
    )
