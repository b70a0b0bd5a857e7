"""Stacks: layers that are alike, as one array along their groups."""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, UInt

from insgd_optax.moments import InputMoments

LARGE_LEAF = 1 << 18  # elements


class Stack(NamedTuple):
    """A result for several layers, and the position of each layer in it.

    The positions are arrays on purpose. As results of a `jax.lax.cond` branch they are unknown to
    XLA, which then compiles one kernel for all leaves of a shape. With constant positions, every
    layer would need another kernel.

    Attributes:
      whole: arrays whose first axis holds the groups of all layers.
      places: the first group of each layer, by the path of its weight.
    """

    whole: Any
    places: Mapping[str, UInt[Array, ""]]


def kind_of(path: str, moments: InputMoments | None, leaves: Mapping[str, Array]) -> Hashable:
    """The key of leaves that can be stacked: layout, type and sharding, also of their biases.

    Large leaves are never stacked. That would cost a copy, and each has enough work for a kernel.
    """
    leaf = leaves[path]
    if leaf.size > LARGE_LEAF:
        return path
    if moments is None:
        return jax.typeof(leaf)
    bias = moments.bias if moments.bias and moments.bias.path in leaves else None
    beside = bias and (bias.layout, jax.typeof(leaves[bias.path]))
    return moments.layout, jax.typeof(leaf), beside


def stacked(whole: Any, groups: Mapping[str, int]) -> Stack:
    """Builds a stack of layers from their numbers of groups."""
    starts = np.cumsum([0, *groups.values()])
    return Stack(whole, {path: jnp.uint32(at) for path, at in zip(groups, starts, strict=False)})


def lone_stacks(leaves: Mapping[str, Array], layers: Mapping[str, InputMoments]) -> list[Stack]:
    """Stacks the leaves that belong to no layer, by kind."""
    biases = {layer.bias.path for layer in layers.values() if layer.bias}
    kinds: dict[object, list[str]] = {}
    for path in sorted(leaves.keys() - layers.keys() - biases):
        kinds.setdefault(kind_of(path, None, leaves), []).append(path)
    return [stacked((), dict.fromkeys(paths, 1)) for paths in kinds.values()]


def opened(stacks: Sequence[Stack], groups: Mapping[str, int]) -> dict[str, Any]:
    """Splits stacks into each layer's part, by path."""
    parts = {}
    for whole, places in stacks:
        for path, place in places.items():
            parts[path] = whole
            if len(places) > 1:
                parts[path] = jax.tree.map(
                    lambda array, at=place, size=groups[path]: jax.lax.dynamic_slice_in_dim(
                        array, at, size
                    ),
                    whole,
                )
    return parts
