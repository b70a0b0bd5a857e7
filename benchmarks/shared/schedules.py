"""Schedules of the learning rate, as shares of its peak."""

from collections.abc import Callable

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

# Each maps the number of steps to a schedule of shares.
SCHEDULES: dict[str, Callable[[int], optax.Schedule]] = {
    "constant": lambda steps: optax.constant_schedule(1.0),
    "cosine": lambda steps: optax.cosine_decay_schedule(1.0, steps),
}


def scaled(
    peak: float | Float[Array, ""], place: int | Int[Array, ""], steps: int
) -> optax.Schedule:
    """The schedule at this place in `SCHEDULES`, times its peak.

    Both may be traced, so that one program serves all schedules and rates.
    """
    shapes = [shape(steps) for shape in SCHEDULES.values()]
    return lambda count: peak * jnp.stack([shape(count) for shape in shapes])[place]
