"""Frequency: how often each row of a table is read."""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Float

from insgd_optax.numerics import safe_power
from insgd_optax.settings import Number, check_between, check_is_static
from insgd_optax.structures.diagonal import Diagonal


@dataclasses.dataclass(frozen=True)
class Frequency(Diagonal):
    r"""Divides the gradient of each table row by the root of the row's frequency.

    .. math::
      (A^{-1} G)_i \approx G_i / \sqrt{\bar f f_i}, \qquad
      f_i = \mathbb{E}\, x_i^2, \quad \bar f = \tfrac{1}{n} \textstyle\sum_i f_i

    The input of a lookup is one-hot, so the mean square of feature i is the frequency of row i.
    `Diagonal` divides by the frequency itself. A row that is read once in a thousand batches then
    takes a step of a thousand times its share, from one example. The root is the division by
    :math:`\lVert x \rVert` of the INSGD project page, and also the effect of Adam on a row. With
    the usual ``eps`` of 0.01, rows below a hundredth of the mean frequency count as about that.

    Only the history is used, as a batch shows only whether a row was read. The history lasts
    ``memory`` times as long as that of features, since one batch has all features but only a
    few rows. State: one value per row.

    >>> frequency, level = jnp.array([[0.01, 0.81]]), jnp.array([0.41])
    >>> factor = Frequency().factor(frequency, exponent=-1, eps=0.0, level=level)
    >>> [round(float(f) * 0.41**0.5, 4) for f in factor[0]]                # 1 / 0.1 and 1 / 0.9
    [10.0, 1.1111]

    Attributes:
      memory: the history lasts this many times as long as ``decay`` implies.
    """

    memory: int = 50

    def __post_init__(self) -> None:
        check_is_static("memory", self.memory)
        check_between("memory", self.memory, 1)

    def guarded(
        self, history: Float[Array, "groups inputs"], batch: Float[Array, "groups inputs"]
    ) -> tuple[Float[Array, "groups inputs"], Float[Array, " groups"]]:
        del batch
        return history, jnp.ones_like(history[:, 0])

    def factor(
        self,
        power: Float[Array, "groups inputs"],
        exponent: Number,
        eps: Number,
        level: Float[Array, " groups"],
    ) -> Float[Array, "groups inputs"]:
        root = super().factor(power, exponent / 2, eps, level)
        return root * safe_power(level, exponent / 2)[:, None]
