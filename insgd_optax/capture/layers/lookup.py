"""Table lookups: dense layers on one-hot inputs."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from insgd_optax.capture.layers.base import Layer, applied_to_ones, products, real
from insgd_optax.capture.layers.sampling import UNSEEDED, Draw
from insgd_optax.compat import JaxprEqn, dtype_of, shape_of
from insgd_optax.layout import Step
from insgd_optax.numerics import wide_dtype
from insgd_optax.structures import Signals, Sums


def lookup_layer(equation: JaxprEqn) -> Layer | None:
    """The layer of a table that is read at one or several indices; None for any other slice."""
    params, shape = equation.params, shape_of(equation.invars[0])
    numbers, sizes = params.get("dimension_numbers"), params["slice_sizes"]
    batched = tuple(numbers.operand_batching_dims) if numbers else ()
    table = [axis for axis in range(len(shape)) if axis not in batched]
    looked_up = tuple(axis for axis in table if sizes[axis] != shape[axis])
    if len(table) < 2 or not looked_up or any(sizes[axis] != 1 for axis in looked_up):
        return None
    rows = tuple(axis for axis in table if axis not in looked_up)
    order = (*batched, *looked_up, *rows)
    dtype = wide_dtype(dtype_of(equation.outvars[0]))  # the indices are integers

    def look(*indices: ArrayLike, draw: Draw = UNSEEDED) -> LookupInput:
        del draw  # no rows are drawn
        arrays = tuple(map(jnp.asarray, indices))
        return LookupInput(arrays, shape, (batched, looked_up, rows), params, dtype)

    groups, inputs, outputs = (
        math.prod(shape[axis] for axis in axes) for axes in (batched, looked_up, rows)
    )
    operands, strides = tuple(range(1, len(equation.invars))), _strides(equation, rows)
    steps: tuple[Step, ...] = (("transpose", order),)
    found = equation.primitive.name, 0, operands, steps, groups, inputs, outputs, look
    return Layer(*found, one_hot=True, is_choice=len(rows) > 1, strides=strides)


def _strides(equation: JaxprEqn, rows: tuple[int, ...]) -> tuple[int, ...] | None:
    """The strides of a table row's axes in the result; None if there are groups."""
    shape, axes = shape_of(equation.invars[0]), len(shape_of(equation.outvars[0]))
    numbers = equation.params.get("dimension_numbers")
    sizes = [shape[axis] for axis in rows]
    of_row = {axis: math.prod(sizes[place + 1 :]) for place, axis in enumerate(rows)}
    if numbers is None:
        return tuple(of_row.get(axis, 0) for axis in range(axes))
    if numbers.operand_batching_dims:
        return None
    kept = [axis for axis in range(len(shape)) if axis not in numbers.collapsed_slice_dims]
    along = {numbers.offset_dims[kept.index(axis)]: of_row[axis] for axis in rows}
    return tuple(along.get(axis, 0) for axis in range(axes))


@dataclasses.dataclass(frozen=True)
class LookupInput:
    """The rows of a table that are read.

    Attributes:
      indices: the operands that select the rows.
      table: the shape of the table.
      axes: the axes of its groups, the axes that are looked up, and the axes of a row.
      params: the parameters of the equation.
      dtype: the dtype of the sums.
    """

    indices: tuple[Array, ...]
    table: tuple[int, ...]
    axes: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
    params: dict[str, Any]
    dtype: Any

    has_positions = False

    @property
    def groups(self) -> int:
        return math.prod(self.table[axis] for axis in self.axes[0])

    @property
    def inputs(self) -> int:
        return math.prod(self.table[axis] for axis in self.axes[1])

    def sums(self, order: int) -> Sums:
        del order  # every power of ones and zeros is the same
        counts = applied_to_ones(
            self._lookup, self._one_output(self.table), self.indices[0], self.dtype
        )
        counts = jnp.transpose(counts, sum(self.axes, ())).reshape(self.groups, self.inputs)
        return counts, counts.sum(axis=1)

    def row_sums(self, order: int) -> Float[Array, ""]:
        del order
        return jnp.ones((), self.dtype)

    def first_sums(self) -> Float[Array, "groups inputs"]:
        return self.sums(1)[0]

    def rows(self, number: int | None) -> Float[Array, "groups rows inputs"]:
        raise TypeError("The second moment of one-hot rows is diagonal: use Diagonal() for lookups")

    def products_of_rows(self, cotangent: Array) -> Float[Array, "groups rows rows"] | None:
        numbers = self.params.get("dimension_numbers")
        if numbers is None or len(self.table) > 2 or len(numbers.start_index_map) > 1:
            return None
        # The result keeps the order of the table's axes, without the one that is looked up.
        place = self.axes[2][0] if len(numbers.offset_dims) == 2 else 0
        axis = numbers.offset_dims[place]
        rows = jnp.moveaxis(real(cotangent), axis, -1).reshape(1, -1, cotangent.shape[axis])
        read = self.indices[0].ravel()
        if self.params["mode"] == jax.lax.GatherScatterMode.CLIP:
            read = jnp.clip(read, 0, self.inputs - 1)
        # An index out of range has no gradient, even if the lookup returned a row for it.
        inside = (read >= 0) & (read < self.inputs)
        return jnp.where((read[:, None] == read[None]) & inside[None], products(rows), 0)

    def signals(self) -> Signals:
        """A single one-hot row stands for all of them, because they are alike."""
        one_hot = jnp.zeros((self.groups, 1, self.inputs), self.dtype).at[..., 0].set(1)
        return Signals(one_hot, 1, 1, self.sums(2)[1][0])

    def per_input(self, channels: Float[Array, "groups channels"]) -> Float[Array, "groups inputs"]:
        return jnp.broadcast_to(channels, (self.groups, self.inputs))

    def _one_output(self, sizes: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(1 if axis in self.axes[2] else size for axis, size in enumerate(sizes))

    def _lookup(self, table: Array) -> Array:
        numbers, sizes = self.params.get("dimension_numbers"), self.params["slice_sizes"]
        sizes = self._one_output(sizes)
        if numbers is None:
            return jax.lax.dynamic_slice(table, self.indices, sizes)
        mode = self.params["mode"]
        return jax.lax.gather(table, self.indices[0], numbers, sizes, mode=mode)
