"""What every kind of layer has: the weight's layout, and an input that can be asked for sums."""

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
    """The input of a layer: what a structure may ask, and what rows and pairs of them say."""

    def row_sums(self, order: int) -> Float[Array, "..."]:
        """Sums of ``|x_i|**order`` over each row's inputs, to broadcast against the output."""
        ...

    def products_of_rows(self, cotangent: Array) -> Float[Array, "groups rows rows"] | None:
        """Of every two rows x and y of one matrix, with the output's cotangents g and h, the
        number ``(x · y) (g · h)``. None where the gradient itself is quicker, or it is not known.
        """
        ...


@dataclasses.dataclass(frozen=True)
class Layer:
    """An equation that applies a weight to an input.

    Attributes:
      equation: the primitive's name.
      weight: which operand is the weight.
      input: which operands say what the input is.
      steps: from the weight operand to ``(groups, inputs, outputs)``, read in order.
      groups, inputs, outputs: those sizes.
      look: from the input operands, and the ``draw`` for drawn rows, to what can be asked about
        them. It follows from the equation's primitive, parameters, shapes and dtypes, and from
        ``weight`` and ``input``: layers with all these in common are looked at by one of them.
      one_hot: whether the input is one-hot.
      is_choice: whether the result may itself be a weight: a matrix that the input chooses.
      strides: for each axis of the result, how far apart its entries lie in ``(groups, outputs)``;
        0 for rows. None where that is not known: then no bias is found.
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
        """What it sees of its input operands, through which no gradient flows."""
        return self.look(*jax.lax.stop_gradient(list(inputs)), draw=draw)


def magnitudes(array: Array, order: int) -> Float[Array, "..."]:
    """``|x|**order`` in float32, or float64 for float64: half precision would overflow."""
    array = wide(array)
    if order == 1:
        return jnp.abs(array)
    if jnp.iscomplexobj(array):
        return jnp.square(jnp.real(array)) + jnp.square(jnp.imag(array))
    return jax.lax.mul(array, array)


def wide(array: Array) -> Array:
    """The numbers of an input in float32, or in float64 for float64."""
    dtype = array.dtype if jnp.iscomplexobj(array) else wide_dtype(array.dtype)
    return as_dtype(array, dtype)


def summed(array: Array, axes: tuple[int, ...], leading: int) -> Array:
    """The array with its axes in another order, summed over some that then come first.

    Traced once a layer: functions of `jax.lax` take a fraction of the time of `jax.numpy`'s.
    """
    if axes != tuple(range(array.ndim)):
        array = jax.lax.transpose(array, axes)
    zero = np.zeros((), array.dtype)
    return jax.lax.reduce(array, zero, jax.lax.add, range(leading)) if leading else array


def with_a_mean(array: Array) -> Float[Array, "..."]:
    """`wide` for a mean. That of complex numbers is not kept, so they are zeros here."""
    array = wide(array)
    return jnp.zeros_like(array.real) if jnp.iscomplexobj(array) else array


def real(array: Array) -> Float[Array, "..."]:
    """`wide` for what has no meaning for complex numbers."""
    if jnp.iscomplexobj(array):
        raise TypeError(
            "a layer has complex inputs, for which this structure is not defined; use "
            "insgd_optax.MeanVariances() or insgd_optax.Diagonal()."
        )
    return wide(array)


def products(rows: Float[Array, "groups rows n"]) -> Float[Array, "groups rows rows"]:
    """The scalar products of every two rows."""
    return jnp.einsum("gri,gsi->grs", rows, rows, precision=jax.lax.Precision.HIGHEST)


def applied_to_ones(
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
