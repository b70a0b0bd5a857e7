"""Schedules of the learning rate, as shares of its peak."""

from collections.abc import Callable

import optax

# From the number of steps to the share at each of them.
SCHEDULES: dict[str, Callable[[int], optax.Schedule]] = {
    "constant": lambda steps: optax.constant_schedule(1.0),
    "cosine": lambda steps: optax.cosine_decay_schedule(1.0, steps),
}
