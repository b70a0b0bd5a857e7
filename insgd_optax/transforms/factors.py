"""Factors: turns each layer's history into a power of its second moment.

Layers of one structure and layout are stacked along their groups, so each kind is traced, compiled
and launched once. Take a network with three kernels and `MeanVariances`, which keeps two entries
per input. Its packed history has one slot per leaf:

    block_0 (64, 64) | block_1 (64, 64) | head (64, 10)          shape (3 * 128,)

`factors_of` gathers it into two stacks and computes one `Factor` for each:

    block_0, block_1     history (2, 128)     factor (2, 129)    places {block_0: 0, block_1: 1}
    head                 history (1, 128)     factor (1, 129)    places {head: 0}

`Full` has expensive factors. They are cached in `Packed.factors`, one slot per leaf, and recomputed
only when a refresh is due. A refresh stacks the layers that are alike.
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
    """The packed vectors of all layers at one update.

    Attributes:
      history: running mean of the structures' statistics; shape (numbers,).
      batch: mean of this batch; shape (numbers,).
      weight: accumulated weight of each group's history, 0 if it is empty; shape (groups,).
      factors: cached factors of every exponent; shape (exponents, factors).
      slots: the slices of each leaf.
      updates: number of updates before this one.
    """

    history: Float[Array, " numbers"]
    batch: Float[Array, " numbers"]
    weight: Float[Array, " groups"]
    factors: Float[Array, "exponents factors"]
    slots: Mapping[str, Slot]
    updates: Int[Array, ""]


@dataclasses.dataclass(frozen=True)
class Seen:
    """One layer at one update, read from the packed vectors on access.

    Attributes:
      moments: the layer's statistics of this batch.
      kind: a key; layers are stacked if their keys are equal.
      slot: the layer's slices of the packed vectors.
      packed: the packed vectors.
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
        """The running mean of the structure's statistics."""
        return unpack(self.packed.history, self.slot.numbers, self.moments.sums)

    @property
    def ever(self) -> Bool[Array, " groups"]:
        """Whether each group ever saw a row."""
        return unpack(self.packed.weight, self.slot.groups, self.moments.count) > 0


class Whole(NamedTuple):
    """Layers of one structure and size, stacked along their groups.

    Attributes:
      structure: their structure.
      groups: number of groups of each layer, by the path of its weight.
      history, batch: running mean of the structure's statistics, and their mean in this batch.
    """

    structure: Structure
    groups: dict[str, int]
    history: Float[Array, "all_groups ..."]
    batch: Float[Array, "all_groups ..."]


class Factor(NamedTuple):
    """A power of a layer's second moment.

    Attributes:
      factor: the power, in the form that the structure's `apply` expects.
      scale: the same power of the unit that ``factor`` is relative to.
      power: mean power of each feature, the metric for the size of a step.
    """

    factor: Float[Array, "groups ..."]
    scale: Float[Array, " groups"]
    power: Float[Array, "groups _ 1"]


# A list of stacks for each exponent, and the packed factors to cache.
Derived = tuple[list[list[Stack]], Float[Array, "exponents factors"]]


def factors_of(
    seen: Mapping[str, Seen],
    packed: Packed,
    exponents: Sequence[Number],
    eps: Number,
    guard: bool,
) -> Derived:
    """Computes the factors of all layers for each exponent, and the packed factors to cache."""
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
    """Multiplies a gradient ``(groups, inputs, outputs)`` by a power of the second moment."""
    return factor.scale[:, None, None] * moments.kept.apply(factor.factor, gradient)


def _alike(seen: Mapping[str, Seen]) -> list[dict[str, Seen]]:
    """Partitions layers by structure and kind."""
    stacks: dict[Hashable, dict[str, Seen]] = {}
    for path, layer in seen.items():
        stacks.setdefault((layer.moments.kept, layer.kind), {})[path] = layer
    return list(stacks.values())


def _whole(alike: Mapping[str, Seen], packed: Packed) -> Whole:
    """Stacks layers with a single gather. A slice per layer would be a kernel per layer."""
    places = np.concatenate(
        [
            layer.slot.numbers.start + np.arange(math.prod(shape), dtype=np.int32).reshape(shape)
            for layer in alike.values()
            for shape in [layer.moments.sums.shape]
        ]
    )
    return _as_one(alike, packed.history[places], packed.batch[places])


def _joined(alike: Mapping[str, Seen]) -> Whole:
    """Stacks large layers by concatenation. There are few of them."""
    history = jnp.concatenate([layer.history for layer in alike.values()])
    return _as_one(alike, history, history)


def _as_one(alike: Mapping[str, Seen], history: Array, batch: Array) -> Whole:
    groups = {path: layer.groups for path, layer in alike.items()}
    return Whole(next(iter(alike.values())).moments.kept, groups, history, batch)


def _factor(
    whole: Whole, exponent: Number, eps: Number, guard: bool, kept_factor: Array | None = None
) -> Factor:
    """The factor of stacked layers: the cached one if given, else computed."""
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
    """Shrinks each group's level toward the mean over the groups of its leaf.

    This bounds groups with tiny inputs (depthwise channels, experts) in the same way as features.
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
    """The packed factors, recomputed if a refresh is due."""
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
    """True after 0, 1, 3, 7, ... updates at first, then after every ``every`` updates."""
    young = (updates & (updates + 1) == 0) & (updates < every)
    return young | (updates % every == 0)
