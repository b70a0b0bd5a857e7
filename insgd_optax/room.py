"""Room: how much of the packed history each leaf gets, before its layer has been seen.

An optax transformation makes its state from the parameters alone, and there a kernel's axes have
no names. So a leaf gets room for every usual reading of its shape: the inputs may be its first
axes or its last but one, the channels may come first or last, it may be a stack of layers or hold
the groups of a convolution. A layout that is known is taken as it is.
"""

import math

from insgd_optax.layout import Layout
from insgd_optax.moments import kept_structure
from insgd_optax.structures import Structure

# Up to this size a leaf gets room for both orders of its axes, whichever looks more likely.
SMALL = 4096


def room_for(
    structure: Structure, shape: tuple[int, ...], layout: Layout | None = None
) -> tuple[int, int]:
    """How many numbers a leaf's history takes, and how many groups it has, at most.

    >>> from insgd_optax import Diagonal, Scalar
    >>> room_for(Diagonal(), (784, 10)), room_for(Scalar(), (784, 10))
    ((784, 1), (1, 1))
    >>> room_for(Scalar(), (12, 768, 768))       # twelve layers, stacked
    (12, 12)
    >>> room_for(Diagonal(), (3, 3, 64, 128), Layout((3, 3, 64, 128), (), 1, 576, 128))
    (576, 1)
    """
    if layout is not None:
        kept = kept_structure(structure, layout)
        return math.prod(kept.shape(layout.groups, layout.inputs)), layout.groups
    readings = _readings(shape)
    numbers = max(math.prod(structure.shape(*reading)) for reading in readings)
    return numbers, max(groups for groups, _ in readings)


def _readings(shape: tuple[int, ...]) -> list[tuple[int, int]]:
    """The usual numbers of groups and inputs of a leaf of this shape."""
    if len(shape) <= 2 or 0 in shape:
        return [(1, size) for size in shape] or [(1, 1)]
    pairs = [shape[:2], shape[-2:]]
    if math.prod(shape) > SMALL:
        # A kernel's channels outnumber its positions, and a layer's width its neighbors' depth.
        pairs = [max(pairs, key=lambda pair: sorted(pair, reverse=True))]
    return [reading for pair in pairs for reading in _readings_of_channels(shape, pair)]


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
