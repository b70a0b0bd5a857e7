"""Factors: what each layer's structure makes of its history, kept where that is expensive."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from insgd_optax.history import Slot, unpack
from insgd_optax.moments import InputMoments
from insgd_optax.structures import Number, safe_power


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


class Cache(NamedTuple):
    """Factors that are kept between refreshes.

    Attributes:
      packed: one leaf after the other, for every exponent; shape (exponents, factors).
      slots: where each leaf's are.
      updates: how many updates the history has taken.
    """

    packed: Float[Array, "exponents factors"]
    slots: Mapping[str, Slot]
    updates: Int[Array, ""]


class Factor(NamedTuple):
    """A layer's factor, and the power of its unit."""

    factor: Float[Array, "groups ..."]
    scale: Float[Array, " groups"]


def factors_of(
    seen: Mapping[str, Seen],
    cache: Cache,
    exponents: Sequence[Number],
    eps: Number,
    guard: bool,
) -> tuple[dict[str, list[Factor]], Float[Array, "exponents factors"]]:
    """The factors of every layer, one for each exponent, and the packed ones after this update."""
    packed = _refreshed(seen, cache, exponents, eps)
    found = {}
    for path, layer in seen.items():
        kept, part = layer.moments.kept, cache.slots[path].factors
        power, unit = kept.guarded(layer.history, layer.batch if guard else layer.history)
        found[path] = [
            Factor(
                unpack(row, part, power)
                if kept.refresh_every > 1
                else kept.factor(power, exponent, eps),
                safe_power(unit, exponent),
            )
            for row, exponent in zip(packed, exponents, strict=True)
        ]
    return found, packed


def applied(layer: Seen, factor: Factor, gradient: Array) -> Array:
    """A power of the layer's second moment, times its gradient ``(groups, inputs, outputs)``."""
    return factor.scale[:, None, None] * layer.moments.kept.apply(factor.factor, gradient)


def _refreshed(
    seen: Mapping[str, Seen], cache: Cache, exponents: Sequence[Number], eps: Number
) -> Float[Array, "exponents factors"]:
    """The packed factors, computed again where that is due."""
    cached = {path: layer for path, layer in seen.items() if layer.moments.kept.refresh_every > 1}
    if not cached:
        return cache.packed
    (every,) = {layer.moments.kept.refresh_every for layer in cached.values()}

    def computed_for(old: Array, exponent: Number) -> Array:
        parts = [old[:0]]
        for path, slot in cache.slots.items():
            part = old[slot.factors]
            if path in cached:
                factor = cached[path].moments.kept.factor(cached[path].history, exponent, eps)
                part = jnp.concatenate([factor.ravel(), part[factor.size :]])
            parts.append(part)
        return jnp.concatenate(parts)

    def computed() -> Array:
        both = zip(cache.packed, exponents, strict=True)
        return jnp.stack([computed_for(old, exponent) for old, exponent in both])

    return jax.lax.cond(_is_due(cache.updates, every), computed, lambda: cache.packed)


def _is_due(updates: Int[Array, ""], every: int) -> Bool[Array, ""]:
    """After 0, 1, 3, 7, ... updates while the history is young, then after every so many."""
    young = (updates & (updates + 1) == 0) & (updates < every)
    return young | (updates % every == 0)
