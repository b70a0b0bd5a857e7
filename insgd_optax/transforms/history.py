"""History: the running mean of every layer's moments, packed into two vectors.

All leaves are updated together. A few operations on two vectors compile and launch faster than a
few operations on each of hundreds of leaves.
"""

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from insgd_optax.layout import Layout
from insgd_optax.moments import InputMoments
from insgd_optax.numerics import as_dtype
from insgd_optax.settings import Number
from insgd_optax.structures import Structure
from insgd_optax.transforms.capacity import Room, room_for

# Vectors of at least LONG entries are padded to a multiple of PARTS: 2, 4, ... 1024 devices fit.
LONG, PARTS = 2**16, 2**10


class Slot(NamedTuple):
    """The slices of the packed vectors that belong to a leaf."""

    numbers: slice
    groups: slice
    factors: slice


class Batch(NamedTuple):
    """The packed moments of one batch.

    Attributes:
      sums: shape (numbers,).
      count: shape (groups,); zero where a leaf has no layer.
      group_of: the group of each entry; shape (numbers,), static.
    """

    sums: Float[Array, " numbers"]
    count: Float[Array, " groups"]
    group_of: Int[np.ndarray, " numbers"]


class Powers(NamedTuple):
    """The result of `updated`.

    Attributes:
      power, weight: the new history before bias correction, and its accumulated weight.
      history: the running mean after bias correction; zero where nothing was seen.
      batch: the mean of this batch; zero where it has no rows.
    """

    power: Float[Array, " numbers"]
    weight: Float[Array, " groups"]
    history: Float[Array, " numbers"]
    batch: Float[Array, " numbers"]


def updated(
    power: Float[Array, " numbers"],
    weight: Float[Array, " groups"],
    batch: Batch,
    decay: Number | Float[Array, " groups"],
) -> Powers:
    """Adds a batch to the history. Groups that saw no row keep theirs."""
    one, seen = jnp.ones([], weight.dtype), batch.count > 0
    kept = jnp.where(seen, jnp.asarray(decay, weight.dtype), one)
    weight = kept * weight + (1 - kept)
    per_row = jnp.where(seen, 1 / jnp.where(seen, batch.count, one), 0)
    correction = jnp.where(weight > 0, 1 / jnp.where(weight > 0, weight, one), 0)
    kept, per_row, correction = (x[batch.group_of] for x in (kept, per_row, correction))
    mean = per_row * batch.sums
    power = kept * power + (1 - kept) * mean
    return Powers(power, weight, correction * power, mean)


def slots_for(
    leaves: Sequence[tuple[str, Any]], structure: Structure, layouts: Mapping[str, Layout]
) -> dict[str, Slot]:
    """Assigns a slot to every leaf, by path because containers order their leaves differently."""
    slots, start = {}, Room(0, 0, 0)
    for path, leaf in sorted(leaves, key=lambda named: named[0]):
        room = room_for(structure, jnp.shape(leaf), layouts.get(path))
        end = Room(*(a + b for a, b in zip(start, room, strict=True)))
        slots[path] = Slot(*(slice(a, b) for a, b in zip(start, end, strict=True)))
        start = end
    return slots


def totals(slots: Mapping[str, Slot]) -> Room:
    """The lengths of the packed vectors.

    They are at least 1 because checkpoints refuse empty arrays. Long ones are padded so that they
    can be sharded.
    """
    ends = [(1, 1, 1), *([part.stop for part in slot] for slot in slots.values())]
    lengths = (max(stops) for stops in zip(*ends, strict=True))
    return Room(*(math.ceil(n / PARTS) * PARTS if n >= LONG else n for n in lengths))


def pack(
    slots: Mapping[str, Slot], matched: Mapping[str, InputMoments | None], dtype: Any
) -> Batch:
    """Packs the statistics of a batch.

    Raises:
      ValueError: if a layer needs more space than its leaf has reserved.
    """
    zeros = functools.cache(lambda size: jnp.zeros(size, dtype))  # most leaves need the same size
    sums, count, group_of = [], [], []
    for path, slot in slots.items():
        moments = matched[path]
        numbers, groups = _length(slot.numbers), _length(slot.groups)
        owner = np.full(numbers, slot.groups.start, np.int32)
        if moments is not None:
            _check_room(path, slot, moments)
            used, members = moments.sums.size, np.arange(moments.count.size)
            owner[:used] += np.repeat(members, used // max(1, members.size))
            sums.append(as_dtype(jax.lax.reshape(moments.sums, (used,)), dtype))
            count.append(as_dtype(moments.count, dtype))
            numbers, groups = numbers - used, groups - moments.count.size
        sums += [zeros(numbers)] if numbers else []
        count += [zeros(groups)] if groups else []
        group_of.append(owner)
    numbers, groups, _ = totals(slots)
    sums.append(zeros(numbers - sum(part.size for part in sums)))
    count.append(zeros(groups - sum(part.size for part in count)))
    group_of.append(np.zeros(numbers - sum(part.size for part in group_of), np.int32))
    return Batch(jnp.concatenate(sums), jnp.concatenate(count), np.concatenate(group_of))


def unpack(packed: Float[Array, " _"], part: slice, like: Any) -> Float[Array, "..."]:
    """A leaf's slice of a packed vector, in the shape of an array or a `ShapeDtypeStruct`."""
    return packed[part][: like.size].reshape(like.shape)


def _check_room(path: str, slot: Slot, moments: InputMoments) -> None:
    numbers, groups = _length(slot.numbers), _length(slot.groups)
    factors = moments.sums.size if moments.kept.refresh_every > 1 else 0
    short = factors > _length(slot.factors)
    if short or moments.sums.size > numbers or moments.count.size > groups:
        layout = moments.layout
        raise ValueError(
            f"The history has reserved {numbers} entries in {groups} groups for '{path}' of shape "
            f"{layout.shape}, but its layer has {layout.groups} groups of {layout.inputs} inputs. "
            "The shape does not suggest this layout. Get the layouts with\n"
            "    layouts = insgd_optax.explain(loss_fn, params, batch).layouts\n"
            "and pass layouts=layouts to the optimizer."
        )


def _length(part: slice) -> int:
    return part.stop - part.start
