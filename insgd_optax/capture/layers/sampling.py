"""Sampling: selects the rows of a layer's input for structures that do not use all of them."""

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

# 2**32 and 1 over the golden ratio. Multiples of the latter, modulo 1, spread evenly.
GOLDEN_BITS, GOLDEN = 2654435769, 0.6180339887


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Draw:
    """Decides which rows are drawn.

    Attributes:
      seed: a number computed from the batch, keys and counters, the same on all devices.
      axes: the axes of ``shard_map``, ``pmap`` or ``vmap`` that rows are split over (static). The
        index of the device is read only when rows are drawn.
    """

    seed: Any = 0
    axes: tuple[str, ...] = dataclasses.field(default=(), metadata={"static": True})

    def of(self, inputs: Sequence[Any]) -> "Draw":
        """The draw for these inputs of a layer, which may be split over only some of the axes."""
        return Draw(self.seed, split_over(inputs, self.axes))


UNSEEDED = Draw()  # if nothing is drawn


def draw_of(arrays: Sequence[Any], axes: tuple[str, ...] = ()) -> Draw:
    """The draw for the arguments of a loss.

    The seed is an integer hash of the arguments, the same for any number of devices. The inputs of
    a layer would not give the same seed. The split of a product or a sum over devices changes their
    last bits.

    Args:
      arrays: the arguments with the same values on any number of devices.
      axes: the axes that the batch is split over.
    """
    return Draw(_seed_of(arrays, axes), axes)


def drawn_rows(wanted: int | None, rows: int, draw: Draw) -> Int[Array, " drawn"] | None:
    """The places of about ``wanted`` rows, each row equally likely; None for all rows.

    The rows are divided into stretches of equal length, and one row is drawn from each. The
    gradient function has no state and needs no key, because the seed comes from the batch. If the
    rows are split over devices, each device draws from its part.

    Args:
      wanted: the number of rows to draw on all devices together, or None. It is rounded up to a
        multiple of the number of devices.
      rows: the number of rows on this device.
      draw: the seed and the axes.
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
    """The hash that one device would compute of arrays, some of which are split over devices.

    Without types, arrays that are alike on all devices may be split or not. So most arrays
    contribute only their largest row hash, which is the same in both cases. Examples are masks,
    labels, class weights, counters and keys. The arrays with the longest rows are the data itself,
    and all of their numbers count. (Traced once per batch shape.)
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
    """The largest row hash of each array, and a sum of the other hashes by place.

    The second is a sum over rows. Each term is the row's hash minus the largest, times the row's
    place among the rows of all devices. So an array of equal rows has the sum 0, whether it is
    split or not.
    """
    rows = [len(part) for part in parts]
    sums = jnp.stack([_sums_of_hashes(part) for part in parts], axis=1)
    for axis in reversed(axes):  # the only communication between devices
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
    """Whether each array is split over an axis, by its type if typed, else by its hashes."""
    if is_typed(axis):
        return jnp.asarray([axis in varying_axes(part) for part in parts])
    return (hashes != hashes[..., :1, :]).any(axis=-2)


def _scrambled(bits: UInt32[Array, "..."]) -> UInt32[Array, "..."]:
    return (bits ^ (bits >> 15)) * jnp.uint32(GOLDEN_BITS)


def _integers(array: Any) -> list[UInt32[Array, "..."]]:
    """The numbers of an array, or of a key, as 32-bit integers."""
    array = jax.lax.stop_gradient(jnp.asarray(array))
    if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
        return [jax.random.key_data(array)]
    if jnp.iscomplexobj(array):
        return _integers(array.real) + _integers(array.imag)
    if jnp.issubdtype(array.dtype, jnp.floating):
        return [jax.lax.bitcast_convert_type(array.astype(jnp.float32), jnp.uint32)]
    return [array.astype(jnp.uint32)]


def _sums_of_hashes(bits: UInt32[Array, "rows ..."]) -> UInt32[Array, "3"]:
    """Hashes each row from its numbers and their places.

    Returns the largest hash, the sum of hash times row place, and the sum of hashes.
    """
    place = jnp.ones(bits.shape, jnp.uint32)
    for axis in range(1, bits.ndim):
        along = jax.lax.broadcasted_iota(jnp.uint32, bits.shape, axis)
        place = place * jnp.uint32(31) + along + jnp.uint32(1)
    hashes = jnp.sum(_scrambled(bits) * place, axis=tuple(range(1, bits.ndim)), dtype=jnp.uint32)
    places = jnp.arange(1, len(hashes) + 1, dtype=jnp.uint32)
    sums = [jnp.sum(each, dtype=jnp.uint32) for each in (hashes * places, hashes)]
    return jnp.stack([jnp.max(hashes, initial=0), *sums])
