"""Scalar: one power per layer, as in normalized LMS."""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Float, Inexact

from insgd_optax.numerics import safe_power
from insgd_optax.settings import Number, check_order
from insgd_optax.structures.base import EveryUpdate, LayerInput, Sums


@dataclasses.dataclass(frozen=True)
class Scalar(EveryUpdate):
    r"""Replaces ``A`` by its nearest multiple of the identity, ``(tr A / n) I``.

    .. math::
      A^{-1} G \approx G / P, \qquad P = \tfrac{1}{n} \mathbb{E} \lVert x \rVert_2^2

    ``P`` is the mean square of the layer's input. On inputs of unit mean square this is SGD, with
    SGD's learning rate. Normalized LMS divides by ``n P``, so its step size is ``n`` times a
    learning rate here. State: one value per group.

    >>> power = jnp.array([2.0])                             # one row, squares 1 and 3
    >>> factor = Scalar().factor(power, exponent=-1, eps=0.0, level=power)
    >>> Scalar().apply(factor, jnp.ones((1, 2, 1))).ravel().tolist()
    [0.5, 0.5]

    Attributes:
      order: 2 keeps the mean square. 1 keeps the mean magnitude ``E‖x‖₁ / n`` instead, as in the
        paper's INSGD-l1; the step then depends on the unit of the input.

    Raises:
      ValueError: if the order is not 1 or 2.

    References:
      Sayed, *Fundamentals of Adaptive Filtering* (2003), section 5.6 (normalized LMS). Atici, Pan
      and Cetin (TMLR 2024) for order 1.
    """

    order: int = 2

    def __post_init__(self) -> None:
        check_order(self.order)

    def shape(self, groups: int, inputs: int) -> tuple[int, ...]:
        del inputs
        return (groups,)

    def work(self, rows: int, inputs: int, outputs: int, uses: int = 1) -> float:
        del uses
        return float(rows * inputs + inputs * outputs)

    def observe(self, seen: LayerInput) -> Sums:
        sums, count = seen.sums(self.order)
        return sums.mean(axis=1), count

    def feature_power(self, power: Float[Array, " groups"]) -> Float[Array, "groups 1 1"]:
        return power[:, None, None]

    def guarded(
        self, history: Float[Array, " groups"], batch: Float[Array, " groups"]
    ) -> tuple[Float[Array, " groups"], Float[Array, " groups"]]:
        return jnp.maximum(history, batch), jnp.ones_like(history)

    def factor(
        self,
        power: Float[Array, " groups"],
        exponent: Number,
        eps: Number,
        level: Float[Array, " groups"],
    ) -> Float[Array, " groups"]:
        del power, eps  # the level is the only power
        return safe_power(level, exponent)

    def apply(
        self, factor: Float[Array, " groups"], gradient: Inexact[Array, "groups inputs outputs"]
    ) -> Inexact[Array, "groups inputs outputs"]:
        return gradient * factor[:, None, None]
