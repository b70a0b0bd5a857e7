"""Released: the statistic of the INSGD authors' published code, to reproduce it."""

import dataclasses
import math

import jax.numpy as jnp
from jaxtyping import Array, Float

from insgd_optax.settings import Number, check_order
from insgd_optax.structures.base import LayerInput, PerFeature, Sums

# The constants of `insgd.py` (2024), which has no names for them.
SMALLEST_DEVIATION = 0.01
DEVIATION_OF_ONE_NUMBER = 0.001
DENSE_OFFSET = 0.1
SMALLEST_DIVISOR = 0.01


@dataclasses.dataclass(frozen=True)
class Released(PerFeature):
    r"""The divisor of the authors' released PyTorch code; see `insgd_optax.released`.

    Each example is standardized separately. A dense layer's input is standardized over its
    features, a convolution's over the positions of each channel (unbiased deviation, at least
    0.01):

    .. math::
      P = \mathbb{E} \textstyle\sum_j |z_j|^p, \qquad G \leftarrow G / \max(\log P, 0.01)

    A dense layer has one value, and 0.1 is added to its ``P``. A convolution has one value per
    input channel. With ``order=2``, ``P`` depends on the input's shape but not on its data: the
    squares of ``n`` standardized values add up to ``n - 1``.

    >>> P = jnp.array([[jnp.e, jnp.e]])                    # of two inputs
    >>> Released().factor(P, -1, 0.0, level=P[:, 0]).round(6).tolist()
    [[1.0, 1.0]]

    A channel with one position, or a constant one, has ``P = 0`` and takes a step that is 100 times
    larger. The released code does this, but the paper does not describe it.

    Attributes:
      order: 1 or 2, the p above.

    Raises:
      ValueError: if the order is not 1 or 2.

    References:
      https://github.com/SalihFurkan/INSGD, `insgd.py`.
    """

    order: int = 2

    def __post_init__(self) -> None:
        check_order(self.order)

    def observe(self, seen: LayerInput) -> Sums:
        values, examples, positions, times = seen.signals()
        last, start = values.ndim - positions, values.ndim - positions - examples
        powers = jnp.abs(_standardized(values, tuple(range(last, values.ndim)))) ** self.order
        powers = powers.sum(axis=range(last, values.ndim))
        powers = powers if seen.has_positions else powers + DENSE_OFFSET
        channels = powers.sum(axis=range(start, last)).reshape(seen.groups, -1)
        count = times * math.prod(values.shape[start:last])
        return seen.per_input(times * channels), jnp.broadcast_to(count, (seen.groups,))

    def factor(
        self,
        power: Float[Array, "groups inputs"],
        exponent: Number,
        eps: Number,
        level: Float[Array, " groups"],
    ) -> Float[Array, "groups inputs"]:
        del eps, level  # replaced by the released code's constants
        return jnp.maximum(jnp.log(power), SMALLEST_DIVISOR) ** jnp.asarray(exponent, power.dtype)


def _standardized(signals: Float[Array, "..."], axes: tuple[int, ...]) -> Float[Array, "..."]:
    """Shifts and scales to mean 0 and unbiased deviation 1 over the positions."""
    centered = signals - signals.mean(axis=axes, keepdims=True)
    if (positions := math.prod(signals.shape[axis] for axis in axes)) < 2:
        return centered / DEVIATION_OF_ONE_NUMBER  # the unbiased deviation is 0 / 0
    variance = jnp.sum(centered**2, axis=axes, keepdims=True) / (positions - 1)
    return centered / jnp.maximum(jnp.sqrt(variance), SMALLEST_DEVIATION)
