"""similarity_groups: which of K groups an input belongs to, by its features."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def similarity_groups(
    features: Float[Array, "examples ..."], num_groups: int, seed: int = 0
) -> Int[Array, " examples"]:
    r"""Groups inputs by the sides of random hyperplanes that they lie on.

    Each of :math:`\log_2 K` hyperplanes goes through the mean of the batch, in a random direction
    that is the same in every batch; the sides are the digits of a binary number. Inputs at a small
    angle to each other (seen from the mean) mostly fall into one group.

    >>> features = jnp.array([[1.0, 1.0], [1.1, 1.0], [-1.0, -1.0], [-1.0, -1.2]])
    >>> groups = similarity_groups(features, 4)
    >>> bool(groups[0] == groups[1]), bool(groups[2] == groups[3]), bool(groups[0] == groups[2])
    (True, True, False)

    Args:
      features: raw inputs or a hidden layer's, one example along the first axis. Gradients do not
        flow through them.
      num_groups: K, a power of two.
      seed: of the directions. Another seed groups in another way.

    Returns:
      The group of every example, from 0 to K - 1; -1 where a feature is not finite.

    Raises:
      ValueError: if the number of groups is not a power of two, or there are no features.

    References:
      Charikar, "Similarity estimation techniques from rounding algorithms" (STOC 2002).
    """
    bits = num_groups.bit_length() - 1
    if num_groups != 2**bits:
        raise ValueError(f"num_groups must be a power of two, and is {num_groups}.")
    if features.ndim < 2 or features.size == 0:
        raise ValueError(f"features must be of shape (examples, ...), and are {features.shape}.")
    rows = jax.lax.stop_gradient(features).reshape(len(features), -1).astype(jnp.float32)
    finite = jnp.all(jnp.isfinite(rows), axis=1)
    rows = jnp.where(finite[:, None], rows, 0)
    mean = rows.sum(axis=0) / jnp.maximum(finite.sum(), 1)
    directions = jax.random.normal(jax.random.key(seed), (rows.shape[1], bits), jnp.float32)
    sides = (rows - mean[None]) @ directions > 0
    places = 2 ** jnp.arange(bits, dtype=jnp.int32)
    return jnp.where(finite, sides.astype(jnp.int32) @ places, -1)
