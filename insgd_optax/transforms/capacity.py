"""Room: how much of the packed history each leaf gets, before its layer has been seen.

An optax transformation makes its state from the parameters alone, and there a kernel's axes have
no names. So a leaf gets room for every usual reading of its shape: the inputs may be its first
axes or its last but one, the channels may come first or last, it may be a stack of layers or hold
the groups of a convolution. A layout that is known is taken as it is. Structures that keep a
matrix get room for the likeliest reading alone, or for all that cost little in a small leaf, and
an error asks for the layouts if it is another.
"""

import math
from typing import NamedTuple

from insgd_optax.layout import Layout
from insgd_optax.moments import kept_structure
from insgd_optax.structures import Structure

# Up to this size a leaf gets room for both orders of its axes, whichever looks more likely.
SMALL = 4096
# A matrix of a layer's inputs is as many times its leaf as it has inputs for each output. Where
# that is more, a leaf of three and more axes gets no room for it.
WIDEST = 16
# A recurrent cell keeps its gates side by side in one matrix. There is room for this many.
MOST_GATES = 8


class Room(NamedTuple):
    """What a leaf takes of the packed state, at most.

    Attributes:
      numbers: of its history.
      groups: how many groups it has.
      factors: numbers of the factor that is kept between refreshes.
    """

    numbers: int
    groups: int
    factors: int


def room_for(structure: Structure, shape: tuple[int, ...], layout: Layout | None = None) -> Room:
    """How much room a leaf gets.

    >>> from insgd_optax import Diagonal, Full, Scalar
    >>> room_for(Diagonal(), (784, 10)).numbers, room_for(Scalar(), (784, 10)).numbers
    (784, 1)
    >>> room_for(Scalar(), (12, 768, 768)).groups          # twelve layers, stacked
    12
    >>> room_for(Full(), (64, 2048)).numbers == 64**2       # a square has room for one reading
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
    """Whether what is kept grows with the square of the inputs, so that a wrong reading is dear."""
    return math.prod(structure.shape(1, 100)) >= 100**2


def _likeliest(shape: tuple[int, ...]) -> Layout:
    """The reading that is right for dense and convolution kernels of Flax and Haiku.

    The last axis has the outputs, but for the heads of attention.
    """
    inputs = shape[0] if _has_heads(shape) else math.prod(shape[:-1])
    return Layout(shape, (), 1, inputs, math.prod(shape) // max(1, inputs))


def _has_heads(shape: tuple[int, ...]) -> bool:
    """Whether the axes are most likely those of Flax's attention: inputs, heads and features."""
    return len(shape) == 3 and shape[0] > max(shape[1:]) and shape[1] > 1


def _readings(shape: tuple[int, ...]) -> list[Layout]:
    """The usual layouts of a leaf of this shape."""
    if len(shape) <= 2 or 0 in shape:
        sizes = [*((1, size) for size in shape), *_gates(shape)] or [(1, 1)]
    elif math.prod(shape) > SMALL and _has_heads(shape):
        # Or a convolution along one axis, its outputs last or first.
        sizes = [(1, shape[0]), (1, math.prod(shape[:-1])), (1, math.prod(shape[1:]))]
    else:
        pairs = [shape[:2], shape[-2:]]
        if math.prod(shape) > SMALL:
            # A kernel's channels outnumber its positions, a layer's width its neighbors' depth.
            pairs = [max(pairs, key=lambda pair: sorted(pair, reverse=True))]
        sizes = [reading for pair in pairs for reading in _readings_of_channels(shape, pair)]
    outputs = [math.prod(shape) // max(1, groups * inputs) for groups, inputs in sizes]
    return [Layout(shape, (), *size, out) for size, out in zip(sizes, outputs, strict=True)]


def _gates(shape: tuple[int, ...]) -> list[tuple[int, int]]:
    """Several squares that meet inputs of their own, as in Haiku's and Keras's gated units."""
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
        (1, others * more),  # a convolution, or several axes contracted
        (others, more),  # a stack of layers
        (more // fewer, others * fewer),  # a grouped or depthwise convolution
    ]
