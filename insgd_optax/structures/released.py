"""Released: the statistic of the INSGD authors' published code, kept to reproduce it."""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Float

from insgd_optax.structures.base import LayerInput, Number, Sums, check_order

# The constants of `insgd.py` (2024), which names none of them.
SMALLEST_DEVIATION = 0.01
DEVIATION_OF_ONE_NUMBER = 0.001
DENSE_OFFSET = 0.1
SMALLEST_DIVISOR = 0.01


@dataclasses.dataclass(frozen=True)
class Released:
    r"""What the authors' released PyTorch code divides by; see `insgd_optax.released`.

    Every example is standardized by itself, over the features of a dense layer, or over the
    positions of each channel of a convolution's input (unbiased deviation, at least 0.01):

    .. math::
      P = \mathbb{E} \textstyle\sum_j |z_j|^p, \qquad G \leftarrow G / \max(\log P, 0.01)

    with one number for a dense layer, whose ``P`` is 0.1 larger, and one for every input channel
    of a convolution. With ``order=2`` it depends on the shape of the input and not on the data:
    ``n`` standardized numbers have squares that add up to ``n - 1``.

    >>> P = jnp.array([[jnp.e, jnp.e]])                    # of two inputs
    >>> Released().normalize(P, jnp.ones((1, 2, 1)), eps=0.0).ravel().round(6).tolist()
    [1.0, 1.0]

    A channel of one position, or one that is constant, has ``P = 0`` and takes a step that is 100
    times larger. That is the released code's behavior, and not one that the paper describes.

    Attributes:
      order: 1 or 2, the p above.

    Raises:
      ValueError: if the order is another one.

    References:
      https://github.com/SalihFurkan/INSGD, `insgd.py`.
    """

    order: int = 2

    def __post_init__(self) -> None:
        check_order(self.order)

    def shape(self, groups: int, inputs: int) -> tuple[int, ...]:
        return groups, inputs

    def observe(self, seen: LayerInput) -> Sums:
        signals, times = seen.signals()
        powers = jnp.sum(jnp.abs(_standardized(signals)) ** self.order, axis=3)
        powers = powers if seen.has_positions else powers + DENSE_OFFSET
        sums = times[:, None] * powers.sum(axis=1)
        return seen.per_input(sums), times * signals.shape[1]

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
        del eps  # the released code has constants of its own
        return gradient / jnp.maximum(jnp.log(power), SMALLEST_DIVISOR)[:, :, None]


def _standardized(
    signals: Float[Array, "groups examples channels positions"],
) -> Float[Array, "groups examples channels positions"]:
    """Every example's channel with mean 0 and unbiased deviation 1 over its positions."""
    centered = signals - signals.mean(axis=3, keepdims=True)
    if (positions := signals.shape[3]) < 2:  # where the unbiased deviation is 0 / 0
        return centered / DEVIATION_OF_ONE_NUMBER
    variance = jnp.sum(centered**2, axis=3, keepdims=True) / (positions - 1)
    return centered / jnp.maximum(jnp.sqrt(variance), SMALLEST_DEVIATION)
