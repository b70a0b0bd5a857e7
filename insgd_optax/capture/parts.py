"""Parts: one layout for a leaf that layers use slice by slice.

    q, k = x @ w[:, :4], y @ w[:, 4:]

Each slice is a separate matrix. The leaf has two groups here, and each use sees one of them. If
slices differ in their number of outputs, they are cut into blocks of one size. A use then sees some
of the blocks. Uses that share one input form one wide layer with a single group.
"""

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence

from insgd_optax.capture.moved import Axis, Digit
from insgd_optax.capture.origin import Part, View
from insgd_optax.capture.program import Use
from insgd_optax.layout import Layout, Step, append_step

# A leaf with more blocks keeps a single value, unless each use sees one block.
MOST_BLOCKS = 64


@dataclasses.dataclass(frozen=True)
class Places:
    """The groups of a leaf that each use sees.

    Attributes:
      blocks: the number of blocks of the leaf.
      of_use: the numbers of the blocks that a use has seen.
    """

    blocks: int
    of_use: Mapping[Use, Sequence[int]] = dataclasses.field(hash=False)


Found = tuple[Layout, tuple[int, ...], Places]


@dataclasses.dataclass(frozen=True)
class _Matrices:
    """The matrices of a layer, by their positions in a leaf."""

    loops: tuple[tuple[int, Axis], ...]
    groups: Axis
    inputs: Axis
    outputs: Axis
    offset: int


def layout_of_parts(number: int, shape: tuple[int, ...], uses: Sequence[Use]) -> Found | None:
    """A leaf's layout, the loops whose iterations are groups, and the places of its uses.

    None if the uses have no layout in common.
    """
    found = [_matrices(use, number) for use in uses]
    known = [each for each in found if each is not None]
    layer = uses[0].layer
    alike = {(each.loops, each.groups, each.inputs) for each in known}
    if len(known) < len(found) or len(alike) > 1 or _several_kinds(uses):
        return None
    loops = list(itertools.chain.from_iterable(digits for _, digits in known[0].loops))
    inside, inputs = [*known[0].groups], [*known[0].inputs]
    outputs = _common_outputs(known, [*loops, *inside, *inputs], math.prod(shape))
    between = outputs and _between([*loops, *inside, *inputs, *outputs], math.prod(shape))
    if outputs is None or between is None:
        return None
    found = {use: _blocks(each, outputs, between) for use, each in zip(uses, known, strict=True)}
    places = {use: each for use, each in found.items() if each is not None}
    if len(places) < len(uses):
        return None
    groups, blocks = _size(loops) * layer.groups, _size(between)
    if all(use.inputs == uses[0].inputs for use in uses):
        order = [*loops, *inside, *inputs, *between, *outputs]
        sizes = groups, layer.inputs, blocks * _size(outputs)
        places, blocks = {use: (0,) for use in uses}, 1
    elif blocks <= MOST_BLOCKS or all(len(each) == 1 for each in places.values()):
        order = [*loops, *between, *inside, *inputs, *outputs]
        sizes = groups * blocks, layer.inputs, _size(outputs)
    else:
        return None
    depths = tuple(depth for depth, _ in known[0].loops)
    return _layout(shape, order, sizes, layer.one_hot), depths, Places(blocks, places)


def _size(digits: Sequence[Digit]) -> int:
    return math.prod(size for size, _ in digits)


def _several_kinds(uses: Sequence[Use]) -> bool:
    kinds = {(use.layer.groups, use.layer.inputs, use.layer.one_hot) for use in uses}
    return len(kinds) > 1


def _matrices(use: Use, number: int) -> _Matrices | None:
    view, layer = use.weight.leaves[number], use.layer
    sizes: Step = ("reshape", (layer.groups, layer.inputs, layer.outputs))
    part = view.as_part() if isinstance(view, View) else view
    for step in (*layer.steps, sizes):
        part = part.then(step) if isinstance(part, Part) else None
    if not isinstance(part, Part):
        return None
    groups, inputs, outputs = part.moved.axes
    return _Matrices(part.moved.loops, groups, inputs, outputs, part.moved.offset)


def _common_outputs(
    uses: Sequence[_Matrices], kept: Sequence[Digit], total: int
) -> list[Digit] | None:
    """The outputs of one block, which divide the outputs and the starts of all uses."""
    several = {each.outputs for each in uses}
    if len(several) == 1:
        return list(uses[0].outputs) or [(1, 1)]
    strides = {stride for axis in several for _, stride in axis}
    if len(strides) > 1 or any(len(axis) > 1 for axis in several):
        return None
    (stride,) = strides
    period = min((each for _, each in kept if each > stride), default=total)
    sizes = [axis[0][0] if axis else 1 for axis in several]
    starts = [each.offset % period // stride for each in uses]
    return [(math.gcd(period // stride, *sizes, *starts), stride)]


def _between(digits: Sequence[Digit], total: int) -> list[Digit] | None:
    """The digits that complete the whole leaf, slowest first. They number its blocks."""
    missing, reached = [], 1
    for size, stride in sorted(digits, key=lambda digit: digit[1]):
        if size == 1:
            continue
        if stride % reached or not stride:
            return None
        if stride > reached:
            missing.append((stride // reached, reached))
        reached = size * stride
    if total % reached:
        return None
    if total > reached:
        missing.append((total // reached, reached))
    return missing[::-1]


def _blocks(use: _Matrices, outputs: Sequence[Digit], between: Sequence[Digit]) -> list[int] | None:
    """The numbers of the blocks that a use covers."""
    width, (first, stride) = _size(outputs), outputs[0]
    found = []
    for block in range(_size(use.outputs) // width):
        rest, number = use.offset + block * first * stride, 0
        for size, apart in between:
            at = min(rest // apart, size - 1)
            number, rest = number * size + at, rest - at * apart
        if rest:
            return None
        found.append(number)
    return found


def _layout(
    shape: tuple[int, ...], order: Sequence[Digit], sizes: tuple[int, int, int], one_hot: bool
) -> Layout:
    """The layout of a leaf that reads its digits in this order."""
    real = [digit for digit in order if digit[0] > 1]
    stored = sorted(real, key=lambda digit: -digit[1])
    lengths = tuple(size for size, _ in stored)
    steps = append_step((), ("reshape", lengths), shape)
    steps = append_step(steps, ("transpose", tuple(map(stored.index, real))), lengths)
    if steps and steps[-1][0] == "reshape":  # the layout reshapes to its sizes itself
        steps = steps[:-1]
    return Layout(shape, steps, *sizes, one_hot=one_hot)
