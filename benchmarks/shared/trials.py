"""Searches of the learning rate, and numbers over seeds as text."""

from collections.abc import Callable, Iterable

import numpy as np
from jaxtyping import Float


def searched(center: float, score: Callable[[float], float]) -> dict[float, float]:
    """Scores of learning rates: four in steps of four, then half and twice the best.

    Every optimizer gets six trials over a range of 256. The center lies between the middle two.
    """
    found = {rate: score(rate) for rate in (center * 4.0**n for n in (-1.5, -0.5, 0.5, 1.5))}
    best = max(found, key=found.__getitem__)
    return found | {rate: score(rate) for rate in (best / 2, best * 2)}


def at_an_edge(rate: float, tried: Iterable[float]) -> bool:
    """Whether a better learning rate may lie outside the range that was tried."""
    tried = list(tried)
    return rate in (min(tried), max(tried))


def deviation(values: Float[np.ndarray, "seeds"]) -> float:
    """The standard deviation over seeds. 0 for a single one."""
    return float(values.std(ddof=min(1, len(values) - 1)))


def with_spread(values: Float[np.ndarray, "seeds"], digits: int) -> str:
    """The mean and the standard deviation over seeds."""
    return f"{values.mean():.{digits}f} ± {deviation(values):.{digits}f}"
