"""Factors: what each layer's structure makes of its history, kept where that is expensive.

Layers of one structure and size are handled as one stack along their groups: what a network has
many of is then traced, compiled and launched once.
"""

import dataclasses
import itertools
import math
from collections.abc import Hashable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from insgd_optax.moments import InputMoments
from insgd_optax.numerics import either, safe_power
from insgd_optax.settings import Number
from insgd_optax.structures import Structure
from insgd_optax.transforms.history import Slot, unpack
from insgd_optax.transforms.stacks import Stack, stacked


class Packed(NamedTuple):
    """What is known of all layers, one leaf after the other.

    Attributes:
      history: the running mean of what the structures keep; shape (numbers,).
      batch: this batch's mean; shape (numbers,).
      weight: how much each group's history has gathered, 0 for nothing; shape (groups,).
      factors: those that are kept between refreshes, for every exponent; shape (exponents,
        factors).
      slots: where each leaf's are.
      updates: how many updates the history has taken.
    """

    history: Float[Array, " numbers"]
    batch: Float[Array, " numbers"]
    weight: Float[Array, " groups"]
    factors: Float[Array, "exponents factors"]
    slots: Mapping[str, Slot]
    updates: Int[Array, ""]


@dataclasses.dataclass(frozen=True)
class Seen:
    """What is known of a layer at one update, read from the packed vectors when it is asked for.

    Attributes:
      moments: those of this batch, for their layout and structure.
      kind: what the leaf and its bias must share with others to be handled with them.
    """

    moments: InputMoments
    kind: Hashable
    slot: Slot
    packed: Packed

    @property
    def groups(self) -> int:
        return self.moments.count.size

    @property
    def history(self) -> Float[Array, "groups ..."]:
        """The running mean of what the structure keeps."""
        return unpack(self.packed.history, self.slot.numbers, self.moments.sums)

    @property
    def ever(self) -> Bool[Array, " groups"]:
        """Whether a row was ever seen."""
        return unpack(self.packed.weight, self.slot.groups, self.moments.count) > 0


class Whole(NamedTuple):
    """Layers of one structure and size as one, along their groups.

    Attributes:
      groups: how many each has, by the path of its weight.
      history, batch: the running mean of what the structure keeps, and this batch's.
    """

    structure: Structure
    groups: dict[str, int]
    history: Float[Array, "all_groups ..."]
    batch: Float[Array, "all_groups ..."]


class Factor(NamedTuple):
    """What a step needs of a layer's second moment.

    Attributes:
      factor: a power of it, in the form that the structure's `apply` expects.
      scale: the power of the unit that the factor is relative to.
      power: each feature's mean power, the metric that steps are measured in.
    """

    factor: Float[Array, "groups ..."]
    scale: Float[Array, " groups"]
    power: Float[Array, "groups _ 1"]


# What gradients need, for each of some exponents, and the packed factors to keep.
Derived = tuple[list[list[Stack]], Float[Array, "exponents factors"]]


def factors_of(
    seen: Mapping[str, Seen],
    packed: Packed,
    exponents: Sequence[Number],
    eps: Number,
    guard: bool,
) -> Derived:
    """The factors of all layers for each exponent, and the packed ones after this update."""
    cached = {path: layer for path, layer in seen.items() if layer.moments.kept.refresh_every > 1}
    others = {path: layer for path, layer in seen.items() if path not in cached}
    fresh = _refreshed(cached, packed, exponents, eps) if cached else packed.factors
    alone = {path: _whole({path: layer}, packed) for path, layer in cached.items()}
    wholes = [_whole(alike, packed) for alike in _alike(others)]
    found = []
    for place, exponent in enumerate(exponents):
        stacks = []
        for path, whole in alone.items():
            kept = unpack(fresh[place], packed.slots[path].factors, whole.history)
            stacks.append(stacked(_factor(whole, exponent, eps, guard, kept), whole.groups))
        for whole in wholes:
            stacks.append(stacked(_factor(whole, exponent, eps, guard), whole.groups))
        found.append(stacks)
    return found, fresh


def applied(moments: InputMoments, factor: Factor, gradient: Array) -> Array:
    """A power of the layer's second moment, times its gradient ``(groups, inputs, outputs)``."""
    return factor.scale[:, None, None] * moments.kept.apply(factor.factor, gradient)


def _alike(seen: Mapping[str, Seen]) -> list[dict[str, Seen]]:
    """The layers, those of one structure and kind together."""
    stacks: dict[Hashable, dict[str, Seen]] = {}
    for path, layer in seen.items():
        stacks.setdefault((layer.moments.kept, layer.kind), {})[path] = layer
    return list(stacks.values())


def _whole(alike: Mapping[str, Seen], packed: Packed) -> Whole:
    """Layers as one. Read by places: a slice for each would be a kernel for each."""
    places = np.concatenate(
        [
            layer.slot.numbers.start + np.arange(math.prod(shape), dtype=np.int32).reshape(shape)
            for layer in alike.values()
            for shape in [layer.moments.sums.shape]
        ]
    )
    return _as_one(alike, packed.history[places], packed.batch[places])


def _joined(alike: Mapping[str, Seen]) -> Whole:
    """The same, for large layers, of which there are few."""
    history = jnp.concatenate([layer.history for layer in alike.values()])
    return _as_one(alike, history, history)


def _as_one(alike: Mapping[str, Seen], history: Array, batch: Array) -> Whole:
    groups = {path: layer.groups for path, layer in alike.items()}
    return Whole(next(iter(alike.values())).moments.kept, groups, history, batch)


def _factor(
    whole: Whole, exponent: Number, eps: Number, guard: bool, kept_factor: Array | None = None
) -> Factor:
    """The factors of layers of one structure and size, given or computed."""
    kept, groups = whole.structure, whole.groups
    power, unit = kept.guarded(whole.history, whole.batch if guard else whole.history)
    features = kept.feature_power(power)
    level = _floored(jnp.mean(features, axis=(1, 2)), groups, eps)
    metric = (features + eps * level[:, None, None]) / (1 + eps)
    factor = kept.factor(power, exponent, eps, level) if kept_factor is None else kept_factor
    return Factor(factor, safe_power(_floored(unit, groups, eps), exponent), metric)


def _floored(
    level: Float[Array, " all_groups"], groups: Mapping[str, int], eps: Number
) -> Float[Array, " all_groups"]:
    """Each group's level, shrunk to the mean over the groups of its leaf.

    A group (a depthwise channel, an expert) with tiny inputs is bounded as a feature is.
    """
    sizes = np.array(list(groups.values()), np.int32)
    if np.all(sizes <= 1):
        return level
    leaf = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)
    sums = jax.ops.segment_sum(level, leaf, len(sizes), indices_are_sorted=True)
    mean = sums / np.maximum(sizes, 1).astype(level.dtype)
    return (level + eps * mean[leaf]) / (1 + eps)


def _refreshed(
    cached: Mapping[str, Seen], packed: Packed, exponents: Sequence[Number], eps: Number
) -> Float[Array, "exponents factors"]:
    """The packed factors, computed again where that is due."""
    (every,) = {layer.moments.kept.refresh_every for layer in cached.values()}

    def computed_for(old: Array, exponent: Number) -> Array:
        new = {}
        for alike in _alike(cached):
            factors = _factor(_joined(alike), exponent, eps, guard=False).factor
            ends = itertools.accumulate(layer.groups for layer in alike.values())
            new |= zip(alike, jnp.split(factors, list(ends)[:-1]), strict=True)
        parts, end = [], 0
        for path, slot in packed.slots.items():
            part = old[slot.factors]
            if path in new:
                part = jnp.concatenate([new[path].ravel(), part[new[path].size :]])
            parts.append(part)
            end = slot.factors.stop
        return jnp.concatenate([*parts, old[end:]])

    def computed() -> Array:
        both = zip(packed.factors, exponents, strict=True)
        return jnp.stack([computed_for(old, exponent) for old, exponent in both])

    return either(_is_due(packed.updates, every), computed, lambda: packed.factors)


def _is_due(updates: Int[Array, ""], every: int) -> Bool[Array, ""]:
    """After 0, 1, 3, 7, ... updates while the history is young, then after every so many."""
    young = (updates & (updates + 1) == 0) & (updates < every)
    return young | (updates % every == 0)
