"""Ragged products: experts that each apply a matrix to a separate stretch of the rows."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from insgd_optax.capture.layers.base import Layer, magnitudes, with_a_mean
from insgd_optax.capture.layers.sampling import UNSEEDED, Draw
from insgd_optax.compat import JaxprEqn, shape_of
from insgd_optax.structures import Signals, Sums

# The rows' axis is ragged, their last axis is contracted, and the experts' axis is first.
PLAIN = (((1,), (1,)), ((), ())), (0,), (0,)


def ragged_layer(equation: JaxprEqn) -> Layer | None:
    """The layer of ``jax.lax.ragged_dot``. With other axes it computes a gradient instead."""
    numbers = equation.params["ragged_dot_dimension_numbers"]
    parts = numbers.dot_dimension_numbers, numbers.lhs_ragged_dimensions
    dimensions = _tuples((*parts, numbers.rhs_group_dimensions))
    if dimensions != PLAIN or equation.params.get("group_offset") is not None:
        return None
    groups, inputs, outputs = shape_of(equation.invars[1])
    return Layer("ragged_dot", 1, (0, 2), (), groups, inputs, outputs, _look)


def _look(x: Array, sizes: Array, draw: Draw = UNSEEDED) -> "RaggedInput":
    del draw  # no rows are drawn
    return RaggedInput(x, sizes)


def _tuples(nested: object) -> object:
    return tuple(map(_tuples, nested)) if isinstance(nested, list | tuple) else nested


@dataclasses.dataclass(frozen=True)
class RaggedInput:
    """The rows of all experts, one expert after another.

    Attributes:
      x: the rows.
      sizes: the number of rows of each expert. Rows past the last expert belong to none.
    """

    x: Float[Array, "rows inputs"]
    sizes: Int[Array, " groups"]

    has_positions = False

    @property
    def groups(self) -> int:
        return self.sizes.shape[0]

    @property
    def inputs(self) -> int:
        return self.x.shape[1]

    def sums(self, order: int) -> Sums:
        sums = self._over_rows(magnitudes(self.x, order))
        return sums, self._over_rows(jnp.ones_like(self.x[:, 0], sums.dtype))

    def first_sums(self) -> Float[Array, "groups inputs"]:
        return self._over_rows(with_a_mean(self.x))

    def row_sums(self, order: int) -> Float[Array, "rows 1"]:
        return magnitudes(self.x, order).sum(axis=1, keepdims=True)

    def rows(self, number: int | None) -> Float[Array, "groups rows inputs"]:
        raise TypeError(
            "The experts of ragged_dot see different numbers of rows, so their rows have no full "
            "second moment: use MeanVariances(), MeanVariance(), Diagonal() or Scalar()"
        )

    def products_of_rows(self, cotangent: Array) -> None:
        """None, because shapes do not tell which pairs of rows share an expert."""

    def signals(self) -> Signals:
        raise TypeError("Released() is not defined for ragged_dot: use Scalar()")

    def per_input(self, channels: Float[Array, "groups channels"]) -> Float[Array, "groups inputs"]:
        return jnp.broadcast_to(channels, (self.groups, self.inputs))

    def _over_rows(self, array: Float[Array, "rows *_"]) -> Float[Array, "groups *_"]:
        return jax.ops.segment_sum(array, self._expert, self.groups)

    @functools.cached_property
    def _expert(self) -> Int[Array, " rows"]:
        """The expert of each row."""
        ends = jnp.cumsum(self.sizes)
        places = jnp.arange(self.x.shape[0], dtype=ends.dtype)
        return jnp.searchsorted(ends, places, side="right")
