"""Diagonal: one power per feature, as in transform-domain LMS."""

import dataclasses

from jaxtyping import Array, Float

from insgd_optax.numerics import safe_power
from insgd_optax.settings import Number
from insgd_optax.structures.base import LayerInput, PerFeature, Sums


@dataclasses.dataclass(frozen=True)
class Diagonal(PerFeature):
    r"""Replaces ``A`` by its diagonal: each feature's gradient is divided by the feature's power.

    .. math::
      (A^{-1} G)_i \approx G_i / D_i, \qquad
      D_i = \frac{P_i + \varepsilon \bar P}{1 + \varepsilon}, \qquad
      P_i = \mathbb{E}\, x_i^2, \quad \bar P = \tfrac{1}{n} \textstyle\sum_i P_i

    The shrinkage ``eps`` is relative. It has no unit, so the step stays equivariant to the scale of
    the input. Without it, a feature that is nearly always zero would take huge steps. As ``eps``
    grows this becomes `Scalar`. State: one value per feature.

    >>> import jax.numpy as jnp
    >>> power, level = jnp.array([[1.0, 3.0]]), jnp.array([2.0])   # one row, squares 1 and 3
    >>> Diagonal().factor(power, -1, 0.0, level).round(3).tolist()
    [[1.0, 0.333...]]
    >>> Diagonal().factor(power, -1, 1.0, level).tolist()          # 2 / 3 and 2 / 5
    [[0.666..., 0.4...]]

    References:
      Narayan, Peterson and Narasimha, "Transform domain LMS algorithm", IEEE TASSP 31 (1983).
    """

    @property
    def order(self) -> int:
        return 2

    def observe(self, seen: LayerInput) -> Sums:
        return seen.sums(self.order)

    def factor(
        self,
        power: Float[Array, "groups inputs"],
        exponent: Number,
        eps: Number,
        level: Float[Array, " groups"],
    ) -> Float[Array, "groups inputs"]:
        shrunk = (power + eps * level[:, None]) / (1 + eps)
        return safe_power(shrunk, exponent)
