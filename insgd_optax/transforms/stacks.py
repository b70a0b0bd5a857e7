"""Stacks: layers that are alike as one array along their groups."""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, UInt

from insgd_optax.moments import InputMoments

LARGE_LEAF = 1 << 18  # elements


class Stack(NamedTuple):
    """What was computed for several layers at once, and where each layer's part begins.

    The places are arrays. Once they come out of a branch of `jax.lax.cond` XLA does not know them
    any more, and compiles one kernel for all leaves of a shape. A slice at a place that it knows
    would make every layer's kernel another one.

    Attributes:
      whole: arrays whose first axis is that of all the groups.
      places: each layer's first group, by the path of its weight.
    """

    whole: Any
    places: Mapping[str, UInt[Array, ""]]


def kind_of(path: str, moments: InputMoments | None, leaves: Mapping[str, Array]) -> Hashable:
    """The key of the leaves that are stacked together: layout, type and sharding, also of biases.

    A large leaf is never stacked: that would cost a copy, and its own work is enough for a kernel.
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
    """The arrays of layers with so many groups each."""
    starts = np.cumsum([0, *groups.values()])
    return Stack(whole, {path: jnp.uint32(at) for path, at in zip(groups, starts, strict=False)})


def lone_stacks(leaves: Mapping[str, Array], layers: Mapping[str, InputMoments]) -> list[Stack]:
    """The leaves that belong to no layer, those of one kind as one stack."""
    biases = {layer.bias.path for layer in layers.values() if layer.bias}
    kinds: dict[object, list[str]] = {}
    for path in sorted(leaves.keys() - layers.keys() - biases):
        kinds.setdefault(kind_of(path, None, leaves), []).append(path)
    return [stacked((), dict.fromkeys(paths, 1)) for paths in kinds.values()]


def opened(stacks: Sequence[Stack], groups: Mapping[str, int]) -> dict[str, Any]:
    """Every layer's part, by path."""
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
