"""MeanVariances: a layer's mean input and the variance of each feature."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Inexact

from insgd_optax.layout import Layout
from insgd_optax.numerics import safe_power
from insgd_optax.settings import Number, check_between, check_is_static
from insgd_optax.structures.base import (
    ELEMENTWISE_COST,
    EveryUpdate,
    LayerInput,
    Structure,
    Sums,
)
from insgd_optax.structures.frequency import Frequency


@dataclasses.dataclass(frozen=True)
class MeanVariances(EveryUpdate):
    r"""Replaces ``A`` by the variances of the features and the outer product of their mean.

    .. math::
      A \approx \frac{\operatorname{diag}(\sigma_i^2) + \lambda \bar P I + m m^\top}{1 + \lambda},
      \qquad m = \mathbb{E}\, x, \quad \sigma_i^2 = \max(\mathbb{E}\, x_i^2 - m_i^2, 0)

    Pixels and the inputs of a layer behind a ReLU have a large mean. It is the one direction that
    limits the learning rate, and no diagonal captures it. The inverse has a closed form
    (Sherman-Morrison). So the cost is that of `Diagonal`, plus one product of a vector and a
    matrix. With :math:`A = D + m m^\top` and :math:`q = D^{-1/2} m`, the power is

    .. math::
      D^{p/2} \left(I + \frac{(1 + \lVert q \rVert^2)^p - 1}{\lVert q \rVert^2}\, q q^\top \right)
      D^{p/2},

    which is exact for the exponents -1, 0 and 1. It is exact for any exponent if the variances are
    equal. State: two values per feature. The input of a lookup is one-hot, so it gets `Frequency`.
    Complex inputs count as having no mean.

    >>> moments = jnp.array([[2.0, 0.0, 5.0, 1.0]])          # m = (2, 0), squares 5, 1: σ² = 1, 1
    >>> structure = MeanVariances(damping=0.0)
    >>> factor = structure.factor(moments, exponent=-1, eps=0.0, level=jnp.array([3.0]))
    >>> solved = structure.apply(factor, jnp.ones((1, 2, 1)))
    >>> [round(float(u), 6) for u in solved.ravel()]         # 1 / (1 + 4) and 1 / 1
    [0.2, 1.0]

    Attributes:
      damping: :math:`\lambda`, without unit.

    Raises:
      ValueError: if the damping is negative.

    References:
      Sherman and Morrison (1950). Zhang et al., "Eva" (ICLR 2023), and "MAC" (2025) keep the mean
      alone.
    """

    damping: int | float = 1.0

    def __post_init__(self) -> None:
        check_is_static("damping", self.damping)
        check_between("damping", self.damping, 0)

    @property
    def order(self) -> int:
        return 2

    def for_layer(self, layout: Layout) -> Structure:
        return Frequency() if layout.one_hot else self

    def shape(self, groups: int, inputs: int) -> tuple[int, ...]:
        return groups, 2 * inputs

    def work(self, rows: int, inputs: int, outputs: int, uses: int = 1) -> float:
        del uses
        elementwise = ELEMENTWISE_COST * (2 * inputs + inputs * outputs)
        return float(elementwise + 2 * rows * inputs + 2 * inputs * outputs)

    def observe(self, seen: LayerInput) -> Sums:
        squares, count = seen.sums(self.order)
        return jax.lax.concatenate([seen.first_sums(), squares], 1), count

    def feature_power(self, power: Float[Array, "groups _"]) -> Float[Array, "groups inputs 1"]:
        return _halves(power)[1][:, :, None]

    def squared_mean(self, power: Float[Array, "groups _"]) -> Float[Array, " groups"]:
        return jnp.sum(_halves(power)[0] ** 2, axis=1)

    def squared_norm(self, power: Float[Array, "groups _"]) -> Float[Array, " groups"]:
        mean, squares = _halves(power)
        # The diagonal is that of A. All other entries are products of two means.
        beside = self.squared_mean(power) ** 2 - jnp.sum(mean**4, axis=1)
        return jnp.sum(squares**2, axis=1) + beside

    def guarded(
        self, history: Float[Array, "groups _"], batch: Float[Array, "groups _"]
    ) -> tuple[Float[Array, "groups _"], Float[Array, " groups"]]:
        """The larger squares, and a mean at least as long as the batch mean along it."""
        (mean, squares), (batch_mean, batch_squares) = _halves(history), _halves(batch)
        along = jnp.sum(mean * batch_mean, axis=1, keepdims=True)
        reach = jnp.maximum(along * safe_power(jnp.sum(mean**2, axis=1, keepdims=True), -1), 1)
        both = [reach * mean, jnp.maximum(squares, batch_squares)]
        return jnp.concatenate(both, axis=1), jnp.ones_like(along[:, 0])

    def factor(
        self,
        power: Float[Array, "groups _"],
        exponent: Number,
        eps: Number,
        level: Float[Array, " groups"],
    ) -> Float[Array, "groups _"]:
        del eps  # replaced by the damping
        # Relative to the mean square, as powers of a tiny variance would leave float32.
        mean, squares = _halves(power)
        mean = mean * safe_power(level, -0.5)[:, None]
        variances = jnp.maximum(squares * safe_power(level, -1)[:, None] - mean**2, 0)
        damped = (variances + self.damping) / (1 + self.damping)
        mean = mean / jnp.sqrt(jnp.asarray(1 + self.damping, mean.dtype))
        length = jnp.sum(mean**2 * safe_power(damped, -1), axis=1, keepdims=True)
        along = jnp.expm1(exponent * jnp.log1p(length)) * safe_power(length, -1)
        unit = safe_power(level, exponent)[:, None]
        diagonal = safe_power(damped, exponent)
        turned = mean * safe_power(damped, (exponent - 1) / 2)
        return jnp.concatenate([unit * diagonal, turned, unit * along], axis=1)

    def apply(
        self, factor: Float[Array, "groups _"], gradient: Inexact[Array, "groups inputs outputs"]
    ) -> Inexact[Array, "groups inputs outputs"]:
        diagonal, turned = _halves(factor[:, :-1])
        # A matrix product, because XLA sums over a middle axis a hundred times slower.
        along = jnp.einsum("gi,gio->go", turned, gradient, precision=jax.lax.Precision.HIGHEST)
        inner = (factor[:, -1:] * turned)[:, :, None] * along[:, None, :]
        return diagonal[:, :, None] * gradient + inner


def _halves(kept: Float[Array, "groups _"]) -> tuple[Array, Array]:
    inputs = kept.shape[1] // 2
    return kept[:, :inputs], kept[:, inputs:]
