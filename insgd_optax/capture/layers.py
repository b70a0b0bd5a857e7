"""Layers: which equations apply a weight to an input, and the statistics of that input.

The statistics are computed by the layer's own operation. It is applied to the squared input with
the weight as the unknown, transposed, and given ones: for a weight with one output channel that
is the sum over rows of every feature's square. Strides, padding, dilation, groups and dimension
numbers are then the operation's own business, with no case analysis here.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from insgd_optax.capture.compat import JaxprEqn, dtype_of, shape_of
from insgd_optax.capture.origin import Origin
from insgd_optax.layout import Step

Squares = tuple[Float[Array, "groups inputs"], Float[Array, " groups"]]


@dataclasses.dataclass(frozen=True)
class Layer:
    """An equation that applies a weight to an input.

    Attributes:
      equation: the primitive's name.
      weight: which operand is the weight.
      input: which operands say what the input is.
      steps: from the weight operand to ``(groups, inputs, outputs)``, read in order.
      groups, inputs, outputs: those sizes.
      measure: from the input operands, the sums over rows of every feature's square
        ``(groups, inputs)`` and the number of rows ``(groups,)``.
    """

    equation: str
    weight: int
    input: tuple[int, ...]
    steps: tuple[Step, ...]
    groups: int
    inputs: int
    outputs: int
    measure: Callable[..., Squares]


def find_layer(equation: JaxprEqn, origins: list[Origin]) -> Layer | None:
    """The layer that an equation is, or None: a weight operand must meet one with data in it."""
    match equation.primitive.name:
        case "dot_general" if origins[1].is_weight and origins[0].data:
            return _dot_layer(equation, weight=1, input=0)
        case "dot_general" if origins[0].is_weight and origins[1].data:
            return _dot_layer(equation, weight=0, input=1)
        case "conv_general_dilated" if origins[1].is_weight and origins[0].data:
            return _convolution_layer(equation)
        case "gather" | "dynamic_slice" if origins[0].is_weight:
            indices_from_data = any(origin.data for origin in origins[1:])
            return _embedding_layer(equation) if indices_from_data else None
    return None


def squared(array: Array) -> Float[Array, "..."]:
    """Squared magnitude in float32, or float64 for float64: half precision would overflow."""
    array = jax.lax.stop_gradient(array)
    if jnp.iscomplexobj(array):
        return jnp.square(jnp.real(array)) + jnp.square(jnp.imag(array))
    return jnp.square(array.astype(_wide(array.dtype)))


def _wide(dtype: Any) -> Any:
    return jnp.float64 if dtype == jnp.float64 else jnp.float32


def _dot_layer(equation: JaxprEqn, weight: int, input: int) -> Layer:
    contract, batch = equation.params["dimension_numbers"]
    # In the order of the weight's axes, so that two uses of a leaf agree on the order of inputs.
    batched = sorted(zip(batch[weight], batch[input], strict=True))
    contracted = sorted(zip(contract[weight], contract[input], strict=True))
    shape = shape_of(equation.invars[weight])
    kept = [axis for axis, _ in batched + contracted]
    free = [axis for axis in range(len(shape)) if axis not in kept]
    groups = math.prod(shape[axis] for axis, _ in batched)
    inputs = math.prod(shape[axis] for axis, _ in contracted)
    outputs = math.prod(shape[axis] for axis in free)

    def measure(x: Array) -> Squares:
        features = [axis for _, axis in batched + contracted]
        rows = [axis for axis in range(x.ndim) if axis not in features]
        squares = jnp.transpose(squared(x), (*rows, *features)).sum(axis=range(len(rows)))
        count = math.prod(x.shape[axis] for axis in rows)
        return squares.reshape(groups, inputs), jnp.full(groups, count, squares.dtype)

    steps: tuple[Step, ...] = (("transpose", (*kept, *free)),)
    return Layer("dot_general", weight, (input,), steps, groups, inputs, outputs, measure)


def _convolution_layer(equation: JaxprEqn) -> Layer | None:
    params, numbers = equation.params, equation.params["dimension_numbers"]
    if params["batch_group_count"] != 1:  # the gradient of a grouped convolution: no layer
        return None
    groups, out_axis = params["feature_group_count"], numbers.rhs_spec[0]
    shape, output = shape_of(equation.invars[1]), shape_of(equation.outvars[0])
    before, after = shape[:out_axis], shape[out_axis + 1 :]
    inputs, outputs = math.prod(before + after), shape[out_axis] // groups

    def convolve(x: Array, kernel: Array) -> Array:
        return jax.lax.conv_general_dilated(
            x, kernel, params["window_strides"], params["padding"],
            params["lhs_dilation"], params["rhs_dilation"], numbers, groups,
            precision=jax.lax.Precision.HIGHEST,
        )  # fmt: skip

    def measure(x: Array) -> Squares:
        # The operation is linear in the squares, so the examples can be summed before it.
        examples = numbers.lhs_spec[0]
        one_example = squared(x).sum(axis=examples, keepdims=True)
        one_output, dtype = (*before, groups, *after), one_example.dtype
        squares = _applied_to_ones(
            lambda kernel: convolve(one_example, kernel), one_output, one_example, dtype
        )
        squares = jnp.moveaxis(squares, out_axis, 0).reshape(groups, inputs)
        positions = math.prod(output[axis] for axis in numbers.out_spec[2:])
        return squares, jnp.full(groups, x.shape[examples] * positions, squares.dtype)

    name = equation.primitive.name
    steps = _kernel_steps(shape, out_axis, groups)
    return Layer(name, 1, (0,), steps, groups, inputs, outputs, measure)


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


def _embedding_layer(equation: JaxprEqn) -> Layer | None:
    """The lookup of whole rows of a table: a dense layer on one-hot inputs."""
    params, shape = equation.params, shape_of(equation.invars[0])
    numbers, sizes = params.get("dimension_numbers"), params["slice_sizes"]
    batched = numbers.operand_batching_dims if numbers else ()
    table = [axis for axis in range(len(shape)) if axis not in batched]
    looked_up = [axis for axis in table if sizes[axis] != shape[axis]]
    # A table has two axes. An index into stacked kernels is a choice of a layer, not an input.
    if len(table) != 2 or len(looked_up) != 1 or sizes[looked_up[0]] != 1:
        return None
    (index_axis,), (row_axis,) = looked_up, (axis for axis in table if axis not in looked_up)
    order = (*batched, index_axis, row_axis)
    groups, inputs = math.prod(shape[axis] for axis in batched), shape[index_axis]
    one_output = tuple(1 if axis == row_axis else size for axis, size in enumerate(shape))
    ones = tuple(1 if axis == row_axis else size for axis, size in enumerate(sizes))

    def lookup(table: Array, indices: tuple[Array, ...]) -> Array:
        if numbers is None:
            return jax.lax.dynamic_slice(table, indices, ones)
        return jax.lax.gather(table, indices[0], numbers, ones, mode=params["mode"])

    def measure(*indices: Array) -> Squares:
        counts = _applied_to_ones(
            lambda table: lookup(table, indices), one_output, indices[0], wide
        )
        squares = jnp.transpose(counts, order).reshape(groups, inputs)
        return squares, squares.sum(axis=1)

    wide = _wide(dtype_of(equation.outvars[0]))  # indices have no precision of their own
    operands = tuple(range(1, len(equation.invars)))
    steps: tuple[Step, ...] = (("transpose", order),)
    name = equation.primitive.name
    return Layer(name, 0, operands, steps, groups, inputs, shape[row_axis], measure)


def _applied_to_ones(
    operation: Callable[[Array], Array], shape: tuple[int, ...], like: Array, dtype: Any
) -> Float[Array, "..."]:
    """The transpose of a linear operation, applied to ones: an array of the weight's shape.

    The weight is made from ``like``, the layer's input, so that inside ``shard_map`` it varies
    over the devices as the input does, and the sums stay those of this device.
    """
    one = jnp.zeros_like(like.ravel()[:1] if like.size else jnp.sum(like)[None], dtype)
    weight = jnp.broadcast_to(one.reshape((1,) * len(shape)), shape)
    output, transpose = jax.vjp(operation, weight)
    (sums,) = transpose(jnp.ones_like(output))
    return sums
