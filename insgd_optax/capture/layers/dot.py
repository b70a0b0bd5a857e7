"""Matrix products: dense layers, attention projections, ensembles and all other einsums."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from insgd_optax.capture.layers.base import (
    Layer,
    magnitudes,
    products,
    real,
    summed,
    wide,
    with_a_mean,
)
from insgd_optax.capture.layers.sampling import UNSEEDED, Draw, drawn_rows
from insgd_optax.compat import JaxprEqn, shape_of
from insgd_optax.layout import Step
from insgd_optax.sharding import everywhere, taken
from insgd_optax.structures import Signals, Sums


def dot_layer(equation: JaxprEqn, weight: int, input: int) -> Layer:
    contract, batch = equation.params["dimension_numbers"]
    # Follow the weight's axes, so that all uses of a leaf agree on the order of its inputs.
    batched = sorted(zip(batch[weight], batch[input], strict=True))
    contracted = sorted(zip(contract[weight], contract[input], strict=True))
    shape = shape_of(equation.invars[weight])
    kept = [axis for axis, _ in batched + contracted]
    free = [axis for axis in range(len(shape)) if axis not in kept]
    inputs = math.prod(shape[axis] for axis, _ in contracted)
    look = functools.partial(
        DotInput,
        group_axes=tuple(axis for _, axis in batched),
        input_axes=tuple(axis for _, axis in contracted),
        output_groups=tuple(batch[input]),
        outputs_before=len(free) if weight == 0 else 0,
        outputs_after=len(free) if weight == 1 else 0,
    )
    steps: tuple[Step, ...] = (("transpose", (*kept, *free)),)
    groups, outputs = _size(shape, [axis for axis, _ in batched]), _size(shape, free)
    ordered = [axis for axis, _ in batched] + free
    of_axis = dict(zip(ordered, _strides([shape[axis] for axis in ordered]), strict=True))
    by_weight = tuple(of_axis[axis] for axis in free)
    by_rows = (0,) * (len(shape_of(equation.outvars[0])) - len(ordered))
    strides = tuple(of_axis[axis] for axis in batch[weight])
    strides += by_rows + by_weight if weight == 1 else by_weight + by_rows
    sizes = groups, inputs, outputs
    return Layer("dot_general", weight, (input,), steps, *sizes, look, strides=strides)


def _strides(sizes: list[int]) -> list[int]:
    return [math.prod(sizes[place + 1 :]) for place in range(len(sizes))]


def _size(shape: tuple[int, ...], axes: list[int]) -> int:
    return math.prod(shape[axis] for axis in axes)


@dataclasses.dataclass(frozen=True)
class DotInput:
    """The operand that a weight is multiplied with.

    Attributes:
      x: the operand.
      group_axes: its batch axes, in the order of the weight's.
      input_axes: its contracted axes, in the order of the weight's.
      output_groups: its batch axes, in the order of the result's.
      outputs_before, outputs_after: the number of axes that the weight adds to the result, between
        the batch axes and the rows or after the rows.
      draw: decides which rows are drawn.
    """

    x: Array
    group_axes: tuple[int, ...]
    input_axes: tuple[int, ...]
    output_groups: tuple[int, ...]
    outputs_before: int
    outputs_after: int
    draw: Draw = UNSEEDED

    has_positions = False

    @property
    def groups(self) -> int:
        return math.prod(self.x.shape[axis] for axis in self.group_axes)

    @property
    def inputs(self) -> int:
        return math.prod(self.x.shape[axis] for axis in self.input_axes)

    @property
    def row_axes(self) -> tuple[int, ...]:
        kept = self.group_axes + self.input_axes
        return tuple(axis for axis in range(self.x.ndim) if axis not in kept)

    def sums(self, order: int) -> Sums:
        sums = self._over_rows(magnitudes(self.x, order))
        rows = math.prod(self.x.shape[axis] for axis in self.row_axes)
        return sums, jax.lax.full((self.groups,), rows, sums.dtype)

    def row_sums(self, order: int) -> Float[Array, "..."]:
        powers = jnp.sum(magnitudes(self.x, order), axis=self.input_axes, keepdims=True)
        axes = (*self.output_groups, *self.row_axes, *self.input_axes)
        per_row = jnp.transpose(powers, axes)
        groups = per_row.shape[: len(self.output_groups)]
        rows = per_row.shape[len(groups) : len(groups) + len(self.row_axes)]
        before, after = (1,) * self.outputs_before, (1,) * self.outputs_after
        return per_row.reshape(*groups, *before, *rows, *after)

    def first_sums(self) -> Float[Array, "groups inputs"]:
        return self._over_rows(with_a_mean(self.x))

    def _over_rows(self, array: Array) -> Float[Array, "groups inputs"]:
        axes = (*self.row_axes, *self.group_axes, *self.input_axes)
        sums = summed(array, axes, len(self.row_axes))
        return jax.lax.reshape(sums, (self.groups, self.inputs))

    def rows(self, number: int | None) -> Float[Array, "groups rows inputs"]:
        total = math.prod(self.x.shape[axis] for axis in self.row_axes)
        places = drawn_rows(number, total, self.draw)
        if places is None:
            return self._all_rows(everywhere(real(self.x)))
        at = jnp.unravel_index(places, [self.x.shape[axis] for axis in self.row_axes])
        axes = (*self.row_axes, *self.group_axes, *self.input_axes)
        drawn = taken(jnp.transpose(real(self.x), axes), at)
        return jnp.swapaxes(drawn.reshape(len(places), self.groups, self.inputs), 0, 1)

    def products_of_rows(self, cotangent: Array) -> Float[Array, "groups rows rows"]:
        order = (*self.output_groups, *self.row_axes, *self.input_axes)
        groups, rows = len(self.output_groups), len(self.row_axes)
        first = groups + self.outputs_before
        before, last = range(groups, first), first + rows
        back = (*range(groups), *range(first, last), *before, *range(last, cotangent.ndim))
        inputs = jnp.transpose(real(self.x), order).reshape(self.groups, -1, self.inputs)
        cotangents = jnp.transpose(real(cotangent), back).reshape(*inputs.shape[:2], -1)
        dtype = jnp.promote_types(inputs.dtype, cotangents.dtype)
        return products(inputs.astype(dtype)) * products(cotangents.astype(dtype))

    def signals(self) -> Signals:
        values = jnp.transpose(wide(self.x), (*self.group_axes, *self.row_axes, *self.input_axes))
        one = jnp.ones((), values.dtype)
        return Signals(values, len(self.row_axes), len(self.input_axes), one)

    def _all_rows(self, x: Array) -> Array:
        axes = (*self.group_axes, *self.row_axes, *self.input_axes)
        return jnp.transpose(x, axes).reshape(self.groups, -1, self.inputs)

    def per_input(self, channels: Float[Array, "groups channels"]) -> Float[Array, "groups inputs"]:
        return jnp.broadcast_to(channels, (self.groups, self.inputs))
