"""An independent account of what a layer sees: input second moments in plain NumPy, float64.

Every function answers one question: for each entry of a weight, what is the mean square of the
inputs that it multiplies? Rows are what the weight contracts with, one per example and position:
the im2col patch of a convolution (padding included, as zeros), the one-hot vector of an embedding.
Nothing here uses JAX, and nothing is clever: it is what `insgd_optax` is checked against.
"""

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray


class Power(NamedTuple):
    """What one leaf saw."""

    mean_square: NDArray[np.float64]  # shape of the leaf
    rows: int  # rows seen by each group
    groups: int  # parts of the leaf with a statistic of their own


def contraction(spec: str, x: ArrayLike, weight_shape: Sequence[int]) -> Power:
    """A weight in `einsum(spec, x, weight)`.

    Axes of `x` that the weight lacks are rows; shared axes that survive in the output are groups.
    """
    operands, out_axes = spec.split("->")
    x_axes, weight_axes = operands.split(",")
    row_axes = [axis for axis in x_axes if axis not in weight_axes]
    shared_axes = [axis for axis in weight_axes if axis in x_axes]
    size = dict(zip(x_axes, np.shape(x), strict=True))

    squares = np.asarray(x, np.float64) ** 2
    rows = math.prod(size[axis] for axis in row_axes)
    mean_square = np.einsum(f"{x_axes}->{''.join(shared_axes)}", squares) / rows
    lift = tuple(size[axis] if axis in shared_axes else 1 for axis in weight_axes)
    groups = math.prod(size[axis] for axis in shared_axes if axis in out_axes)
    return Power(_fill(mean_square.reshape(lift), weight_shape), rows, groups)


def dense(x: ArrayLike, weight_shape: Sequence[int]) -> Power:
    """A weight (inputs, *outputs) in `x @ weight`; all leading axes of `x` are rows."""
    x = np.asarray(x, np.float64).reshape(-1, weight_shape[0])
    outputs = "opqr"[: len(weight_shape) - 1]
    return contraction(f"bi,i{outputs}->b{outputs}", x, weight_shape)


def embedding(indices: ArrayLike, table_shape: Sequence[int]) -> Power:
    """A table (vocabulary, *features): the mean square of a one-hot input is a frequency."""
    one_hot = np.asarray(indices).reshape(-1, 1) == np.arange(table_shape[0])
    return dense(one_hot, table_shape)


def convolution(
    x: ArrayLike,
    kernel_shape: Sequence[int],
    *,
    strides: Sequence[int] | None = None,
    padding: Sequence[tuple[int, int]] | None = None,
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    groups: int = 1,
) -> Power:
    """A kernel (*window, channels / groups, outputs) over `x` (batch, *space, channels)."""
    *window, group_channels, outputs = kernel_shape
    ones = [1] * len(window)
    x = np.asarray(x, np.float64)
    x = _pad(_dilate(x, lhs_dilation or ones), padding or [(0, 0)] * len(window))
    patches = im2col(x, window, strides or ones, rhs_dilation or ones)

    rows = math.prod(patches.shape[: 1 + len(window)])
    per_channel = (patches**2).reshape(rows, *window, x.shape[-1]).mean(axis=0)
    mean_square = np.empty(kernel_shape)
    for output in range(outputs):
        first = group_channels * (output // (outputs // groups))
        mean_square[..., output] = per_channel[..., first : first + group_channels]
    return Power(mean_square, rows, groups)


def im2col(
    x: NDArray[np.float64], window: Sequence[int], strides: Sequence[int], dilation: Sequence[int]
) -> NDArray[np.float64]:
    """(batch, *space, channels) -> (batch, *positions, *window, channels)."""
    space = x.shape[1:-1]
    positions = [
        (size - (taps - 1) * gap - 1) // stride + 1
        for size, taps, stride, gap in zip(space, window, strides, dilation, strict=True)
    ]
    patches = np.empty((x.shape[0], *positions, *window, x.shape[-1]))
    keep = (slice(None),) * (1 + len(window))
    for offset in itertools.product(*map(range, window)):
        taps = tuple(
            slice(at * gap, at * gap + (count - 1) * stride + 1, stride)
            for at, gap, count, stride in zip(offset, dilation, positions, strides, strict=True)
        )
        patches[(*keep, *offset)] = x[(slice(None), *taps)]
    return patches


def same_padding(
    space: Sequence[int],
    window: Sequence[int],
    strides: Sequence[int],
    dilation: Sequence[int] | None = None,
) -> list[tuple[int, int]]:
    """The pairs meant by "SAME": ceil(size / stride) positions, the odd zero at the end."""
    pairs = []
    for size, taps, stride, gap in zip(
        space, window, strides, dilation or [1] * len(window), strict=True
    ):
        reach = (math.ceil(size / stride) - 1) * stride + (taps - 1) * gap + 1
        missing = max(reach - size, 0)
        pairs.append((missing // 2, missing - missing // 2))
    return pairs


def shared(*uses: Power) -> Power:
    """One leaf used in the same way several times: rows pool."""
    rows = sum(use.rows for use in uses)
    total = sum(use.rows * use.mean_square for use in uses)
    return Power(np.asarray(total / rows), rows, uses[0].groups)


def pooled(leaf_shape: Sequence[int], *uses: Power, inputs: Sequence[int] = ()) -> Power:
    """One number for a leaf without a layout: the mean power of a row, over the fewest inputs.

    `inputs` are those of each use, where they differ.
    """
    shares = [number / min(inputs) for number in inputs] or [1.0] * len(uses)
    rows = sum(use.rows * use.groups for use in uses)
    total = sum(
        share * use.rows * use.groups * use.mean_square.mean()
        for share, use in zip(shares, uses, strict=True)
    )
    return Power(np.full(leaf_shape, total / rows), rows, 1)


def stacked(layers: Sequence[Power], axis: int = 0) -> Power:
    """Layers whose weights are stacked along `axis`, each with statistics of its own."""
    mean_square = np.stack([layer.mean_square for layer in layers], axis)
    return Power(mean_square, layers[0].rows, sum(layer.groups for layer in layers))


def joined(parts: Sequence[Power], axis: int) -> Power:
    """One leaf of several layers' weights, one after the other along `axis`."""
    mean_square = np.concatenate([part.mean_square for part in parts], axis)
    return Power(mean_square, parts[0].rows, sum(part.groups for part in parts))


def unseen(leaf_shape: Sequence[int]) -> Power:
    """A layer that no row reached."""
    return Power(np.zeros(leaf_shape), 0, 1)


def rearranged(power: Power, mean_square: NDArray[np.float64]) -> Power:
    """The same statistics for a leaf that stores its weight transposed, flipped or reshaped."""
    return power._replace(mean_square=mean_square)


def _fill(values: NDArray[np.float64], shape: Sequence[int]) -> NDArray[np.float64]:
    return np.array(np.broadcast_to(values, tuple(shape)))


def _dilate(x: NDArray[np.float64], dilation: Sequence[int]) -> NDArray[np.float64]:
    space = [(size - 1) * gap + 1 for size, gap in zip(x.shape[1:-1], dilation, strict=True)]
    out = np.zeros((x.shape[0], *space, x.shape[-1]))
    out[(slice(None), *(slice(None, None, gap) for gap in dilation))] = x
    return out


def _pad(x: NDArray[np.float64], padding: Sequence[tuple[int, int]]) -> NDArray[np.float64]:
    """Zeros at each end; a negative number cuts instead, as in XLA."""
    grow = [(max(low, 0), max(high, 0)) for low, high in padding]
    cut = (slice(max(-low, 0), -max(-high, 0) or None) for low, high in padding)
    return np.pad(x, [(0, 0), *grow, (0, 0)])[(slice(None), *cut)]
