"""Which rows of a layer's input are looked at, where not all of them are."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, UInt32

# 2**32 and 1 over the golden ratio: multiples of them, modulo 1, spread evenly.
GOLDEN_BITS, GOLDEN = 2654435769, 0.6180339887


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Draw:
    """What decides which rows are drawn.

    Attributes:
      seed: a number from what comes with every batch.
      device: of the devices whose rows are counted as one batch, which one this is.
      devices: how many they are (static).
    """

    seed: Any = 0
    device: Any = 0
    devices: int = dataclasses.field(default=1, metadata={"static": True})

    def among(self, axes: Sequence[str]) -> "Draw":
        """On one of the devices along these axes, each with its part of the rows."""
        number = jax.lax.psum(1, tuple(axes))
        device = self.device * number + jax.lax.axis_index(tuple(axes))
        return Draw(self.seed, device, self.devices * number)


EVERY_BATCH_ALIKE = Draw()


def draw_of(arrays: Sequence[Any], axes: tuple[str, ...] = ()) -> Draw:
    """What decides which rows are drawn, for arguments of a loss.

    A hash of them in integers, the same however many devices they lie on. The inputs of a layer
    would not do: how a product or a sum is shared among devices changes their last bits.

    Args:
      arrays: the arguments that are the same numbers on any number of devices.
      axes: those of ``shard_map``, ``pmap`` or ``vmap`` over which rows are split.
    """
    draw = Draw(_seed_of(arrays, axes))
    return draw.among(axes) if axes else draw


def drawn_rows(number: int | None, total: int, draw: Draw) -> Int[Array, " rows"] | None:
    """Places of about so many rows out of all, every row equally likely; None for all rows.

    One row is drawn from each of ``number`` stretches of equal length. The gradient function has
    no state, and needs no key for this: what decides comes from the batch. Of rows that are split
    over devices, each device draws from its own stretches.

    Args:
      number: how many to draw on all devices together, or None. Rounded up to as many on each.
      total: how many there are on this device.
      draw: what decides.
    """
    if number is None or number >= total * draw.devices:
        return None
    number = -(-number // draw.devices)
    start = (_scrambled(jnp.uint32(draw.seed)) >> 8).astype(jnp.float32) / jnp.float32(1 << 24)
    shifts = (np.arange(draw.devices * number) * GOLDEN % 1).astype(np.float32)
    of_devices = shifts.reshape(draw.devices, number)
    shift = jnp.asarray(of_devices)[draw.device] if draw.devices > 1 else of_devices[0]
    within = (start + shift) % 1
    # (stretch + within) * total / number, with the large part in integers.
    stretch = np.arange(number, dtype=np.int64)
    begin, rest = (stretch * total) // number, (stretch * total) % number / number
    offset = jnp.floor(rest.astype(np.float32) + within * np.float32(total / number))
    return jnp.minimum(begin.astype(np.int32) + offset.astype(jnp.int32), total - 1)


@functools.partial(jax.jit, static_argnums=1)
def _seed_of(arrays: Sequence[Any], axes: tuple[str, ...]) -> UInt32[Array, ""]:
    """Traced once for batches of one shape, and without jit one program instead of many."""
    hashes: dict[int, Any] = {}  # of every row, for the arrays with so many rows
    for array in arrays:
        for part in _integers(array):
            rows = _hashes_of_rows(part if part.ndim else part[None])
            hashes[len(rows)] = _scrambled(hashes.get(len(rows), jnp.uint32(0))) + rows
    seed = jnp.uint32(0)
    for rows in hashes.values():
        seed = _scrambled(seed) + _hash_over_devices(_scrambled(rows), axes)
    return seed


def _hash_over_devices(rows: UInt32[Array, " rows"], axes: Sequence[str]) -> UInt32[Array, ""]:
    """The hash that one device would have of the rows of all.

    Arguments that differ between devices are split over them, and each device's rows come after
    those of the devices before it. Those that do not differ count once.
    """
    number, total = jnp.uint32(len(rows)), jnp.sum(rows, dtype=jnp.uint32)
    places = jnp.arange(1, len(rows) + 1, dtype=jnp.uint32)
    found = jnp.sum(rows * places, dtype=jnp.uint32)
    for axis in reversed(axes):
        device = jax.lax.axis_index(axis).astype(jnp.uint32)
        largest = jax.lax.pmax(found, axis)
        is_split = jax.lax.pmin(found, axis) != largest
        of_all = jax.lax.psum(found + device * number * total, axis)
        found = jnp.where(is_split, of_all, largest)
        number = jnp.where(is_split, number * jax.lax.psum(1, axis), number)
        total = jnp.where(is_split, jax.lax.psum(total, axis), jax.lax.pmax(total, axis))
    return found


def _scrambled(bits: UInt32[Array, "..."]) -> UInt32[Array, "..."]:
    return (bits ^ (bits >> 15)) * jnp.uint32(GOLDEN_BITS)


def _integers(array: Any) -> list[UInt32[Array, "..."]]:
    """The array's numbers, or a key's, as integers of 32 bits."""
    array = jax.lax.stop_gradient(jnp.asarray(array))
    if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
        return [jax.random.key_data(array)]
    if jnp.iscomplexobj(array):
        return _integers(array.real) + _integers(array.imag)
    if jnp.issubdtype(array.dtype, jnp.floating):
        return [jax.lax.bitcast_convert_type(array.astype(jnp.float32), jnp.uint32)]
    return [array.astype(jnp.uint32)]


def _hashes_of_rows(bits: UInt32[Array, "rows ..."]) -> UInt32[Array, " rows"]:
    """For every row a hash of its numbers and their places."""
    place = jnp.ones(bits.shape, jnp.uint32)
    for axis in range(1, bits.ndim):
        along = jax.lax.broadcasted_iota(jnp.uint32, bits.shape, axis)
        place = place * jnp.uint32(31) + along + jnp.uint32(1)
    return jnp.sum(_scrambled(bits) * place, axis=tuple(range(1, bits.ndim)), dtype=jnp.uint32)
