"""Diagonal: one power a feature, as in transform-domain LMS."""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Float

from insgd_optax.structures.base import LayerInput, Number, Sums, safe_reciprocal


@dataclasses.dataclass(frozen=True)
class Diagonal:
    r"""Replaces ``A`` by its diagonal: every feature's gradient is divided by its own power.

    .. math::
      (A^{-1} G)_i \approx G_i / D_i, \qquad
      D_i = \frac{P_i + \varepsilon \bar P}{1 + \varepsilon}, \qquad
      P_i = \mathbb{E}\, x_i^2, \quad \bar P = \tfrac{1}{n} \textstyle\sum_i P_i

    The shrinkage ``eps`` is relative, so it has no unit and the step stays equivariant to the
    scale of the input; without it a feature that is nearly always zero would take huge steps. As
    ``eps`` grows this becomes `Scalar`. State: one number a feature.

    >>> power = jnp.array([[1.0, 3.0]])                      # one row, squares 1 and 3
    >>> Diagonal().normalize(power, jnp.ones((1, 2, 1)), eps=0.0).ravel().round(3).tolist()
    [1.0, 0.333...]
    >>> Diagonal().normalize(power, jnp.ones((1, 2, 1)), eps=1.0).ravel().tolist()
    [0.666..., 0.4...]

    References:
      Narayan, Peterson, Narasimha, "Transform domain LMS algorithm", IEEE TASSP 31 (1983).
    """

    @property
    def order(self) -> int:
        return 2

    def shape(self, groups: int, inputs: int) -> tuple[int, ...]:
        return groups, inputs

    def observe(self, seen: LayerInput) -> Sums:
        return seen.sums(self.order)

    def feature_power(
        self, power: Float[Array, "groups inputs"]
    ) -> Float[Array, "groups inputs 1"]:
        return power[:, :, None]

    def normalize(
        self,
        power: Float[Array, "groups inputs"],
        gradient: Float[Array, "groups inputs outputs"],
        eps: Number,
    ) -> Float[Array, "groups inputs outputs"]:
        layer_power = jnp.mean(power, axis=1, keepdims=True)
        shrunk = (power + eps * jnp.broadcast_to(layer_power, power.shape)) / (1 + eps)
        return gradient * safe_reciprocal(shrunk)[:, :, None]
