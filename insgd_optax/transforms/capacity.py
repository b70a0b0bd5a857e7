"""Capacity: how much of the packed state each leaf reserves.

An optax transformation creates its state from the parameters alone. The layout of a leaf is
unknown at that point, so each leaf reserves space for every common one. Its inputs may be the
first axes or the second-to-last axis. Its channels may come first or last. It may be a stack of
layers or hold the groups of a convolution. A layout that is given is used as it is.

Structures that keep a matrix cannot afford this. A large leaf then reserves space for the
likeliest layout alone. A small leaf adds the layouts that cost little. If the layer turns out to
need more, an error asks for the layouts.
"""

import math
from typing import NamedTuple

from insgd_optax.layout import Layout
from insgd_optax.moments import kept_structure
from insgd_optax.structures import Structure

# Up to this size a leaf reserves space for both orders of its axes, even the unlikely one.
SMALL = 4096
# A second moment has `inputs / outputs` times as many entries as its leaf. Above this ratio, a leaf
# with three or more axes reserves space only for its likeliest layout.
WIDEST = 16
# A recurrent cell keeps its gates side by side in one matrix. At most this many are expected.
MOST_GATES = 8


class Room(NamedTuple):
    """The space that a leaf reserves in the packed state.

    Attributes:
      numbers: entries of its history.
      groups: its number of groups.
      factors: entries of the factor that is cached between refreshes.
    """

    numbers: int
    groups: int
    factors: int


def room_for(structure: Structure, shape: tuple[int, ...], layout: Layout | None = None) -> Room:
    """Returns the space that a leaf reserves.

    >>> from insgd_optax import Diagonal, Full, Scalar
    >>> room_for(Diagonal(), (784, 10)).numbers, room_for(Scalar(), (784, 10)).numbers
    (784, 1)
    >>> room_for(Scalar(), (12, 768, 768)).groups          # twelve layers, stacked
    12
    >>> room_for(Full(), (64, 2048)).numbers == 64**2       # large: the likeliest layout only
    True
    >>> room_for(Full(), (768, 12, 64)).numbers == 768**2   # the queries of twelve heads
    True
    >>> room_for(Diagonal(), (3, 3, 64, 128), Layout((3, 3, 64, 128), (), 1, 576, 128)).numbers
    576
    """
    if layout is not None:
        layouts = [layout]
    elif _keeps_matrices(structure) and math.prod(shape) > SMALL:
        layouts = [_likeliest(shape)]
    elif _keeps_matrices(structure) and len(shape) > 2:
        narrow = [each for each in _readings(shape) if each.inputs <= WIDEST * each.outputs]
        layouts = [_likeliest(shape), *narrow]
    else:
        layouts = _readings(shape)
    rooms = [_exact_room(kept_structure(structure, reading), reading) for reading in layouts]
    return Room(*(max(sizes) for sizes in zip(*rooms, strict=True)))


def _exact_room(kept: Structure, layout: Layout) -> Room:
    numbers = math.prod(kept.shape(layout.groups, layout.inputs))
    return Room(numbers, layout.groups, numbers if kept.refresh_every > 1 else 0)


def _keeps_matrices(structure: Structure) -> bool:
    """Whether the state grows with the square of the inputs. A wrong guess is then expensive."""
    return math.prod(structure.shape(1, 100)) >= 100**2


def _likeliest(shape: tuple[int, ...]) -> Layout:
    """The layout of dense and convolution kernels in Flax and Haiku.

    The outputs are on the last axis, except for attention heads.
    """
    inputs = shape[0] if _has_heads(shape) else math.prod(shape[:-1])
    return Layout(shape, (), 1, inputs, math.prod(shape) // max(1, inputs))


def _has_heads(shape: tuple[int, ...]) -> bool:
    """Whether the axes look like those of Flax attention: inputs, heads and features."""
    return len(shape) == 3 and shape[0] > max(shape[1:]) and shape[1] > 1


def _readings(shape: tuple[int, ...]) -> list[Layout]:
    """The common layouts of a leaf of this shape."""
    if len(shape) <= 2 or 0 in shape:
        sizes = [*((1, size) for size in shape), *_gates(shape)] or [(1, 1)]
    elif math.prod(shape) > SMALL and _has_heads(shape):
        # It may also be a convolution along one axis with its outputs last or first.
        sizes = [(1, shape[0]), (1, math.prod(shape[:-1])), (1, math.prod(shape[1:]))]
    else:
        pairs = [shape[:2], shape[-2:]]
        if math.prod(shape) > SMALL:
            # Channels usually outnumber kernel positions, and layers are wider than stacks deep.
            pairs = [max(pairs, key=lambda pair: sorted(pair, reverse=True))]
        sizes = [reading for pair in pairs for reading in _readings_of_channels(shape, pair)]
    outputs = [math.prod(shape) // max(1, groups * inputs) for groups, inputs in sizes]
    return [Layout(shape, (), *size, out) for size, out in zip(sizes, outputs, strict=True)]


def _gates(shape: tuple[int, ...]) -> list[tuple[int, int]]:
    """Several square matrices with separate inputs, as in gated units of Haiku and Keras."""
    if len(shape) < 2 or 0 in shape:
        return []
    fewer, more = sorted(shape)
    number = more // fewer
    return [(number, fewer)] if more % fewer == 0 and number <= MOST_GATES else []


def _readings_of_channels(
    shape: tuple[int, ...], channels: tuple[int, ...]
) -> list[tuple[int, int]]:
    fewer, more = sorted(channels)
    others = math.prod(shape) // (fewer * more)
    return [
        (1, others * more),  # a convolution or a contraction of several axes
        (others, more),  # a stack of layers
        (more // fewer, others * fewer),  # a grouped or depthwise convolution
    ]
