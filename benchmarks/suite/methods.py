"""Methods for rare classes in the loss. All share one program with different numbers."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

PLAIN = "none"


class Method(NamedTuple):
    """Attributes:
    prior: the factor on the log frequency that is added to the logits. 1 is the balanced softmax
      (Ren et al., 2020). Others are temperatures of logit adjustment (Menon et al., 2021).
    frequency: the exponent of class frequency in the weights. 1 weights all classes alike.
    start: the share of the steps before the weights apply. Cao et al. (2019) wait for 0.7.
    """

    prior: float = 0.0
    frequency: float = 0.0
    start: float = 0.0


METHODS = {
    PLAIN: Method(),
    "balanced softmax": Method(prior=1.0),
    "prior ** 1.5": Method(prior=1.5),
    "deferred weights": Method(frequency=1.0, start=0.7),
}


def class_weights(
    log_frequency: Float[np.ndarray, "..."], method: Method, share: Array
) -> Float[Array, "..."]:
    """The weight of every class after this share of the steps. The mean over examples is 1."""
    exponent = jnp.where(share >= method.start, method.frequency, 0.0)
    weights = jnp.exp(-exponent * log_frequency)
    return weights / jnp.sum(jnp.exp(log_frequency) * weights)
