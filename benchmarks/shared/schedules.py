"""Schedules of the learning rate, as shares of its peak."""

from collections.abc import Callable

import optax

# Each maps the number of steps to a schedule of shares.
SCHEDULES: dict[str, Callable[[int], optax.Schedule]] = {
    "constant": lambda steps: optax.constant_schedule(1.0),
    "cosine": lambda steps: optax.cosine_decay_schedule(1.0, steps),
}
