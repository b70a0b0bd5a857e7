"""Factors: what each layer's structure makes of its history, kept where that is expensive.

Layers of one structure and size are handled as one stack along their groups: what a network has
many of is then traced, compiled and launched once.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from insgd_optax.moments import InputMoments
from insgd_optax.numerics import safe_power
from insgd_optax.settings import Number
from insgd_optax.transforms.history import Slot, unpack
from insgd_optax.transforms.stacks import Stack, stacked


class Seen(NamedTuple):
    """What is known of a layer at one update.

    Attributes:
      moments: those of this batch, for their layout and structure.
      history: the running mean of what the structure keeps.
      batch: this batch's mean.
      ever: whether a row was ever seen; shape (groups,).
    """

    moments: InputMoments
    history: Float[Array, "groups ..."]
    batch: Float[Array, "groups ..."]
    ever: Bool[Array, " groups"]


class Packed(NamedTuple):
    """What is known of all layers, one leaf after the other.

    Attributes:
      history, batch: as in `Seen`; shape (numbers,).
      factors: those that are kept between refreshes, for every exponent; shape (exponents,
        factors).
      slots: where each leaf's are.
      updates: how many updates the history has taken.
    """

    history: Float[Array, " numbers"]
    batch: Float[Array, " numbers"]
    factors: Float[Array, "exponents factors"]
    slots: Mapping[str, Slot]
    updates: Int[Array, ""]


class Factor(NamedTuple):
    """A layer's factor, and the power of its unit."""

    factor: Float[Array, "groups ..."]
    scale: Float[Array, " groups"]


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
    found = []
    for row, exponent in zip(fresh, exponents, strict=True):
        stacks = []
        for path, layer in cached.items():
            _, unit = _guarded(layer, guard)
            kept = unpack(row, packed.slots[path].factors, layer.history)
            stacks.append(stacked(Factor(kept, safe_power(unit, exponent)), {path: len(kept)}))
        for alike in _alike(others):
            factor = _factor(_gathered(alike, packed), exponent, eps, guard)
            groups = {path: len(layer.history) for path, layer in alike.items()}
            stacks.append(stacked(factor, groups))
        found.append(stacks)
    return found, fresh


def applied(moments: InputMoments, factor: Factor, gradient: Array) -> Array:
    """A power of the layer's second moment, times its gradient ``(groups, inputs, outputs)``."""
    return factor.scale[:, None, None] * moments.kept.apply(factor.factor, gradient)


def _alike(seen: Mapping[str, Seen]) -> list[dict[str, Seen]]:
    """The layers, those of one structure and size together."""
    stacks: dict[Any, dict[str, Seen]] = {}
    for path, layer in seen.items():
        alike = layer.moments.kept, layer.history.shape[1:]
        stacks.setdefault(alike, {})[path] = layer
    return list(stacks.values())


def _gathered(stack: Mapping[str, Seen], packed: Packed) -> Seen:
    """The layers of a stack as one. Read by places: a slice for each would be a kernel for each."""
    places = np.concatenate(
        [
            packed.slots[path].numbers.start + np.arange(layer.history.size).reshape(shape)
            for path, layer in stack.items()
            for shape in [layer.history.shape]
        ]
    )
    first = next(iter(stack.values()))
    return first._replace(history=packed.history[places], batch=packed.batch[places])


def _joined(stack: Mapping[str, Seen]) -> Seen:
    """The same, for large layers, of which there are few."""
    layers = list(stack.values())
    history = jnp.concatenate([layer.history for layer in layers])
    return layers[0]._replace(history=history, batch=history)


def _factor(whole: Seen, exponent: Number, eps: Number, guard: bool) -> Factor:
    """The factors of layers of one structure and size."""
    power, unit = _guarded(whole, guard)
    return Factor(whole.moments.kept.factor(power, exponent, eps), safe_power(unit, exponent))


def _guarded(layer: Seen, guard: bool) -> tuple[Array, Array]:
    return layer.moments.kept.guarded(layer.history, layer.batch if guard else layer.history)


def _refreshed(
    cached: Mapping[str, Seen], packed: Packed, exponents: Sequence[Number], eps: Number
) -> Float[Array, "exponents factors"]:
    """The packed factors, computed again where that is due."""
    (every,) = {layer.moments.kept.refresh_every for layer in cached.values()}

    def computed_for(old: Array, exponent: Number) -> Array:
        new = {}
        for alike in _alike(cached):
            factors = _factor(_joined(alike), exponent, eps, guard=False).factor
            ends = itertools.accumulate(len(layer.history) for layer in alike.values())
            new |= zip(alike, jnp.split(factors, list(ends)[:-1]), strict=True)
        parts = [old[:0]]
        for path, slot in packed.slots.items():
            part = old[slot.factors]
            if path in new:
                part = jnp.concatenate([new[path].ravel(), part[new[path].size :]])
            parts.append(part)
        return jnp.concatenate(parts)

    def computed() -> Array:
        both = zip(packed.factors, exponents, strict=True)
        return jnp.stack([computed_for(old, exponent) for old, exponent in both])

    return jax.lax.cond(_is_due(packed.updates, every), computed, lambda: packed.factors)


def _is_due(updates: Int[Array, ""], every: int) -> Bool[Array, ""]:
    """After 0, 1, 3, 7, ... updates while the history is young, then after every so many."""
    young = (updates & (updates + 1) == 0) & (updates < every)
    return young | (updates % every == 0)
