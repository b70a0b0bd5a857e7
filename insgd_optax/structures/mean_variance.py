"""MeanVariance: a layer's mean input and its mean variance, a rank-one second moment."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Inexact

from insgd_optax.numerics import safe_power
from insgd_optax.settings import Number
from insgd_optax.structures.base import ELEMENTWISE_COST, EveryUpdate, LayerInput, Sums


@dataclasses.dataclass(frozen=True)
class MeanVariance(EveryUpdate):
    r"""Replaces ``A`` by the mean input's outer product and the features' mean variance.

    .. math::
      A \approx \sigma^2 I + m m^\top, \qquad
      m = \mathbb{E}\, x, \quad \sigma^2 = \tfrac{1}{n} \mathbb{E} \lVert x - m \rVert^2

    Inputs behind a ReLU have a large mean. This is the one direction that limits the learning rate.
    The power of ``A`` has a closed form (Sherman-Morrison for -1). The mean's direction has the
    eigenvalue :math:`\sigma^2 + \lVert m \rVert^2` and all others have :math:`\sigma^2`. ``eps``
    pulls both to their mean, as in `Diagonal`. State: one value per feature plus one.

    >>> moments = jnp.array([[2.0, 0.0, 3.0]])               # m = (2, 0), E‖x‖² / 2 = 3: σ² = 1
    >>> factor = MeanVariance().factor(moments, exponent=-1, eps=0.0, level=moments[:, -1])
    >>> relative = MeanVariance().apply(factor, jnp.ones((1, 2, 1)))
    >>> [round(float(u) / 3, 6) for u in relative.ravel()]   # 1 / (1 + 4) and 1 / 1
    [0.2, 1.0]

    References:
      Sherman and Morrison (1950) for the inverse; a rank-one instance of recursive least squares.
    """

    @property
    def order(self) -> int:
        return 2

    def shape(self, groups: int, inputs: int) -> tuple[int, ...]:
        return groups, inputs + 1

    def work(self, rows: int, inputs: int, outputs: int, uses: int = 1) -> float:
        del uses
        elementwise = ELEMENTWISE_COST * (inputs + inputs * outputs)
        return float(elementwise + 2 * rows * inputs + 2 * inputs * outputs)

    def observe(self, seen: LayerInput) -> Sums:
        squares, count = seen.sums(self.order)
        mean_square = squares.mean(axis=1, keepdims=True)
        return jnp.concatenate([seen.first_sums(), mean_square], axis=1), count

    def feature_power(self, power: Float[Array, "groups _"]) -> Float[Array, "groups inputs 1"]:
        squares = power[:, :-1] ** 2
        variance = jnp.maximum(power[:, -1] - jnp.mean(squares, axis=1), 0)
        return (squares + variance[:, None])[:, :, None]

    def squared_mean(self, power: Float[Array, "groups _"]) -> Float[Array, " groups"]:
        return jnp.sum(power[:, :-1] ** 2, axis=1)

    def squared_norm(self, power: Float[Array, "groups _"]) -> Float[Array, " groups"]:
        length, inputs = self.squared_mean(power), power.shape[1] - 1
        variance = jnp.maximum(power[:, -1] - length / inputs, 0)
        return (inputs - 1) * variance**2 + (variance + length) ** 2

    def guarded(
        self, history: Float[Array, "groups _"], batch: Float[Array, "groups _"]
    ) -> tuple[Float[Array, "groups _"], Float[Array, " groups"]]:
        return history, jnp.maximum(history[:, -1], batch[:, -1])

    def factor(
        self,
        power: Float[Array, "groups _"],
        exponent: Number,
        eps: Number,
        level: Float[Array, " groups"],
    ) -> Float[Array, "groups _"]:
        # Relative to the mean square, as powers of a tiny variance would leave float32.
        mean = power[:, :-1] * safe_power(level, -0.5)[:, None]
        length = jnp.sum(mean**2, axis=1)
        square = power[:, -1] * safe_power(level, -1)
        across = (jnp.maximum(square - length / mean.shape[1], 0) + eps) / (1 + eps)
        along = across + length / (1 + eps)
        others = safe_power(across, exponent)
        rank_one = (safe_power(along, exponent) - others) * safe_power(length, -1)
        return jnp.concatenate([mean, others[:, None], rank_one[:, None]], axis=1)

    def apply(
        self, factor: Float[Array, "groups _"], gradient: Inexact[Array, "groups inputs outputs"]
    ) -> Inexact[Array, "groups inputs outputs"]:
        mean, others, rank_one = factor[:, :-2], factor[:, -2], factor[:, -1]
        # A matrix product, because XLA sums over a middle axis a hundred times slower.
        along = jnp.einsum("gi,gio->go", mean, gradient, precision=jax.lax.Precision.HIGHEST)
        inner = (rank_one[:, None] * mean)[:, :, None] * along[:, None, :]
        return others[:, None, None] * gradient + inner
