"""Convolutions: strided, padded, dilated, transposed, grouped and depthwise."""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from insgd_optax.capture.compat import JaxprEqn, shape_of
from insgd_optax.capture.layers.base import Layer, applied_to_ones, magnitudes, wide
from insgd_optax.layout import Step
from insgd_optax.structures import Signals, Sums


def convolution_layer(equation: JaxprEqn) -> Layer | None:
    params, numbers = equation.params, equation.params["dimension_numbers"]
    if params["batch_group_count"] != 1:  # the gradient of a grouped convolution: no layer
        return None
    shape, output = shape_of(equation.invars[1]), shape_of(equation.outvars[0])
    positions = math.prod(output[axis] for axis in numbers.out_spec[2:])
    look = functools.partial(ConvolutionInput, kernel=shape, positions=positions, params=params)
    groups, out_axis = params["feature_group_count"], numbers.rhs_spec[0]
    inputs, outputs = math.prod(shape) // max(1, shape[out_axis]), shape[out_axis] // groups
    steps = _kernel_steps(shape, out_axis, groups)
    return Layer(equation.primitive.name, 1, (0,), steps, groups, inputs, outputs, look)


def _kernel_steps(shape: tuple[int, ...], out_axis: int, groups: int) -> tuple[Step, ...]:
    """From a kernel, whose output axis holds the groups' outputs, to groups, inputs, outputs."""
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
    """What a kernel is moved over.

    Attributes:
      x: the operand.
      kernel: the kernel's shape.
      positions: how many positions of the output an example has.
      params: the equation's.
    """

    x: Array
    kernel: tuple[int, ...]
    positions: int
    params: dict[str, Any]

    has_positions = True

    @property
    def groups(self) -> int:
        return self.params["feature_group_count"]

    @property
    def inputs(self) -> int:
        return math.prod(self._with_outputs(1))

    def sums(self, order: int) -> Sums:
        # The operation is linear in the powers, so the examples can be summed before it.
        examples, _ = self._axes
        one_example = magnitudes(self.x, order).sum(axis=examples, keepdims=True)
        sums = applied_to_ones(
            lambda kernel: self._convolve(one_example, kernel),
            self._with_outputs(self.groups),
            one_example,
            one_example.dtype,
        )
        sums = jnp.moveaxis(sums, self._out_axis, 0).reshape(self.groups, self.inputs)
        rows = self.x.shape[examples] * self.positions
        return sums, jnp.full(self.groups, rows, sums.dtype)

    def row_sums(self, order: int) -> Float[Array, "..."]:
        """The channels of a group are summed first: what is left moves over one channel."""
        channel = self._axes[1]
        powers = self._in_groups(magnitudes(self.x, order), channel).sum(axis=channel + 1)
        window = list(self._with_outputs(self.groups))
        window[self._numbers.rhs_spec[1]] = 1
        per_group = self._convolve(powers, jnp.ones(window, powers.dtype))
        outputs = self.kernel[self._out_axis] // self.groups
        if self.groups == 1:
            return per_group
        return jnp.repeat(per_group, outputs, axis=self._numbers.out_spec[1])

    def signals(self) -> Signals:
        examples, channel = self._axes
        space = self._numbers.lhs_spec[2:]
        ordered = jnp.transpose(wide(self.x), (channel, examples, *space))
        channels, count = ordered.shape[:2]
        split = ordered.reshape(self.groups, channels // self.groups, count, -1)
        return jnp.swapaxes(split, 1, 2), jnp.ones(self.groups, split.dtype)

    def per_input(self, channels: Float[Array, "groups channels"]) -> Float[Array, "groups inputs"]:
        shape = list(self._with_outputs(1))
        whole = (self.groups, *shape)
        channel = 1 + self._numbers.rhs_spec[1]
        alone = [size if axis in (0, channel) else 1 for axis, size in enumerate(whole)]
        spread = jnp.broadcast_to(channels.reshape(alone), whole)
        return spread.reshape(self.groups, self.inputs)

    @property
    def _numbers(self) -> Any:
        return self.params["dimension_numbers"]

    @property
    def _axes(self) -> tuple[int, int]:
        """Where the input has its examples and its channels."""
        return self._numbers.lhs_spec[:2]

    @property
    def _out_axis(self) -> int:
        return self._numbers.rhs_spec[0]

    def _with_outputs(self, outputs: int) -> tuple[int, ...]:
        """The shape of a kernel with another number of outputs."""
        before, after = self.kernel[: self._out_axis], self.kernel[self._out_axis + 1 :]
        return (*before, outputs, *after)

    def _in_groups(self, array: Array, axis: int) -> Array:
        """The axis of the channels as two: groups, and channels of a group."""
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
