"""Which rows of a layer's input are looked at, where not all of them are."""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, UInt32

from insgd_optax.compat import varying_axes
from insgd_optax.sharding import is_typed, split_over

# 2**32 and 1 over the golden ratio: multiples of them, modulo 1, spread evenly.
GOLDEN_BITS, GOLDEN = 2654435769, 0.6180339887


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Draw:
    """What decides which rows are drawn.

    Attributes:
      seed: a number from what comes with every batch, the same on all devices.
      axes: those of ``shard_map``, ``pmap`` or ``vmap`` that rows are split over (static: where a
        device is among the others is asked for where rows are drawn).
    """

    seed: Any = 0
    axes: tuple[str, ...] = dataclasses.field(default=(), metadata={"static": True})

    def of(self, inputs: Sequence[Any]) -> "Draw":
        """For these inputs of a layer, which may be split over some of the axes only."""
        return Draw(self.seed, split_over(inputs, self.axes))


UNSEEDED = Draw()  # where nothing is drawn


def draw_of(arrays: Sequence[Any], axes: tuple[str, ...] = ()) -> Draw:
    """What decides which rows are drawn, for arguments of a loss.

    A hash of them in integers, the same however many devices they lie on. The inputs of a layer
    would not do: how a product or a sum is shared among devices changes their last bits.

    Args:
      arrays: the arguments that are the same numbers on any number of devices.
      axes: those that the batch is split over.
    """
    return Draw(_seed_of(arrays, axes), axes)


def drawn_rows(wanted: int | None, rows: int, draw: Draw) -> Int[Array, " drawn"] | None:
    """Places of about so many rows out of all, every row equally likely; None for all rows.

    One row is drawn from each of as many stretches of equal length. The gradient function has no
    state, and needs no key for this: what decides comes from the batch. Of rows that are split over
    devices, each device draws from its own stretches.

    Args:
      wanted: how many to draw on all devices together, or None. Rounded up to as many on each.
      rows: how many there are on this device.
      draw: what decides.
    """
    devices = jax.lax.axis_size(draw.axes) if draw.axes else 1
    if wanted is None or wanted >= rows * devices:
        return None
    drawn = -(-wanted // devices)
    shifts = (np.arange(devices * drawn) * GOLDEN % 1).astype(np.float32).reshape(devices, drawn)
    shift = jnp.asarray(shifts)[jax.lax.axis_index(draw.axes)] if draw.axes else shifts[0]
    start = (_scrambled(jnp.uint32(draw.seed)) >> 8).astype(jnp.float32) / jnp.float32(1 << 24)
    within = (start + shift) % 1
    # (stretch + within) * rows / drawn, with the large part in integers.
    stretch = np.arange(drawn, dtype=np.int64)
    begin, rest = (stretch * rows) // drawn, (stretch * rows) % drawn / drawn
    offset = jnp.floor(rest.astype(np.float32) + within * np.float32(rows / drawn))
    return jnp.minimum(begin.astype(np.int32) + offset.astype(jnp.int32), rows - 1)


@functools.partial(jax.jit, static_argnums=1)
def _seed_of(arrays: Sequence[Any], axes: tuple[str, ...]) -> UInt32[Array, ""]:
    """The hash that one device would have of arrays of which some are split over devices.

    Where arrays have no types, those that are alike on all devices may be split or not. So of most
    of them only the largest hash of a row counts, which is the same in both cases: of masks,
    labels, weights of classes, counters and keys. Those with the longest rows are data itself, and
    there every number counts. (Traced once for batches of one shape.)
    """
    parts = [part for array in arrays for part in _integers(array)]
    if not parts:
        return jnp.uint32(0)
    parts = [part if part.ndim else part[None] for part in parts]
    largest, found = _hashes_over_devices(parts, axes)
    lengths = [math.prod(part.shape[1:]) for part in parts]
    longest = [place for place, length in enumerate(lengths) if length == max(lengths)]
    seed = jnp.uint32(0)
    for number in (*largest, *(found[place] for place in longest)):
        seed = _scrambled(seed) + number
    return seed


def _hashes_over_devices(
    parts: Sequence[Array], axes: Sequence[str]
) -> tuple[UInt32[Array, " parts"], UInt32[Array, " parts"]]:
    """The largest hash of a row of each array, and what the others' places and hashes add up to.

    The second is the sum of the rows' hashes, less the largest, times their places among the rows
    of all devices. So an array of equal rows has the sum 0, whether it is split or not.
    """
    rows = [len(part) for part in parts]
    sums = jnp.stack([_sums_of_hashes(part) for part in parts], axis=1)
    for axis in reversed(axes):  # the only thing that devices tell each other
        sums = jax.lax.all_gather(sums, axis)
    largest = sums[..., 0, :].max(axis=tuple(range(len(axes))))
    found, total, number = sums[..., 1, :], sums[..., 2, :], jnp.asarray(rows, jnp.uint32)
    places = jnp.asarray([n * (n + 1) // 2 % 2**32 for n in rows], jnp.uint32)
    found -= jnp.broadcast_to(largest * places, found.shape)
    total -= jnp.broadcast_to(largest * number, found.shape)
    number = jnp.broadcast_to(number, found.shape)
    for axis in reversed(axes):
        is_split = jnp.broadcast_to(_is_split(parts, found, axis), found[..., 0, :].shape)
        along = found.ndim - 2
        before = jax.lax.broadcasted_iota(jnp.uint32, found.shape, along) * number
        of_all, first = (found + before * total).sum(along, jnp.uint32), found[..., 0, :]
        found = jnp.where(is_split, of_all, first)
        total = jnp.where(is_split, total.sum(along, jnp.uint32), total[..., 0, :])
        number = jnp.where(is_split, number.sum(along, jnp.uint32), number[..., 0, :])
    return largest, found


def _is_split(
    parts: Sequence[Array], hashes: UInt32[Array, "... devices parts"], axis: str
) -> Bool[Array, "... parts"]:
    """Which of the arrays are split over an axis: by their types, or else by what they hold."""
    if is_typed(axis):
        return jnp.asarray([axis in varying_axes(part) for part in parts])
    return (hashes != hashes[..., :1, :]).any(axis=-2)


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


def _sums_of_hashes(bits: UInt32[Array, "rows ..."]) -> UInt32[Array, "3"]:
    """Of every row's hash of its numbers and their places: the largest, the sum of each times the
    row's own place, and the sum.
    """
    place = jnp.ones(bits.shape, jnp.uint32)
    for axis in range(1, bits.ndim):
        along = jax.lax.broadcasted_iota(jnp.uint32, bits.shape, axis)
        place = place * jnp.uint32(31) + along + jnp.uint32(1)
    hashes = jnp.sum(_scrambled(bits) * place, axis=tuple(range(1, bits.ndim)), dtype=jnp.uint32)
    places = jnp.arange(1, len(hashes) + 1, dtype=jnp.uint32)
    sums = [jnp.sum(each, dtype=jnp.uint32) for each in (hashes * places, hashes)]
    return jnp.stack([jnp.max(hashes, initial=0), *sums])
