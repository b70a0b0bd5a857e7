"""Convolutions: strided, padded, dilated, transposed, grouped and depthwise."""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from insgd_optax.capture.layers.base import (
    Layer,
    applied_to_ones,
    magnitudes,
    real,
    wide,
    with_a_mean,
)
from insgd_optax.capture.layers.sampling import UNSEEDED, Draw, drawn_rows
from insgd_optax.compat import JaxprEqn, shape_of
from insgd_optax.layout import Step
from insgd_optax.sharding import taken
from insgd_optax.structures import Signals, Sums


def convolution_layer(equation: JaxprEqn) -> Layer | None:
    params, numbers = equation.params, equation.params["dimension_numbers"]
    if params["batch_group_count"] != 1:  # the gradient of a grouped convolution
        return None
    shape, output = shape_of(equation.invars[1]), shape_of(equation.outvars[0])
    space = tuple(output[axis] for axis in numbers.out_spec[2:])
    look = functools.partial(ConvolutionInput, kernel=shape, space=space, params=params)
    groups, out_axis = params["feature_group_count"], numbers.rhs_spec[0]
    inputs, outputs = math.prod(shape) // max(1, shape[out_axis]), shape[out_axis] // groups
    steps = _kernel_steps(shape, out_axis, groups)
    # The result's channels are the outputs, ordered by group.
    strides = tuple(int(axis == numbers.out_spec[1]) for axis in range(len(output)))
    sizes = groups, inputs, outputs
    return Layer(equation.primitive.name, 1, (0,), steps, *sizes, look, strides=strides)


def _kernel_steps(shape: tuple[int, ...], out_axis: int, groups: int) -> tuple[Step, ...]:
    """The steps from a kernel to the order of groups, inputs, outputs.

    The output axis of the kernel holds the outputs of all groups.
    """
    others = [axis for axis in range(len(shape)) if axis != out_axis]
    if groups == 1:
        return (("transpose", (*others, out_axis)),)
    channels = (groups, shape[out_axis] // groups)
    moved = [axis + (axis > out_axis) for axis in others]
    return (
        ("reshape", (*shape[:out_axis], *channels, *shape[out_axis + 1 :])),
        ("transpose", (out_axis, *moved, out_axis + 1)),
    )


@dataclasses.dataclass(frozen=True)
class ConvolutionInput:
    """The input that a kernel is moved over.

    Attributes:
      x: the operand.
      kernel: the shape of the kernel.
      space: the size of the output along each spatial axis.
      params: the parameters of the equation.
      draw: decides which rows are drawn.
    """

    x: Array
    kernel: tuple[int, ...]
    space: tuple[int, ...]
    params: dict[str, Any]
    draw: Draw = UNSEEDED

    has_positions = True

    @property
    def groups(self) -> int:
        return self.params["feature_group_count"]

    @property
    def inputs(self) -> int:
        return math.prod(self._with_outputs(1))

    def sums(self, order: int) -> Sums:
        sums = self._over_rows(magnitudes(self.x, order))
        return sums, jnp.full(self.groups, self._row_count, sums.dtype)

    def first_sums(self) -> Float[Array, "groups inputs"]:
        return self._over_rows(with_a_mean(self.x))

    def rows(self, number: int | None) -> Float[Array, "groups rows inputs"]:
        """Patches, read from the padded input at drawn positions."""
        places = drawn_rows(number, self._row_count, self.draw)
        if places is None:
            places = jnp.arange(self._row_count, dtype=jnp.int32)
        example, *starts = jnp.unravel_index(places, (self.x.shape[self._axes[0]], *self.space))
        spatial, axes = self._numbers.rhs_spec[2:], range(len(starts))
        at = [_along(example, 0, len(axes))]
        for axis in axes:
            gap, stride = self.params["rhs_dilation"][axis], self.params["window_strides"][axis]
            taps = _along(
                jnp.arange(self.kernel[spatial[axis]], dtype=jnp.int32) * gap, axis + 1, len(axes)
            )
            at.append(_along(starts[axis] * stride, 0, len(axes)) + taps)
        patches = taken(self._padded(), tuple(at))  # (rows, *window, channels)
        split = self._in_groups(patches, len(axes) + 1)
        where = {self._numbers.rhs_spec[1]: len(axes) + 2}
        where |= {spatial[axis]: axis + 1 for axis in axes}
        order = [where[axis] for axis in range(len(self.kernel)) if axis != self._out_axis]
        turned = jnp.transpose(split, (len(axes) + 1, 0, *order))
        return turned.reshape(self.groups, len(places), self.inputs)

    def row_sums(self, order: int) -> Float[Array, "..."]:
        """Sums the channels of a group first, so the window moves over a single channel."""
        channel = self._axes[1]
        powers = self._in_groups(magnitudes(self.x, order), channel).sum(axis=channel + 1)
        window = list(self._with_outputs(self.groups))
        window[self._numbers.rhs_spec[1]] = 1
        per_group = self._convolve(powers, jnp.ones(window, powers.dtype))
        outputs = self.kernel[self._out_axis] // self.groups
        if self.groups == 1:
            return per_group
        return jnp.repeat(per_group, outputs, axis=self._numbers.out_spec[1])

    def products_of_rows(self, cotangent: Array) -> None:
        """None, because a position's patch is seldom smaller than its share of the kernel."""

    def signals(self) -> Signals:
        examples, channel, *space = self._numbers.lhs_spec
        values = jnp.transpose(wide(self.x), (channel, examples, *space))
        return Signals(values, 1, len(space), jnp.ones((), values.dtype))

    def per_input(self, channels: Float[Array, "groups channels"]) -> Float[Array, "groups inputs"]:
        shape = list(self._with_outputs(1))
        whole = (self.groups, *shape)
        channel = 1 + self._numbers.rhs_spec[1]
        alone = [size if axis in (0, channel) else 1 for axis, size in enumerate(whole)]
        spread = jnp.broadcast_to(channels.reshape(alone), whole)
        return spread.reshape(self.groups, self.inputs)

    def _over_rows(self, array: Float[Array, "..."]) -> Float[Array, "groups inputs"]:
        """Sums an array with the axes of the input over all rows.

        The operation is linear in the array, so the examples are summed first.
        """
        one_example = array.sum(axis=self._axes[0], keepdims=True)
        sums = applied_to_ones(
            lambda kernel: self._convolve(one_example, kernel),
            self._with_outputs(self.groups),
            one_example,
            one_example.dtype,
        )
        return jnp.moveaxis(sums, self._out_axis, 0).reshape(self.groups, self.inputs)

    def _padded(self) -> Float[Array, "examples *space channels"]:
        examples, channel, *space = self._numbers.lhs_spec
        ordered = jnp.transpose(real(self.x), (examples, *space, channel))
        pairs = zip(self.params["padding"], self.params["lhs_dilation"], strict=True)
        config = [(0, 0, 0), *((low, high, gap - 1) for (low, high), gap in pairs), (0, 0, 0)]
        return jax.lax.pad(ordered, jnp.zeros((), ordered.dtype), config)

    @property
    def _row_count(self) -> int:
        return self.x.shape[self._axes[0]] * math.prod(self.space)

    @property
    def _numbers(self) -> Any:
        return self.params["dimension_numbers"]

    @property
    def _axes(self) -> tuple[int, int]:
        """The axes of the input with its examples and its channels."""
        return self._numbers.lhs_spec[:2]

    @property
    def _out_axis(self) -> int:
        return self._numbers.rhs_spec[0]

    def _with_outputs(self, outputs: int) -> tuple[int, ...]:
        """The shape of the kernel with another number of outputs."""
        before, after = self.kernel[: self._out_axis], self.kernel[self._out_axis + 1 :]
        return (*before, outputs, *after)

    def _in_groups(self, array: Array, axis: int) -> Array:
        """Splits the channel axis into groups and channels per group."""
        shape = array.shape
        split = (self.groups, shape[axis] // self.groups)
        return array.reshape(*shape[:axis], *split, *shape[axis + 1 :])

    def _convolve(self, x: Array, kernel: Array) -> Array:
        params = self.params
        return jax.lax.conv_general_dilated(
            x, kernel, params["window_strides"], params["padding"],
            params["lhs_dilation"], params["rhs_dilation"], self._numbers, self.groups,
            precision=jax.lax.Precision.HIGHEST,
        )  # fmt: skip


def _along(numbers: Array, axis: int, window_axes: int) -> Array:
    """Reshapes numbers to lie along one axis of ``(rows, *window)``."""
    shape = [1] * (1 + window_axes)
    shape[axis] = -1
    return numbers.reshape(shape)
