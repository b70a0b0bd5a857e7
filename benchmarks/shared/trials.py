"""Learning rates at an edge, and numbers over seeds as text."""

from collections.abc import Iterable

import numpy as np
from jaxtyping import Float


def at_an_edge(rate: float, tried: Iterable[float]) -> bool:
    """Whether a better learning rate may lie outside the range that was tried."""
    tried = list(tried)
    return rate in (min(tried), max(tried))


def deviation(values: Float[np.ndarray, "seeds"]) -> float:
    """The standard deviation over seeds. 0 for a single one."""
    return float(values.std(ddof=min(1, len(values) - 1)))


def with_spread(values: Float[np.ndarray, "seeds"], digits: int) -> str:
    """The mean and the standard deviation over seeds. A single seed has no spread."""
    if len(values) == 1:
        return f"{values[0]:.{digits}f}"
    return f"{values.mean():.{digits}f} ± {deviation(values):.{digits}f}"
