"""Settings: their type, and checks whose errors name the setting."""

import math
import numbers

from jaxtyping import Array, Float

# A setting, possibly traced (`optax.inject_hyperparams`).
Number = int | float | Float[Array, ""]


def is_off(setting: object) -> bool:
    """Whether a setting is known to be zero. Traced ones and schedules cannot be compared."""
    return isinstance(setting, int | float) and setting == 0


def check_between(
    name: str, setting: object, least: int | float, most: int | float = math.inf
) -> None:
    """Raises a ValueError for a number out of its range. Traced ones cannot be compared.

    Text raises a TypeError, because NumPy would read it as a number.
    """
    if isinstance(setting, str):
        raise TypeError(f"{name} must be a number, not {setting!r}.")
    if isinstance(setting, numbers.Real) and not least <= float(setting) <= most:
        bounds = f"at least {least}" if most == math.inf else f"from {least} to {most}"
        raise ValueError(f"{name} must be {bounds}, not {setting}.")


def check_is_static(name: str, setting: object) -> None:
    """Raises a TypeError unless a setting that decides the trace is a Python number."""
    if isinstance(setting, bool) or not isinstance(setting, numbers.Real):
        raise TypeError(
            f"{name} must be a Python number, not {type(setting).__name__}. With "
            f"optax.inject_hyperparams pass static_args=('{name}',)."
        )


def check_is_count(name: str, setting: object) -> None:
    """Raises a TypeError unless it is a Python integer, and a ValueError if it is below 1."""
    check_is_static(name, setting)
    if not isinstance(setting, numbers.Integral):
        raise TypeError(f"{name} must be an integer, not {setting}.")
    check_between(name, setting, 1)


def check_order(order: object) -> None:
    """Raises unless the order is 1 or 2."""
    check_is_static("order", order)
    if order not in (1, 2):
        raise ValueError(f"order must be 1 (the l1 norm) or 2 (the l2 norm), not {order!r}.")
