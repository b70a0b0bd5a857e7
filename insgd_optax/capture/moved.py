"""Moved: maps the entries of a variable to positions in the leaf or layer result they come from.

An axis is a sequence of digits. Each digit has a size and the stride between its entries. An axis
of 12 that runs through a leaf of shape ``(3, 4)`` has the digits ``(3, 4), (4, 1)``. Reshapes split
and merge digits, and transposes move them. Broadcasts add digits of stride 0, which have no
position.
"""

import dataclasses
import itertools
import math
from collections.abc import Hashable, Iterable, Sequence

from insgd_optax.layout import Layout, append_step

Digit = tuple[int, int]  # size and stride
Axis = tuple[Digit, ...]
Pair = tuple[int, int, int]  # size, and the strides of two variables


@dataclasses.dataclass(frozen=True)
class Moved:
    """A variable whose entries come from one source and were only moved, cast or repeated.

    Attributes:
      source: the number of a leaf, or the `Use` of a layer.
      axes: the digits of each axis, slowest first.
      loops: for each scan that has taken a leading axis, its depth and the digits of that axis.
      offset: the position of the first entry, for a slice.
    """

    source: Hashable
    axes: tuple[Axis, ...]
    loops: tuple[tuple[int, Axis], ...] = ()
    offset: int = 0

    @classmethod
    def of_leaf(cls, leaf: int, shape: Sequence[int]) -> "Moved":
        return cls(leaf, tuple(_axis(*digit) for digit in strided(shape)))

    @classmethod
    def of_result(cls, use: Hashable, shape: Sequence[int], strides: Sequence[int]) -> "Moved":
        return cls(use, tuple(map(_axis, shape, strides)))

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(math.prod(size for size, _ in axis) for axis in self.axes)

    def transposed(self, order: Sequence[int]) -> "Moved":
        return dataclasses.replace(self, axes=tuple(self.axes[axis] for axis in order))

    def broadcast(self, shape: Sequence[int], places: Sequence[int]) -> "Moved":
        """Puts the axes of the variable at these places of a larger shape."""
        axes = [_axis(size, 0) for size in shape]
        for place, axis in zip(places, self.axes, strict=True):
            if axis:  # an axis with a single entry is repeated
                axes[place] = axis
        return dataclasses.replace(self, axes=tuple(axes))

    def reshaped(self, shape: Sequence[int]) -> "Moved | None":
        """The variable in another shape; None if its digits do not fit the new axes."""
        digits, axes = _merged(itertools.chain.from_iterable(self.axes)), []
        for size in shape:
            taken = _take(digits, size)
            if taken is None:
                return None
            axes.append(taken)
        return dataclasses.replace(self, axes=tuple(axes))

    def enter_loop(self, depth: int) -> "Moved | None":
        """The slice of one iteration. A layer's result may lose rows, not outputs."""
        first, rest = self.axes[0], self.axes[1:]
        if isinstance(self.source, int):
            loops = (*self.loops, (depth, first))
            return dataclasses.replace(self, axes=rest, loops=loops)
        return None if any(stride for _, stride in first) else Moved(self.source, rest)

    def sliced(self, cut: Sequence[slice]) -> "Moved | None":
        """Slices every axis with a start, a stop and a step; None if that is not regular."""
        offset, axes = self.offset, []
        for axis, places in zip(self.axes, cut, strict=True):
            found = _cut(axis, range(places.start, places.stop, places.step or 1))
            if found is None:
                return None
            axes.append(found[0])
            offset += found[1]
        return dataclasses.replace(self, axes=tuple(axes), offset=offset)


def layout_of_bias(
    pairs: Sequence[Pair], shape: tuple[int, ...], groups: int, outputs: int
) -> Layout | None:
    """The layout of a bias as one row per matrix of its layer, from the digits of the sum.

    Args:
      pairs: digits of the sum, each with its strides in ``(groups, outputs)`` and in the leaf.
      shape: the shape of the leaf.
      groups, outputs: the sizes of the layer.

    Returns:
      The layout of the leaf. None unless every output of every group gets one entry of the leaf,
      and every entry goes to one output.
    """
    if any((of_layer == 0) != (of_leaf == 0) for _, of_layer, of_leaf in pairs):
        return None
    stored = sorted((pair for pair in pairs if pair[1]), key=lambda pair: -pair[2])
    sizes = tuple(size for size, _, _ in stored)
    if not math.prod(sizes) == math.prod(shape) == groups * outputs:
        return None
    order = sorted(range(len(stored)), key=lambda place: -stored[place][1])
    steps = append_step((), ("reshape", sizes), shape)
    steps = append_step(steps, ("transpose", tuple(order)), sizes)
    if steps and steps[-1][0] == "reshape":  # the layout reshapes to its sizes itself
        steps = steps[:-1]
    return Layout(shape, steps, groups, 1, outputs)


def common_digits(first: Sequence[Axis], second: Sequence[Axis]) -> list[Pair] | None:
    """Splits two readings of the same axes into common digits; None if there are none."""
    pairs: list[Pair] = []
    for one, other in zip(first, second, strict=True):
        found = _refined(one, other)
        if found is None:
            return None
        pairs += found
    return pairs


def strided(sizes: Sequence[int]) -> list[Digit]:
    """The axes of an array of this shape as digits."""
    return [(size, math.prod(sizes[place + 1 :])) for place, size in enumerate(sizes)]


def _axis(size: int, stride: int) -> Axis:
    return ((size, stride),) if size > 1 else ()


def _merged(digits: Iterable[Digit]) -> list[Digit]:
    """Merges neighbors that together form one digit."""
    merged: list[Digit] = []
    for size, stride in digits:
        if merged and merged[-1][1] == size * stride:
            merged[-1] = (merged[-1][0] * size, stride)
        else:
            merged.append((size, stride))
    return merged


def _take(digits: list[Digit], size: int) -> Axis | None:
    """Removes the digits of an axis of this size from the front, splitting one if needed."""
    taken: list[Digit] = []
    while size > 1:
        if not digits:
            return None
        first, stride = digits.pop(0)
        if size % first == 0:
            taken, size = [*taken, (first, stride)], size // first
        elif first % size == 0:
            rest = first // size
            taken, size = [*taken, (size, stride * rest)], 1
            digits.insert(0, (rest, stride))
        else:
            return None
    return tuple(taken)


def _cut(axis: Axis, places: range) -> tuple[Axis, int] | None:
    """The digits of some positions along an axis, and the offset of the first position."""
    digits = _merged(axis)
    if not digits or not places:
        return (axis, 0) if places else None
    (_, stride), rest = digits[0], tuple(digits[1:])
    inner = math.prod(size for size, _ in rest)
    first, last = places[0] // inner, places[-1] // inner
    if first == last:
        found = _cut(rest, range(places[0] - first * inner, places[-1] - first * inner + 1))
        whole = found if places.step == 1 or not rest else None
        return whole and (whole[0], whole[1] + first * stride)
    if rest and (places.step != 1 or places[0] % inner or len(places) % inner):
        return None
    return ((len(places) // inner, stride * places.step), *rest), first * stride


def _refined(first: Axis, second: Axis) -> list[Pair] | None:
    """Splits two readings of one axis into common digits."""
    one, other = _merged(first), _merged(second)
    pairs: list[Pair] = []
    while one and other:
        size = min(one[0][0], other[0][0])
        left, right = _take(one, size), _take(other, size)
        if left is None or right is None:
            return None
        pairs.append((size, left[0][1], right[0][1]))
    return None if one or other else pairs
