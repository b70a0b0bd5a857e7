"""History: the running mean of one layer's moments, and where each leaf's lies in the state."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from insgd_optax.layout import Layout
from insgd_optax.moments import InputMoments
from insgd_optax.room import room_for
from insgd_optax.structures import Number, Structure


class Slot(NamedTuple):
    """The part of the packed vectors that belongs to a leaf."""

    power: slice
    weight: slice


class LayerHistory(NamedTuple):
    """The history of one layer: ``power`` before bias correction, ``weight`` to correct it."""

    power: Float[Array, "groups ..."]
    weight: Float[Array, " groups"]

    def updated(self, moments: InputMoments, decay: Number) -> "LayerHistory":
        """The history after a batch; groups that saw no row keep theirs."""
        dtype = self.power.dtype
        seen = moments.count > 0
        kept = jnp.where(seen, jnp.asarray(decay, dtype), jnp.ones([], dtype))
        mean = moments.mean().astype(dtype)
        power = _per_group(kept, mean) * self.power + _per_group(1 - kept, mean) * mean
        return LayerHistory(power, kept * self.weight + (1 - kept))

    def corrected(self) -> Float[Array, "groups ..."]:
        """The running mean without bias; zero where nothing was ever seen."""
        weight = jnp.where(self.weight > 0, self.weight, jnp.ones_like(self.weight))
        return self.power / _per_group(weight, self.power)


def _per_group(numbers: Float[Array, " groups"], like: Array) -> Array:
    return jnp.broadcast_to(numbers.reshape(-1, *(1,) * (like.ndim - 1)), like.shape)


def slots_for(
    leaves: Sequence[tuple[str, Any]], structure: Structure, layouts: Mapping[str, Layout]
) -> dict[str, Slot]:
    """The slot of every leaf. In the order of paths: containers order their leaves differently."""
    slots, power, weight = {}, 0, 0
    for path, leaf in sorted(leaves, key=lambda named: named[0]):
        numbers, groups = room_for(structure, jnp.shape(leaf), layouts.get(path))
        slots[path] = Slot(slice(power, power + numbers), slice(weight, weight + groups))
        power, weight = power + numbers, weight + groups
    return slots


def unpack(
    path: str, slot: Slot, moments: InputMoments, power: Array, weight: Array
) -> LayerHistory:
    """The history of a leaf from the packed vectors.

    Raises:
      ValueError: if the leaf's slot is smaller than its layer needs.
    """
    numbers, groups = moments.sums.size, moments.count.size
    if numbers > _length(slot.power) or groups > _length(slot.weight):
        layout = moments.layout
        raise ValueError(
            f"The history has room for {_length(slot.power)} numbers in {_length(slot.weight)} "
            f"groups for '{path}' of shape {layout.shape}, but its layer has {layout.groups} "
            f"groups of {layout.inputs} inputs. Its shape does not suggest that, so say it:\n"
            "    layouts = insgd_optax.explain(loss_fn, params, batch).layouts\n"
            "and pass layouts=layouts to the optimizer."
        )
    power = power[slot.power][:numbers].reshape(moments.sums.shape)
    return LayerHistory(power, weight[slot.weight][:groups])


def repack(
    slots: Mapping[str, Slot], histories: Mapping[str, LayerHistory], power: Array, weight: Array
) -> tuple[Array, Array]:
    """The packed vectors with these leaves' histories in the place of the former ones."""
    powers, weights = [power[:0]], [weight[:0]]
    for path, slot in slots.items():
        if path in histories:
            new = histories[path]
            powers.append(_padded(new.power.ravel(), slot.power))
            weights.append(_padded(new.weight, slot.weight))
        else:
            powers.append(power[slot.power])
            weights.append(weight[slot.weight])
    return jnp.concatenate(powers), jnp.concatenate(weights)


def _padded(numbers: Array, slot: slice) -> Array:
    return jnp.pad(numbers, (0, _length(slot) - numbers.size))


def _length(part: slice) -> int:
    return part.stop - part.start
