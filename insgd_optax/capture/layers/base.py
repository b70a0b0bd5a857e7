"""The interface of all layers: the weight's layout, and an input that computes sums."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from insgd_optax.capture.layers.sampling import UNSEEDED, Draw
from insgd_optax.layout import Step
from insgd_optax.numerics import as_dtype, wide_dtype
from insgd_optax.structures import LayerInput


@runtime_checkable
class RowInput(LayerInput, Protocol):
    """The input of a layer, as structures see it, with sums for single rows and pairs of rows."""

    def row_sums(self, order: int) -> Float[Array, "..."]:
        """Sums of ``|x_i|**order`` over each row's inputs, to broadcast against the output."""
        ...

    def products_of_rows(self, cotangent: Array) -> Float[Array, "groups rows rows"] | None:
        """``(x · y) (g · h)`` for all pairs of rows x, y of a matrix with output cotangents g, h.

        None if the gradient itself is cheaper, or if the products are not known.
        """
        ...


@dataclasses.dataclass(frozen=True)
class Layer:
    """An equation that applies a weight to an input.

    Attributes:
      equation: the primitive's name.
      weight: the position of the weight among the operands.
      input: the positions of the operands that define the input.
      steps: the steps from the weight operand to the order of ``(groups, inputs, outputs)``.
      groups, inputs, outputs: those sizes.
      look: maps the input operands, and a ``draw`` for drawn rows, to a `RowInput`. It depends only
        on the equation's primitive, parameters, shapes and dtypes, and on ``weight`` and ``input``.
        Layers that agree in all of these share one ``look``.
      one_hot: whether the input is one-hot.
      is_choice: whether the result may itself be a weight, as a matrix that the input selects.
      strides: for each axis of the result, its stride in ``(groups, outputs)``; 0 for rows. None if
        the strides are not known, and then no bias is found.
    """

    equation: str
    weight: int
    input: tuple[int, ...]
    steps: tuple[Step, ...]
    groups: int
    inputs: int
    outputs: int
    look: Callable[..., RowInput]
    one_hot: bool = False
    is_choice: bool = False
    strides: tuple[int, ...] | None = None

    def look_at(self, inputs: Sequence[Any], draw: Draw = UNSEEDED) -> RowInput:
        """The input in its operands. No gradient flows through it."""
        return self.look(*jax.lax.stop_gradient(list(inputs)), draw=draw)


def magnitudes(array: Array, order: int) -> Float[Array, "..."]:
    """``|x|**order`` in float32, or float64 for float64. Half precision would overflow."""
    array = wide(array)
    if order == 1:
        return jnp.abs(array)
    if jnp.iscomplexobj(array):
        return jnp.square(jnp.real(array)) + jnp.square(jnp.imag(array))
    return jax.lax.mul(array, array)


def wide(array: Array) -> Array:
    """The input in float32, or in float64 for float64. Complex inputs keep their dtype."""
    dtype = array.dtype if jnp.iscomplexobj(array) else wide_dtype(array.dtype)
    return as_dtype(array, dtype)


def summed(array: Array, axes: tuple[int, ...], leading: int) -> Array:
    """Transposes an array, then sums it over its leading axes.

    Traced once per layer: `jax.lax` functions trace in a fraction of the time of `jax.numpy`.
    """
    if axes != tuple(range(array.ndim)):
        array = jax.lax.transpose(array, axes)
    zero = np.zeros((), array.dtype)
    return jax.lax.reduce(array, zero, jax.lax.add, range(leading)) if leading else array


def with_a_mean(array: Array) -> Float[Array, "..."]:
    """`wide` for a mean. Means of complex numbers are not kept, so they are zeros here."""
    array = wide(array)
    return jnp.zeros_like(array.real) if jnp.iscomplexobj(array) else array


def real(array: Array) -> Float[Array, "..."]:
    """`wide` for statistics that are not defined for complex numbers."""
    if jnp.iscomplexobj(array):
        raise TypeError(
            "A layer has complex inputs, for which this structure is not defined. Use "
            "insgd_optax.MeanVariances() or insgd_optax.Diagonal()."
        )
    return wide(array)


def products(rows: Float[Array, "groups rows n"]) -> Float[Array, "groups rows rows"]:
    """The scalar products of all pairs of rows."""
    return jnp.einsum("gri,gsi->grs", rows, rows, precision=jax.lax.Precision.HIGHEST)


def applied_to_ones(
    operation: Callable[[Array], Array], shape: tuple[int, ...], like: Array, dtype: Any
) -> Float[Array, "..."]:
    """The transpose of a linear operation applied to ones, in the shape of the weight.

    The weight is made from ``like``, the layer's input. Inside ``shard_map`` it then varies over
    devices as the input does, so the sums stay local to this device.
    """
    one = jnp.zeros_like(like.ravel()[:1] if like.size else jnp.sum(like)[None], dtype)
    weight = jnp.broadcast_to(one.reshape((1,) * len(shape)), shape)
    output, transpose = jax.vjp(operation, weight)
    (sums,) = transpose(jnp.ones_like(output))
    return sums
