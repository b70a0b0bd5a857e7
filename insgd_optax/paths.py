"""Names of parameters: one string a leaf, the same for every container that holds it."""

from typing import Any

import jax
from jax.tree_util import GetAttrKey, KeyEntry


def path_name(path: tuple[KeyEntry, ...]) -> str:
    """The leaf's key path as text, without the attribute of a box around the leaf.

    Flax wraps leaves in boxes (``nnx.Param``, ``nn.Partitioned``) whose content sits under the
    attribute ``value``, on some sides of a train step and not on others. Dropping that last
    attribute gives parameters, gradients and statistics the same name.

    >>> from jax.tree_util import DictKey, GetAttrKey
    >>> path_name((DictKey("Dense_0"), DictKey("kernel"), GetAttrKey("value")))
    'Dense_0/kernel'
    >>> path_name((DictKey("attention"), DictKey("value")))
    'attention/value'
    """
    while path and isinstance(path[-1], GetAttrKey) and path[-1].name in ("value", "raw_value"):
        path = path[:-1]
    return jax.tree_util.keystr(path, simple=True, separator="/")


def named_leaves(tree: Any) -> list[tuple[str, Any]]:
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
